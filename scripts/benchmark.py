"""Compare networks: `basicsr-plugins benchmark` as a script, for torchrun."""

from basicsr_plugins.commands.benchmark import main
from basicsr_plugins.errors import run_script

if __name__ == '__main__':
    run_script(main)
