"""Train the weights that come with the package, from nothing.

    python scripts/recipes/train_release.py --hours 2                 # all, each for two hours
    python scripts/recipes/train_release.py rt-video --hours 1.5      # one of them
    python scripts/recipes/train_release.py rt-video --hours 3        # later: on from there, three hours in all
    python scripts/recipes/train_release.py --finish                  # weights into the package, of what there is
    python scripts/recipes/train_release.py rt-video --hours 3 --from-shipped  # on from the package's
    python scripts/recipes/train_release.py rt-video --from-shipped --finish --final 800  # at a falling rate alone

Networks train by BasicSR's trainer with the option file of each, on clips that are generated meanwhile: at a constant
rate for as long as they have time, then on a copy of the averaged weights for a quarter as many iterations at a rate
that goes down to 0, by the squared error, which PSNR is made of. `--finish` does the latter, takes the checkpoint that
is best on held-out generated clips, and writes it to basicsr_plugins/weights/. Ctrl-C pauses, and the same command goes
on. A GPU is used where there is one; a CPU trains with batches of one clip (OMP_NUM_THREADS=1 leaves the other cores
alone). Results are in experiments/release_*.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from flow_training import fit, init_level
from torch import Tensor
from training import fast_precision, run_toolbox

from basicsr_plugins.archs.pyramid_flow import PyramidFlow
from basicsr_plugins.benchmark.machine import describe_machine
from basicsr_plugins.data.synthetic_clips import validation_set
from basicsr_plugins.data.synthetic_motion_dataset import flow_batches
from basicsr_plugins.errors import InputError, run_script
from basicsr_plugins.files import write_atomically
from basicsr_plugins.models.networks import save_checkpoint
from basicsr_plugins.models.shipped_weights import FOLDER, find_weights, save_shipped
from basicsr_plugins.models.weights import read_metadata, read_weights

OPTIONS = {
    'efar-s-bicubic': Path('options/train_EFAR-S_bicubic.yml'),
    'efar-s-video': Path('options/train_EFAR-S_video.yml'),
    'rt-video': Path('options/train_RLSP_video.yml'),
}
START = {'efar-s-video': 'efar-s-bicubic'}  # begins with the weights of
FLOW = Path('experiments/release_flow/pyramid_flow.pth')
LEVEL_ITERATIONS, FLOW_ITERATIONS, FLOW_LR = 1000, 3000, 8e-4
WRONG_BY = 1.5  # pixels: the greatest standard deviation of the shifts
SAVE_EVERY, VALIDATE_EVERY = 100, 500
FIX_FLOW = 1000
SHIPPED_LR_SHARE = 0.25  # of the rate from nothing: weights that have been trained to the end lose by more
FINAL_SHARE = 0.25
FINAL_LOSS = {'type': 'MSELoss', 'loss_weight': 50.0, 'reduction': 'mean'}
LICENCE = 'Apache-2.0'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', help=f'of {", ".join(OPTIONS)}; default: all')
    parser.add_argument('--hours', type=float, default=0, help='for each, in all')
    parser.add_argument('--from-shipped', action='store_true', help='begin with the weights that the package has')
    parser.add_argument('--finish', action='store_true', help='train to the end, and write the weights')
    parser.add_argument('--final', type=int, help='iterations of --finish; default: a quarter of those before')
    args = parser.parse_args()
    for name in args.names:
        if name not in OPTIONS:
            raise InputError(f'there are no weights {name!r}; there are {", ".join(OPTIONS)}.')
    for name in args.names or OPTIONS:
        begin(name, args.from_shipped)
        train(name, args.hours)
        if args.finish:
            finish(name, args.final)


# ---------------------------------------------------------------------------- the flow network


def train_flow() -> None:
    """Train `PyramidFlow` on the known motion of generated clips.

    Its one level learns first what is lacking where the flow is wrong by a shift, then all levels learn together.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = PyramidFlow()
    init_level(net.level)
    fit(net, level_errors(net), LEVEL_ITERATIONS, FLOW_LR, 'flow, one level')
    fit(net, end_point_errors(net), FLOW_ITERATIONS, FLOW_LR, 'flow, all levels')
    FLOW.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint({'params': net.state_dict()}, FLOW)


def level_errors(net: PyramidFlow) -> Iterator[Tensor]:
    """How far a level's correction is from what is wrong."""
    for frame, other, flow in flow_batches(16, 128, seed=1):
        shift = WRONG_BY * torch.rand(len(flow), 1, 1, 1) * torch.randn(len(flow), 2, 1, 1)
        yield distance(net.lacking(frame, other, flow + shift), -shift)


def end_point_errors(net: PyramidFlow) -> Iterator[Tensor]:
    """How far the flow ends from the known motion."""
    for frame, other, flow in flow_batches(6, 256, seed=2):
        yield distance(net(frame, other), flow)


def distance(flow: Tensor, target: Tensor) -> Tensor:
    """The mean, in pixels; what is far off does not decide."""
    return ((flow - target).square().sum(1) + 1e-6).sqrt().clamp(max=8).mean()


# ---------------------------------------------------------------------------- the networks


def begin(name: str, from_shipped: bool) -> None:
    """Where there is no training yet, keep a copy of the package's weights, with which it is to begin, or of none.

    Raises:
        InputError: If there is a training that began without.
    """
    folder, start = Path('experiments') / f'release_{name}', start_file(name)
    if folder.is_dir() or folder.with_name(f'{folder.name}_final_0').is_dir():
        if from_shipped and not start.is_file():
            raise InputError(f"{folder} did not begin with the package's weights; move it away to train on from those.")
    elif from_shipped:
        start.parent.mkdir(exist_ok=True)
        write_atomically(start, Path(find_weights(name)).read_bytes())
    else:
        start.unlink(missing_ok=True)


def start_file(name: str) -> Path:
    """Shipped weights with which this training began, if it did."""
    return Path('experiments') / f'release_{name}_start.safetensors'


def train(name: str, hours: float) -> None:
    """Train at a constant rate until it has had so many hours; earlier ones count."""
    had = hours_of(name)
    if had >= hours:
        return
    options = release_options(name, f'release_{name}')
    options['train']['scheduler'] = {'type': 'MultiStepLR', 'milestones': [10**8], 'gamma': 1}
    options['train'].update(total_iter=10**8, warmup_iter=100, fix_flow=FIX_FLOW)
    if start_file(name).is_file():
        options['train']['fix_flow'] = 0
        options['path']['pretrain_network_g'] = str(start_file(name))
    elif name in START:
        options['path']['pretrain_network_g'] = str(best(START[name]))
        options['path']['param_key_g'] = 'params_ema'
    run(name, options, hours - had)


def finish(name: str, iterations: int | None = None) -> None:
    """Anneal the rate, take the best checkpoint, and write it into the package.

    Args:
        name: Of `OPTIONS`.
        iterations: How many, a multiple of 4; None: `FINAL_SHARE` of those at the constant rate.
    """
    start = newest(name)
    done = iterations_of(start)
    iterations = max(4, round((FINAL_SHARE * done if iterations is None else iterations) / 4) * 4)
    final = f'release_{name}_final_{done}'
    options = release_options(name, final)
    train_options = options['train']
    rate = train_options['optim_g']['lr']
    train_options['ema_decay'] = 1 - 1 / max(2, 0.1 * iterations)  # averages the last tenth
    train_options['scheduler'] = {'type': 'CosineAnnealingRestartLR', 'periods': [iterations], 'eta_min': rate / 1000}
    train_options['total_iter'] = iterations
    train_options['fix_flow'] = 0
    train_options['pixel_opt'] = FINAL_LOSS
    options['path'] = {'pretrain_network_g': str(start), 'param_key_g': 'params_ema'}
    options['val']['val_freq'] = iterations // 4
    options['logger']['save_checkpoint_freq'] = iterations // 4
    run(name, options)

    folder, checkpoint, scores = Path('experiments') / final, best(name), curve(Path('experiments') / final)
    chosen = iterations_of(checkpoint)
    samples = options['datasets']['train']
    share = samples.get('degradation_prob', 1) if 'degradation' in samples else 0
    material = 'generated clips' + (f', {share:.0%} of them compressed' if share else '')
    length = f'{done} iterations at a constant rate and {chosen} more' if done else f'{chosen} iterations'
    training = (
        f'{length} at a falling rate, batches of {samples["batch_size_per_gpu"]}, on {material}; '
        f'{hours_of(name):.1f} hours.'
    )
    if start_file(name).is_file():
        training += f' Before: {read_metadata(start_file(name))["training"]}'
    save_shipped(
        options['network_g'],
        read_weights(str(checkpoint)),
        FOLDER / f'{name}.safetensors',
        {'licence': LICENCE, 'training': training},
    )
    record = {
        'training': training,
        'psnr_by_iteration': {
            **curve(Path('experiments') / f'release_{name}'),
            **{done + i: scores[i] for i in scores},
        },
        'machine': describe_machine('cuda' if torch.cuda.is_available() else 'cpu'),
    }
    write_atomically(folder / 'record.json', json.dumps(record, indent=1) + '\n')
    print(
        f'{name}: {training} {scores[chosen]:.2f} dB on held-out generated clips; {folder / "record.json"}', flush=True
    )


def release_options(name: str, experiment: str) -> dict:
    """The option file of these weights, as this machine trains it."""
    options = yaml.safe_load(OPTIONS[name].read_text(encoding='utf-8'))
    options['name'] = experiment
    if start_file(name).is_file():
        options['manual_seed'] = zlib.crc32(start_file(name).read_bytes()) % 10**6  # other clips than those weights had
        options['train']['optim_g']['lr'] *= SHIPPED_LR_SHARE
    train = options['datasets']['train']
    clips = Path('datasets') / ('generated_video_val' if 'degradation' in train else 'generated_val')
    validation_set(clips, number=4, degradation=train.get('degradation'))
    if not torch.cuda.is_available():
        train.update(batch_size_per_gpu=1, num_worker_per_gpu=0)
    if options['network_g'].get('flow') == 'pyramid' and not start_file(name).is_file():
        if not FLOW.is_file():
            train_flow()
        options['network_g']['spynet_path'] = str(FLOW)
    options['train']['amp'] = fast_precision()
    options['val']['val_freq'] = VALIDATE_EVERY
    options['logger'].update(print_freq=50, save_checkpoint_freq=SAVE_EVERY)
    return options


class Paused(Exception):
    """The training has had its time."""


def run(name: str, options: dict, hours: float | None = None) -> None:
    """Train until it is finished, or, where `hours` are given, up to the first checkpoint after so many hours."""
    folder = Path('experiments') / options['name']
    if hours is None and (folder / 'models' / 'net_g_latest.pth').is_file():
        return
    option_file = Path('experiments') / f'{options["name"]}.yml'
    option_file.parent.mkdir(exist_ok=True)
    write_atomically(option_file, yaml.safe_dump(options, sort_keys=False))
    before, start, saves = hours_of(name), time.time(), 0

    def watch(line: str) -> None:
        nonlocal saves
        passed = (time.time() - start) / 3600
        write_atomically(hours_file(name), json.dumps(before + passed))
        late = hours is not None and passed > hours
        if late and saves and 'Saving models' not in line:  # so the saving is over
            raise Paused
        saves = saves + ('Saving models' in line) if late else 0

    try:
        run_toolbox('basicsr.train', option_file, Path('experiments'), ['--auto_resume'], watch)
    except Paused:
        print(f'{name}: paused after {hours_of(name):.2f} hours', flush=True)


def hours_file(name: str) -> Path:
    return Path('experiments') / f'release_{name}.hours'


def hours_of(name: str) -> float:
    """How long these weights have trained."""
    return json.loads(hours_file(name).read_text(encoding='utf-8')) if hours_file(name).is_file() else 0.0


def newest(name: str) -> Path:
    """The newest checkpoint of the training at a constant rate, or the weights that it is to begin with."""
    found = [*(Path('experiments') / f'release_{name}' / 'models').glob('net_g_*.pth'), start_file(name)]
    path = max(found, key=iterations_of)
    if not path.is_file():
        raise InputError(f'experiments/release_{name} has no checkpoint yet; train it by --hours.')
    return path


def iterations_of(path: Path) -> int:
    """The number in a checkpoint's name; 0 where there is none."""
    number = path.stem.split('_')[-1]
    return int(number) if number.isdigit() else 0


def best(name: str) -> Path:
    """The checkpoint that is best on the held-out clips, of the newest training at a falling rate; else the newest."""
    folders = [path for path in Path('experiments').glob(f'release_{name}_final_*') if curve(path)]
    if not folders:
        return newest(name)
    folder = max(folders, key=lambda path: int(path.name.split('_')[-1]))
    scores = curve(folder)
    return folder / 'models' / f'net_g_{max(scores, key=scores.get)}.pth'


def curve(folder: Path) -> dict[int, float]:
    """PSNR on the held-out clips, by iteration."""
    path = folder / 'metrics.csv'
    if not path.is_file():
        return {}
    with open(path, newline='', encoding='utf-8') as file:
        return {int(row['iter']): float(row['psnr']) for row in csv.DictReader(file) if row['clip'] == 'average'}


if __name__ == '__main__':
    run_script(main)
