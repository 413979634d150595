#!/usr/bin/env bash
# Run all drills and print one table of how they ended: bash scripts/drills.sh [KILLS [DAMAGED [OPTION_FILES]]]
# 20 kills, 100 damaged files and 100 mutated option files take some 80 minutes on two cores. What went wrong is
# printed too, and the exit code is then not 0.
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
kills=${1:-20} damaged=${2:-100} option_files=${3:-100} status=0
export OMP_NUM_THREADS=1
echo '| what | how it ended | times |'
echo '|---|---|---|'
"$python" scripts/drills/upscaling.py --kills "$kills" --twice $((kills / 2)) --full "$kills" || status=1
"$python" scripts/drills/training.py --kills "$kills" --twice $((kills / 4)) --full $((kills / 4)) || status=1
for what in packing benchmark; do
    "$python" "scripts/drills/$what.py" --kills $((kills / 2)) --twice $((kills / 4)) --full $((kills / 4)) || status=1
done
"$python" scripts/drills/damage.py --count "$damaged" || status=1
"$python" scripts/drills/options.py --count "$option_files" || status=1
exit "$status"
