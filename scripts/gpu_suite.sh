#!/usr/bin/env bash
# Everything that needs a GPU, in one call: the tests of tests/gpu, the deformable convolution's backends, iterations of
# training, upscaling, and the cost of all networks. Leaves the log of the tests and JSON files in a folder (default:
# results/gpu_suite). TRAINING='SIZE FRAMES BATCH' sets what is trained with (64x64 15 4), UPSCALING='SIZE FRAMES CHANNELS
# BLOCKS' what is upscaled (180x320 30 64 30, for frames of 1280x720).
#   bash scripts/gpu_suite.sh [FOLDER]
# With PYTHON=... it takes that Python as it is, where PyTorch and this package are installed; otherwise .venv, made anew
# where it is missing. DEVICE=cpu runs the same on the CPU, where the tests skip.
set -euo pipefail
out=$(realpath -m "${1:-results/gpu_suite}")
device=${DEVICE:-cuda}
if [ -n "${PYTHON:-}" ]; then
    python=$PYTHON
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
else
    source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
fi
mkdir -p "$out"
status=0
"$python" -m pytest -rs tests/gpu 2>&1 | tee "$out/tests.log" || status=1
for setting in '180x320 1 1' '64x64 4 8'; do
    read -r size batch groups <<<"$setting"
    "$python" scripts/benchmark_ops.py --device "$device" --size "$size" --batch "$batch" --deform-groups "$groups" \
        --json "$out/ops_$size.json" || status=1
done
# training: precisions, recomputed and compiled steps, against the toolbox's BasicVSR
read -r size frames batch <<<"${TRAINING:-64x64 15 4}"
"$python" scripts/benchmark_training.py --device "$device" --size "$size" --frames "$frames" --batch "$batch" --compile \
    --json "$out/training.json" || status=1
# upscaling: EFAR and BasicVSR through the engine, against the toolbox's BasicVSR
read -r size frames channels blocks <<<"${UPSCALING:-180x320 30 64 30}"
"$python" scripts/benchmark_inference.py --device "$device" --runtimes torch compiled --dtypes float32 bfloat16 float16 \
    --size "$size" --num-frame "$frames" --num-feat "$channels" --num-block "$blocks" \
    --json "$out/upscaling.json" 2>&1 | tee "$out/upscaling.txt" || status=1
# cost at published sizes; the clips only have to be there
"$python" - datasets/gpu_suite <<'PYTHON'
import sys

import cv2
import numpy as np

from pathlib import Path

generator = np.random.default_rng(0)
for kind, size in (('GT', 256), ('BIx4', 64)):
    folder = Path(sys.argv[1]) / kind / 'noise'
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(5):
        cv2.imwrite(str(folder / f'{i:08d}.png'), generator.integers(0, 256, (size, size, 3), np.uint8))
PYTHON
"$python" scripts/benchmark.py --data datasets/gpu_suite --config options/benchmark_Vid4.yml --device "$device" \
    --profile-frames "${FRAMES:-15}" -o "$out/networks" --title 'Cost of the networks' || status=1
exit "$status"
