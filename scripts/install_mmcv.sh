#!/usr/bin/env bash
# Build mmcv-full 1.7.2 with its operators for the torch that is installed; 20 to 30 minutes on 2 cores.
#
#   bash scripts/install_mmcv.sh
#
# The environment is $PYTHON, else the active virtual environment, else .venv beside this folder, else python3.
# The operators get CUDA kernels where nvcc and a GPU are found; FORCE_CUDA=1 or FORCE_CUDA=0 decides otherwise.
# MAX_JOBS is the number of compilers at a time. A second run finds the work done and only checks it.
set -euo pipefail

version=1.7.2
root=$(cd "$(dirname "$0")/.." && pwd)

fail() {
    echo "error: $1" >&2
    exit 1
}

if [[ -z ${PYTHON:-} ]]; then
    PYTHON=python3
    [[ -x $root/.venv/bin/python ]] && PYTHON=$root/.venv/bin/python
    [[ -x ${VIRTUAL_ENV:-}/bin/python ]] && PYTHON=$VIRTUAL_ENV/bin/python
fi

# Exit code 0: mmcv's operator gives torchvision's numbers, gradients too. 3: mmcv or its operators cannot be imported.
check() {
    "$PYTHON" -W ignore - <<'PY'
import sys

import torch
import torchvision

try:
    import mmcv
    from mmcv.ops import get_compiling_cuda_version, modulated_deform_conv2d
except ImportError as error:
    print(f'mmcv with operators is not there: {error}')
    sys.exit(3)

with_cuda = torch.cuda.is_available() and get_compiling_cuda_version() != 'not available'
device = 'cuda' if with_cuda else 'cpu'
generator = torch.Generator().manual_seed(0)


def random(*shape):
    return torch.randn(*shape, generator=generator).to(device).requires_grad_()


x, weight, bias = random(2, 8, 9, 11), random(6, 8, 3, 3), random(6)
offset, mask = random(2, 4 * 18, 9, 11), random(2, 4 * 9, 9, 11)
ours = modulated_deform_conv2d(x, offset, mask, weight, bias, 1, 1, 1, 1, 4)
theirs = torchvision.ops.deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
inputs = (x, offset, mask, weight, bias)
pairs = [(ours, theirs), *zip(torch.autograd.grad(ours.sum(), inputs), torch.autograd.grad(theirs.sum(), inputs))]
difference = max(float(((a - b).abs().max() / b.abs().max()).detach()) for a, b in pairs)
print(f'mmcv {mmcv.__version__}, torch {torch.__version__}, {device}: largest difference to torchvision {difference:.1e}')
sys.exit(difference > 1e-4)
PY
}

command -v "$PYTHON" >/dev/null || fail "no Python at '$PYTHON': set PYTHON to the interpreter whose torch mmcv is for"
"$PYTHON" -c 'import torch, torchvision' 2>/dev/null || fail "$PYTHON has no torch and torchvision: install them first"

code=0
check || code=$?
[[ $code == 0 ]] && exit 0
[[ $code == 3 ]] || fail "the mmcv that $PYTHON imports does not work: uninstall it (pip uninstall mmcv mmcv-full), then run this again"

for other in mmcv mmcv-lite; do
    "$PYTHON" -m pip show --quiet "$other" 2>/dev/null && fail "$other is installed without operators: uninstall it first"
done
"$PYTHON" -m pip --version >/dev/null 2>&1 || fail "$PYTHON has no pip: run '$PYTHON -m ensurepip' first"
command -v "${CXX:-g++}" >/dev/null || fail "no C++ compiler '${CXX:-g++}': install one (Debian, Ubuntu: apt install g++) or set CXX"
include=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[[ -e $include/Python.h ]] || fail "$include/Python.h is not there: install the Python headers (Debian, Ubuntu: apt install python3-dev)"

# setup.py writes -std=c++17 whatever the torch, and torch refuses a standard older than its own headers need. With no
# -std at all, torch's extension builder adds the right one. torch 1.x builds as it is.
standard=$("$PYTHON" - <<'PY'
import inspect
import re

import torch
from torch.utils import cpp_extension

flags = re.findall(r'c\+\+(\d\d)', inspect.getsource(cpp_extension.BuildExtension))
print('as it is' if torch.__version__.startswith('1.') else 'c++' + max(flags, default='17'))
PY
)
if [[ $standard != 'as it is' ]]; then
    echo | "${CXX:-g++}" -std="$standard" -fsyntax-only -x c++ - 2>/dev/null ||
        fail "this torch needs a compiler that knows -std=$standard, and '${CXX:-g++}' does not: install a newer one or set CXX"
fi

if [[ -z ${FORCE_CUDA:-} ]]; then
    FORCE_CUDA=$("$PYTHON" - 2>/dev/null <<'PY'
import torch
from torch.utils.cpp_extension import CUDA_HOME

print(int(torch.cuda.is_available() and CUDA_HOME is not None))
PY
)
fi
export FORCE_CUDA MMCV_WITH_OPS=1
# setup.py asks for nvcc as soon as torch sees a GPU.
[[ $FORCE_CUDA == 1 ]] || export CUDA_VISIBLE_DEVICES=
echo "building mmcv-full $version for $("$PYTHON" -c 'import torch; print("torch", torch.__version__)'), $standard, CUDA kernels: $FORCE_CUDA"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# setup.py imports pkg_resources, which setuptools 81 dropped: the build tools go to a folder of their own, so that the
# environment keeps its setuptools.
"$PYTHON" -m pip install --quiet --target "$work/tools" 'setuptools<81' wheel ninja psutil ||
    fail "the build tools (setuptools, wheel, ninja, psutil) could not be installed: see pip's message above"
export PYTHONPATH="$work/tools${PYTHONPATH:+:$PYTHONPATH}" PATH="$work/tools/bin:$PATH"

"$PYTHON" -m pip download --quiet --no-deps --no-build-isolation --no-binary mmcv-full --dest "$work" "mmcv-full==$version" ||
    fail "the source of mmcv-full $version could not be fetched: see pip's message above"
tar -xzf "$work/mmcv-full-$version.tar.gz" -C "$work"
source=$work/mmcv-full-$version
if [[ $standard != 'as it is' ]]; then
    sed -i "s/'-std=c++1[47]'//g" "$source/setup.py"
fi

"$PYTHON" -m pip wheel --no-deps --no-build-isolation --wheel-dir "$work/wheel" -v "$source" >"$work/build.log" 2>&1 || {
    grep -m 5 -E 'error|Error' "$work/build.log" >&2 || tail -20 "$work/build.log" >&2
    cp "$work/build.log" "${TMPDIR:-/tmp}/mmcv-full-build.log"
    fail "mmcv-full did not build: the whole log is ${TMPDIR:-/tmp}/mmcv-full-build.log"
}
unset PYTHONPATH
# Forced, because one that was built for another torch has the same version; then what it needs and is not there yet.
"$PYTHON" -m pip install --quiet --force-reinstall --no-deps "$work"/wheel/mmcv_full-*.whl &&
    "$PYTHON" -m pip install --quiet "$work"/wheel/mmcv_full-*.whl || fail "the built wheel could not be installed: see pip's message above"

cd "$work" # away from any mmcv folder that lies where we were called
check || fail "mmcv-full was built, but it does not give torchvision's numbers"
