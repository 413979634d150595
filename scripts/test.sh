#!/usr/bin/env bash
# Install what is missing, then run the test suite: all of it on all cores, a file at a time on each. Arguments go to
# pytest, which then runs as it is: bash scripts/test.sh tests/ops -k gradients
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
if [ $# -eq 0 ]; then
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # each core has its own tests
    set -- -n "$(getconf _NPROCESSORS_ONLN)" --dist loadfile --no-loadscope-reorder
    set -- "$@" --max-worker-restart 0 # pytest-xdist 3.8 waits for ever for what a crashed worker has left
fi
exec "$python" -m pytest "$@"
