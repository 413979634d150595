"""Make the demo dataset (REDS layout, known motion) from the photographs that ship with scikit-image."""

import argparse

from basicsr_plugins.data.demo_data import make_demo_data
from basicsr_plugins.errors import run_script


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--root', default='datasets/demo', help='folder of the dataset (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='another seed gives other motion (default: %(default)s)')
    args = parser.parse_args()
    made = make_demo_data(args.root, args.seed)
    print(f'{args.root}: {"made" if made else "already there and whole"}')


if __name__ == '__main__':
    run_script(main)
