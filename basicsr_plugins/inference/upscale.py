"""Upscale a video file, or a folder of images, into another: the network, the engine and the files brought together."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from basicsr_plugins.archs.bicubic_arch import Bicubic
from basicsr_plugins.errors import InputError
from basicsr_plugins.inference.engine import UpscaleSettings, upscale_frames
from basicsr_plugins.inference.media import Source, Target, VideoSettings
from basicsr_plugins.inference.video import open_source, open_target
from basicsr_plugins.models.entries import NetworkEntry, parse_network, read_entry

AUTO_TILE = 320  # LR pixels
LARGEST_UNTILED = 640 * 480  # LR pixels; the features of larger frames at four times their size take many GB


def load_network(checkpoint: str | os.PathLike | None, network: str | None = None, device: str = 'auto') -> nn.Module:
    """A trained network, ready to upscale.

    Args:
        checkpoint: Its weights, in the toolbox's format; `params_ema` are taken first. None for a network without any.
        network: `TYPE[:KEY=VALUE,...]` or an option file. None: what the option file in the checkpoint's experiment
            folder (`experiments/NAME/models/net_g_*.pth`) says.
        device: `auto` (CUDA where there is any), `cpu`, `cuda`, `cuda:1` ...

    Raises:
        InputError: If there is no such network or file, or the weights are another network's.
    """
    entry = _entry(checkpoint, network)
    net = entry.build().to(choose_device(device))
    net.description = {'type': entry.options['type'], 'checkpoint': _identity(entry.checkpoint)}
    return net


def _entry(checkpoint: str | os.PathLike | None, network: str | None) -> NetworkEntry:
    if network is not None:
        entry = parse_network(network)
        if checkpoint is not None:
            entry.checkpoint = str(checkpoint)
    elif checkpoint is not None:
        entry = read_entry(str(checkpoint), {'options': _option_file(Path(checkpoint)), 'checkpoint': str(checkpoint)})
    else:
        raise InputError('name a network, a checkpoint in its experiment folder, or both.')
    if entry.checkpoint is None and any(True for _ in entry.build().parameters()):
        raise InputError(f'{entry.name} needs its weights: give a checkpoint.')
    return entry


def _option_file(checkpoint: Path) -> str:
    """The option file that the toolbox has copied into the experiment's folder."""
    if not checkpoint.is_file():
        raise InputError(f'there is no checkpoint {checkpoint}.')
    files = sorted(checkpoint.absolute().parent.parent.glob('*.yml'))
    if len(files) != 1:
        found = 'there are several' if files else 'there is none'
        raise InputError(
            f'{checkpoint}: which network is it? Of option files in its experiment folder {found}; '
            'name the network (TYPE:KEY=VALUE, or an option file).'
        )
    return str(files[0])


def _identity(path: str | None) -> list | None:
    if path is None:
        return None
    status = os.stat(path)
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns]


def choose_device(name: str) -> torch.device:
    """The device that `auto` or another name means.

    Raises:
        InputError: If it cannot be used.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
        raise InputError(f'device {name} cannot be used: {str(error).splitlines()[0]}') from error


def auto_tile(size: tuple[int, int]) -> int | None:
    """The side of tiles for frames of (h, w): None, the frame in one piece, unless it is large."""
    return AUTO_TILE if size[0] * size[1] > LARGEST_UNTILED else None


def upscale(
    net: nn.Module,
    source: str | os.PathLike,
    output: str | os.PathLike,
    settings: UpscaleSettings | None = None,
    video: VideoSettings | None = None,
    resume: bool = False,
    force: bool = False,
    compare: str | os.PathLike | None = None,
    show_progress: bool = True,
) -> list[str]:
    """Upscale a video file, a folder or a glob of images.

    Args:
        net: As `load_network` gives it.
        source: What to upscale.
        output: A video file (.mp4, .mkv, .mov), or a folder for PNGs.
        settings: How; default: `UpscaleSettings()`, with tiles where frames are large.
        video: How the output is written.
        resume: Go on from what an interrupted run left.
        force: Overwrite an output that is there.
        compare: Another output: bicubic at the left, the network's at the right.
        show_progress: Whether a bar shows frames, frames per second and the time left.

    Returns:
        Sentences about what a user should know: what was left out, where a damaged source ended.

    Raises:
        InputError: If the source cannot be read or the output cannot be written. What is done stays for `resume`.
    """
    reader = open_source(source)
    if settings is None:
        settings = UpscaleSettings(tile=auto_tile(reader.size))
    job = {'network': getattr(net, 'description', type(net).__name__), 'settings': str(replace(settings, spool=None))}
    options = {'settings': video or VideoSettings(), 'resume': resume, 'force': force, 'job': job}
    scale = network_scale(net, settings.scale)
    h, w = reader.size
    sizes = {output: (scale * h, scale * w)}
    kept = []
    if compare is not None and resume and Path(compare).exists():  # interrupted after it was complete
        kept = [f'{compare} is there already and was kept.']
    elif compare is not None:
        sizes[compare] = (scale * h, 2 * scale * w)
    targets = []
    try:
        for path, size in sizes.items():
            targets.append(open_target(path, reader, scale, size=size, **options))
        _run(net, reader, targets, settings, scale, show_progress)
        for target in reversed(targets):  # the output itself last: where it is, all is done
            target.close()
    except BaseException:
        for target in targets:
            target.abort()
        raise
    damage = [reader.damage] if reader.damage else []
    notes = [note for target in targets for note in target.notes]
    return list(dict.fromkeys([*reader.notes, *notes, *kept, *damage]))


def network_scale(net: nn.Module, default: int) -> int:
    """How many times a network enlarges: what it says of itself, or `default`."""
    for name in ('scale', 'upscale'):
        if isinstance(getattr(net, name, None), int):
            return getattr(net, name)
    return default


def _run(
    net: nn.Module, reader: Source, targets: list[Target], settings: UpscaleSettings, scale: int, show_progress: bool
) -> None:
    skip = min(target.num_done for target in targets)
    with tqdm(total=reader.num_frame, initial=skip, unit='frame', disable=not show_progress) as bar:

        def progress(stage: str, done: int) -> None:
            if stage == 'upscale':
                bar.set_postfix_str('', refresh=False)
                bar.update(done - bar.n)
            else:
                bar.set_postfix_str(f'{stage} {done}')

        restored = upscale_frames(net, reader, settings, skip, progress)
        outputs = _with_bicubic(restored, reader, skip, scale) if len(targets) == 2 else ((one,) for one in restored)
        for index, output in enumerate(outputs, skip):
            for target, frame in zip(targets, output):
                if index >= target.num_done:
                    target.write(frame)


def _with_bicubic(restored: Iterator[Tensor], reader: Source, skip: int, scale: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Each restored frame, and the same with bicubic at its left."""
    bicubic = Bicubic(scale)
    lqs = itertools.islice(open_source(reader.name), skip, None)  # read once more: memory does not grow
    for frame, lq in zip(restored, lqs):
        yield frame, torch.cat((bicubic(lq[None, None])[0, 0].to(frame), frame), dim=2)
