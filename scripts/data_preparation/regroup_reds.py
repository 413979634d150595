"""Regroup REDS: see `basicsr_plugins.commands.regroup_reds`, and `--help`."""

from basicsr_plugins.commands.regroup_reds import main
from basicsr_plugins.errors import run_script

if __name__ == '__main__':
    run_script(main)
