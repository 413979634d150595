"""One run over a film: the network between the reader and the writers, in the memory that there is."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from basicsr_plugins.archs.bicubic_arch import Bicubic
from basicsr_plugins.errors import InputError
from basicsr_plugins.files import write_atomically
from basicsr_plugins.inference.buffers import forget_states
from basicsr_plugins.inference.engine import upscale_pairs
from basicsr_plugins.inference.fitting import GIB, SHARE, SURELY_LESS, fit, halve, halve_flow, measure_need
from basicsr_plugins.inference.pipeline import READ_AHEAD, WRITE_BEHIND, WriteBehind, read_ahead
from basicsr_plugins.inference.settings import UpscaleSettings
from basicsr_plugins.memory import free_memory, freed_memory_kept, is_out_of_memory
from basicsr_plugins.models.restoration import device_of
from basicsr_plugins.output_size import resized
from basicsr_plugins.refusals import refusing
from basicsr_plugins.scales import Scale
from basicsr_plugins.video.media import Source, Target
from basicsr_plugins.video.work_folder import FITTED

FORGET_EVERY = 50  # frames: what a run that goes on does not need is looked for in the folder of states


class Notes:
    """Sentences for the user, each once, told when they come."""

    def __init__(self, tell: bool):
        self.texts = []
        self.tell = tell

    def add(self, *texts: str) -> None:
        for text in texts:
            if text not in self.texts:
                self.texts.append(text)
                if self.tell:
                    tqdm.write(f'note: {text}', file=sys.stderr)


def run(
    net: nn.Module,
    source: Source,
    targets: list[Target],
    settings: UpscaleSettings,
    keep: Path,
    scale: Scale,
    notes: Notes,
    show_progress: bool,
) -> None:
    """Upscale what the targets do not have yet.

    Args:
        net: The network.
        source: The LR frames.
        targets: One, or a second that gets bicubic at the left of each frame.
        settings: How. Tiles `auto` and, in mode `exact`, segments are chosen by the free memory where frames are large;
            whatever the tiles, they are halved where memory runs out.
        keep: Folder of the network's states, for another run to go on from; what no run needs any more is removed.
        scale: Of the frames; those of a network that makes others are resized.
        notes: Gets what was chosen.
        show_progress: Whether a bar is shown.

    Raises:
        InputError: If memory is too small for the least tiles.
    """
    chosen = targets[0].parts / FITTED
    settings, plenty = _fit(net, source.size, settings, chosen, notes)
    with freed_memory_kept() if plenty else contextlib.nullcontext():
        while not _go_through(net, source, targets, settings, keep, scale, show_progress):
            settings = _with_smaller_tiles(source.size, settings, chosen, notes)


def _fit(
    net: nn.Module, size: tuple[int, int], settings: UpscaleSettings, chosen: Path, notes: Notes
) -> tuple[UpscaleSettings, bool]:
    """Tiles and segments that the free memory takes, where the settings leave it open, and whether it is plenty.

    The file `chosen` holds what an interrupted run had, which is kept: tiles change frames, a little.
    """
    if chosen.is_file():
        return _read_choice(chosen, settings), False
    h, w = size
    free = _free_memory(net)
    if free is None or SURELY_LESS * h * w <= SHARE * free:
        return settings, True
    need = None
    if settings.tile == 'auto':
        with _refusing(net):
            need = measure_need(net, settings)
    if need is None:
        return settings, False
    free = _free_memory(net)  # without what the runtime keeps
    settings = fit(settings, size, need, free)
    tiles = 'in one piece' if settings.tile is None else f'in tiles of {settings.tile} pixels'
    taken = need.total(size, settings)
    notes.add(
        f'frames of {w}x{h} take about {taken / GIB:.1f} GiB of the {free / GIB:.1f} GiB that are free: '
        f'each is worked on {tiles}, {settings.segment} frames a segment'
        f'{", what is put together from them on disk" if settings.whole_dir else ""}'
        f'{f", flow in tiles of {settings.flow_tile} pixels" if settings.flow_tile else ""}.'
    )
    _note_choice(chosen, settings)
    return settings, 2 * taken <= free


def _free_memory(net: nn.Module) -> int | None:
    """Of the network's device; of RAM the share of one process, where torchrun started several on this machine."""
    device = device_of(net)
    free = free_memory(device)
    on_cpu = device is None or device.type == 'cpu'
    return free // int(os.environ.get('LOCAL_WORLD_SIZE', 1)) if free is not None and on_cpu else free


def _with_smaller_tiles(
    size: tuple[int, int], settings: UpscaleSettings, chosen: Path, notes: Notes
) -> UpscaleSettings:
    """After memory ran out: half as large, and what they are put together to on disk.

    Raises:
        InputError: If the tiles are the least already.
    """
    tile = settings.tile_side(size)
    smaller = halve(tile, size)
    if smaller is None:
        raise InputError(
            f'memory is too small even for tiles of {tile or max(size)} pixels; free some, or take a smaller network.'
        )
    notes.add(f'memory ran out; the film goes on in tiles of {smaller} pixels.')
    gc.collect()  # what failed may hold memory
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    flow_tile = halve_flow(settings.flow_tile, size)
    settings = replace(settings, tile=smaller, flow_tile=flow_tile, whole_dir=settings.temp_dir)
    _note_choice(chosen, settings)
    return settings


def _note_choice(chosen: Path, settings: UpscaleSettings) -> None:
    choice = {name: getattr(settings, name) for name in ('tile', 'flow_tile', 'segment')}
    choice['on_disk'] = settings.whole_dir is not None
    write_atomically(chosen, json.dumps(choice))


def _read_choice(chosen: Path, settings: UpscaleSettings) -> UpscaleSettings:
    try:
        choice = json.loads(chosen.read_text())
        whole_dir = settings.temp_dir if choice.pop('on_disk') else None
        return replace(settings, **choice, whole_dir=whole_dir)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(f'{chosen} is damaged; start over with force.') from error


def _go_through(
    net: nn.Module,
    source: Source,
    targets: list[Target],
    settings: UpscaleSettings,
    keep: Path,
    scale: Scale,
    show_progress: bool,
) -> bool:
    """Whether memory was enough to upscale what the targets do not have yet; if not, what is done is written."""
    skip, time_scale = min(target.num_written for target in targets), targets[0].time_scale
    bicubic = Bicubic(scale) if len(targets) == 2 else None
    try:
        with contextlib.ExitStack() as stack:
            bar = stack.enter_context(
                tqdm(
                    total=source.num_frame,
                    initial=skip // time_scale,
                    unit='frame',
                    disable=not show_progress,
                    mininterval=0.5,
                )
            )
            frames = stack.enter_context(contextlib.closing(read_ahead(source, READ_AHEAD)))
            pairs = upscale_pairs(net, frames, settings, skip, _show(bar), keep)
            pairs = resized(_first_refused(net, pairs), scale)
            pairs = stack.enter_context(contextlib.closing(pairs))
            writer = stack.enter_context(WriteBehind(partial(_write, targets, bicubic), WRITE_BEHIND))
            forgotten = 0
            for index, (lq, hr) in enumerate(pairs, skip):
                writer.put((index, lq, hr))
                finished = min(target.num_kept for target in targets) // time_scale
                if finished - forgotten >= FORGET_EVERY:
                    forget_states(keep, finished)
                    forgotten = finished
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _first_refused(net: nn.Module, pairs: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    with _refusing(net):
        first = list(itertools.islice(pairs, 1))
    yield from first
    yield from pairs


def _refusing(net: nn.Module) -> contextlib.AbstractContextManager[None]:
    return refusing(f'{type(net).__name__} does not upscale these frames', type(net))


def _show(bar: tqdm) -> Callable[[str, int], None]:
    """Shows on a bar how far a run is: (stage, frames that have gone through it)."""
    shown = time.monotonic()

    def progress(stage: str, done: int) -> None:
        nonlocal shown
        if stage == 'upscale':
            bar.set_postfix_str('', refresh=False)
            bar.update(max(done - bar.n, 0))
        elif time.monotonic() - shown > 0.5:
            bar.set_postfix_str(f'{stage} {done}')
            shown = time.monotonic()

    return progress


def _write(targets: list[Target], bicubic: Bicubic | None, item: tuple[int, Tensor, Tensor]) -> None:
    """Write frame `index`, and where there is a second target the same with bicubic at its left."""
    index, lq, hr = item
    if not math.isfinite(hr.sum(dtype=torch.float32)):
        raise InputError(
            f'frame {index} came out with values that are NaN or infinite: they are in the source, or the weights are '
            'too large for this dtype; try dtype float32.'
        )
    outputs = [hr]
    if bicubic is not None:
        outputs.append(torch.cat((bicubic.upsample(lq[None])[0].to(hr), hr), dim=2))
    for target, one in zip(targets, outputs):
        if index >= target.num_written:
            target.write(one)
