#!/usr/bin/env bash
# Install what is missing, then run the test suite. Arguments go to pytest: bash scripts/test.sh tests/ops -k gradients
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
exec "$python" -m pytest "$@"
