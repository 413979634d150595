"""What decoding, encoding and files add to a network: the whole command against the network alone, on one film.

    python scripts/benchmark_pipeline.py                                   # EFAR, 30 frames of 320x180 -> 1280x720
    python scripts/benchmark_pipeline.py --network RLSP --num-frame 300 --runtime openvino --dtype bfloat16

Weights are random: no time depends on them. Both take turns; seconds are medians, the ratio the median of the ratios in
one repeat. Beside them the share of the processor's time that is the system's: memory that is mapped and cleared.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import av
import torch
from basicsr.archs import build_network

from basicsr_plugins.benchmark.machine import describe_machine
from basicsr_plugins.commands.upscale import DTYPES
from basicsr_plugins.errors import run_script
from basicsr_plugins.files import parse_size
from basicsr_plugins.inference import UpscaleSettings, upscale_frames
from basicsr_plugins.inference.runtimes import on_runtime
from basicsr_plugins.upscaling import upscale
from basicsr_plugins.video.colour import Colour, rgb_to_frame, yuv_format
from basicsr_plugins.video.opening import open_source


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--network', default='EFAR')
    parser.add_argument('--runtime', default='auto')
    parser.add_argument('--dtype', default='float32', choices=DTYPES)
    parser.add_argument('--size', default='180x320', help='of LR frames, HEIGHTxWIDTH')
    parser.add_argument('--num-frame', type=int, default=30)
    parser.add_argument('--repeat', type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    dtype = DTYPES[args.dtype]
    net = on_runtime(build_network({'type': args.network}).eval(), args.runtime, dtype)
    settings = UpscaleSettings(dtype=dtype)
    print(', '.join(str(value) for value in describe_machine('cpu').values()))
    with tempfile.TemporaryDirectory() as folder:
        film, output = Path(folder) / 'film.mp4', Path(folder) / 'film_x4.mp4'
        write_film(film, parse_size(args.size, '--size'), args.num_frame)
        frames = list(open_source(film))
        runs = {
            'the network alone': lambda: run_alone(net, frames, settings),
            'the whole command': lambda: upscale(net, film, output, settings, force=True, show_progress=False),
        }
        measured = {name: [] for name in runs}
        for repeat in range(args.repeat + 1):
            for name, run in runs.items():
                values = measure(run)
                if repeat:  # the first of each converts and compiles
                    measured[name].append(values)
    print(f'{"":<20}{"s/frame":>9}{"system":>9}')
    for name, values in measured.items():
        seconds, share = (statistics.median(column) for column in zip(*values))
        print(f'{name:<20}{seconds / args.num_frame:>9.3f}{share:>9.1%}')
    alone, whole = measured.values()
    print(f'ratio {statistics.median(theirs[0] / ours[0] for ours, theirs in zip(alone, whole)):.2f}')


def run_alone(net, frames, settings):
    for _ in upscale_frames(net, frames, settings):
        pass


def measure(run):
    """Seconds, and the system's share of the processor's."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    run()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return seconds, system / (user + system)


def write_film(path, size, number):
    """A smooth picture that moves by two pixels a frame."""
    h, w = size
    noise = torch.rand(1, 3, h // 8 + 2, (w + 2 * number) // 8 + 2, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.interpolate(noise, scale_factor=8, mode='bicubic').clamp(0, 1)[0]
    with av.open(str(path), 'w') as film:
        stream = film.add_stream('libx264', rate=25)
        stream.width, stream.height, stream.pix_fmt = w, h, 'yuv420p'
        for i in range(number):
            film.mux(stream.encode(rgb_to_frame(picture[:, :h, 2 * i : 2 * i + w], Colour(), yuv_format('yuv420p'))))
        film.mux(stream.encode(None))


if __name__ == '__main__':
    run_script(main)
