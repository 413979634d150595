"""Upscale a video of any length, or a folder of images; `--help` and `basicsr_plugins/commands/upscale.py` say how."""

from basicsr_plugins.commands.upscale import main
from basicsr_plugins.errors import run_script

if __name__ == '__main__':
    run_script(main)
