"""Train EFAR, BasicVSR, MSFFN and EDVR alike on the demo clips and benchmark them on clips that none has seen.

    python scripts/compare_networks.py --spynet experiments/pretrained_models/flownet/spynet_sintel_final-3d2a1287.pth \
        --vid4 datasets/Vid4

Runs in the project folder. Interrupted, it goes on where it stopped.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from basicsr_plugins.benchmark.trained_comparison import benchmark_all, make_data, train_all
from basicsr_plugins.errors import run_script


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--spynet',
        type=Path,
        help="SpyNet weights in the format of BasicSR's SpyNet(load_path); without, one is trained on the demo clips",
    )
    parser.add_argument('--vid4', type=Path, help='benchmark on these clips too: a folder with GT and BIx4')
    parser.add_argument('--iterations', type=int, default=1000)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1])
    parser.add_argument('--jobs', type=int, default=os.cpu_count(), help='trainings at a time, of one thread each')
    args = parser.parse_args()
    make_data()
    folders = train_all(args.spynet, args.iterations, args.seeds, args.jobs)
    benchmark_all(folders, args.iterations, args.vid4, shlex.join(['python', *sys.argv]))


if __name__ == '__main__':
    run_script(main)
