"""Make the small network from a trained SESR: each pair of convolutions becomes one, with the same output.

python scripts/collapse_sesr.py SESR@experiments/SESR_REDS/models/net_g_latest.pth -o sesr_m5.pth
basicsr-plugins upscale input.mp4 output.mp4 --weights sesr_m5.pth --network SESR:collapsed=true
"""

from __future__ import annotations

import argparse
from pathlib import Path

from basicsr_plugins.archs.sesr_arch import SESR
from basicsr_plugins.errors import InputError, run_script
from basicsr_plugins.models.entries import parse_network
from basicsr_plugins.models.networks import save_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('network', help="SESR:KEY=VALUE,...@CHECKPOINT, or the training's option file in place of SESR")
    parser.add_argument('-o', '--output', type=Path, required=True, help='the new checkpoint')
    args = parser.parse_args()
    entry = parse_network(args.network)
    net = entry.build()
    if entry.checkpoint is None or not isinstance(net, SESR) or entry.options.get('collapsed'):
        raise InputError(f'{args.network} is no SESR in its trained form with a checkpoint.')
    small = net.collapse()
    save_checkpoint({'params': small.state_dict()}, args.output)
    count = sum(parameter.numel() for parameter in small.parameters())
    print(f'{args.output}: {count} parameters, of {sum(parameter.numel() for parameter in net.parameters())}')


if __name__ == '__main__':
    run_script(main)
