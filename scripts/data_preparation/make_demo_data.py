"""Make the demo dataset: see `basicsr_plugins.commands.demo_data`, and `--help`."""

from basicsr_plugins.commands.demo_data import main
from basicsr_plugins.errors import run_script

if __name__ == '__main__':
    run_script(main)
