"""Make low-resolution clips: see `basicsr_plugins.commands.bicubic_lr`, and `--help`."""

from basicsr_plugins.commands.bicubic_lr import main
from basicsr_plugins.errors import run_script

if __name__ == '__main__':
    run_script(main)
