"""Pack clips into LMDBs: see `basicsr_plugins.commands.lmdb`, and `--help`."""

from basicsr_plugins.commands.lmdb import main
from basicsr_plugins.errors import run_script

if __name__ == '__main__':
    run_script(main)
