"""`python -m basicsr_plugins` is the command `basicsr-plugins`."""

from basicsr_plugins.commands import run

if __name__ == '__main__':
    run()
