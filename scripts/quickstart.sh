#!/usr/bin/env bash
# Install what is missing, then make demo clips, train a small EFAR on them and compare it with bicubic on held-out ones.
# `--fresh` trains anew where a trained network is there already.
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"
exec "$python" -m basicsr_plugins quickstart "$@"
