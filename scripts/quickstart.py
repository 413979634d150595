"""Train a small EFAR on demo clips and compare it with bicubic. Run it by `bash scripts/quickstart.sh`."""

import argparse

from basicsr_plugins.benchmark.quickstart import quickstart
from basicsr_plugins.errors import run_script


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--fresh', action='store_true', help='train anew where a trained network is there already')
    return quickstart(parser.parse_args().fresh)


if __name__ == '__main__':
    run_script(main)
