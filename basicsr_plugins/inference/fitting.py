"""Choose tiles and segments by the memory that is free: what a network takes is measured on a small film first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from basicsr_plugins.archs.recurrent import Clip, State, call
from basicsr_plugins.errors import InputError
from basicsr_plugins.inference.engine import upscale_frames
from basicsr_plugins.inference.pipeline import READ_AHEAD, WRITE_BEHIND
from basicsr_plugins.inference.settings import AUTO_TILE, FLOW_OVERLAP, UpscaleSettings
from basicsr_plugins.memory import PeakMemory, is_out_of_memory
from basicsr_plugins.models.network_spec import NetworkSpec, spec_of
from basicsr_plugins.models.restoration import device_of, pad, prepare_lq

SIDE, FLOW_SIDE = 64, 192  # of the small film, and of frames that flow is measured on, LR pixels
LEAST_TILE = 32  # LR pixels
FLOW_TILES = (1024, 512, 256)  # LR pixels
FLOW_BYTES = 8  # of a pixel
SHARE = 0.8  # of the free memory that a run may take
SURELY_LESS = 100 * 1024  # bytes for an LR pixel: more than any of the networks takes, so small frames are not measured
GIB = 2**30


@dataclass(frozen=True)
class Need:
    """Bytes that upscaling takes for each LR pixel.

    Args:
        work: Of what is worked on at a time, a tile with its border or a frame.
        frame: Of a whole frame, whatever the tiles: itself and its neighbours, their cleaning, the flow that is kept.
        flow: Of what flow is estimated of at a time, a tile of its own with its border or a frame.
        whole: Of what tiles are put together to, features, states and the HR frames that wait for the encoder.
        state: Of each frame of a segment: its backward state, put together as well.
    """

    work: float
    frame: float
    flow: float = 0
    whole: float = 0
    state: float = 0

    def total(self, size: tuple[int, int], settings: UpscaleSettings) -> int:
        """Bytes for frames of (h, w)."""
        h, w = size
        work = self.work * _worked_on(size, settings.tile, settings.tile_overlap)
        flow = self.flow * _worked_on(size, settings.flow_tile, FLOW_OVERLAP)
        whole = 0 if settings.whole_dir else self.whole + settings.segment * self.state
        return int(max(work, flow) + (self.frame + whole) * h * w)  # flow and other steps take turns


def _worked_on(size: tuple[int, int], tile: int | None, overlap: int) -> int:
    """Pixels of the largest tile of a frame (h, w), with what is around it."""
    return math.prod(size if tile is None else (min(tile + 2 * overlap, length) for length in size))


@torch.no_grad()
def measure_need(net: nn.Module, settings: UpscaleSettings) -> Need | None:
    """What a network takes, by the peak of memory over a small film; None where it cannot be said."""
    spec, device = spec_of(net), device_of(net) or torch.device('cpu')
    side = -(-max(SIDE, spec.min_size) // spec.size_multiple) * spec.size_multiple
    number = max(spec.min_frames, 2) if spec.steps is not None or spec.input_type != 'sequence' else settings.segment
    settings = replace(settings, tile=None, scene_cuts=False)
    try:
        for length in (side // 2, side):  # the first of them loads, converts and compiles
            film = torch.rand(number, 3, length, length, generator=torch.Generator().manual_seed(0))
            with PeakMemory(device) as memory:
                for hr in upscale_frames(net, film, settings):
                    scale = (hr.size(-2) * hr.size(-1)) ** 0.5 / length
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            return None
        raise
    if memory.bytes is None:
        return None
    work = memory.bytes / side**2
    if spec.steps is None and spec.input_type == 'sequence':
        work *= (settings.segment + 2 * settings.lookahead) / number
    frame, whole = 12 * (READ_AHEAD + 3), 12 * scale**2 * (WRITE_BEHIND + 2)
    if spec.steps is None:
        return Need(work, frame, whole)
    cleaning, kept, state = _measure_steps(spec, film[:2, None].to(device))
    flow = _measure_flow(spec, device)
    kept_flow = 4 * FLOW_BYTES if flow else 0  # two for a frame, two for the next
    return Need(work, frame + cleaning + kept_flow, flow, whole + kept, state)


def _measure_steps(spec: NetworkSpec, film: torch.Tensor) -> tuple[float, float, float]:
    """Bytes for an LR pixel: that cleaning takes, that are kept between steps, and of a backward state."""
    sizes, cleaning, pixels = {}, [0.0], film[0, 0, 0].numel()

    def record(step, **inputs: State | None) -> State:
        with PeakMemory(film.device) as memory:
            result = call(step, **inputs)
        if step.__name__ == 'clean':
            cleaning.append((memory.bytes or 0) / pixels)
        parts = result if isinstance(result, tuple) else (result,)
        sizes[step.__name__] = sum(part.numel() * part.element_size() for part in parts) / pixels
        return result

    clip = Clip(spec.steps, [pad(spec, prepare_lq(spec, frame)) for frame in film], record)
    backward = [clip.step('backward_step', i) for i in range(2)]
    clip.step('forward_step', 0, None, backward[0])
    kept = 3 * sizes.get('extract', 0) + 2 * sizes.get('forward_step', 0)
    return max(cleaning), kept, sizes.get('backward_step', 0)


def _measure_flow(spec: NetworkSpec, device: torch.device) -> float:
    """Bytes for an LR pixel that flow takes, at a size of which a runtime has kept no memory yet."""
    if not spec.steps.has_step('flow'):
        return 0.0
    side = -(-FLOW_SIDE // spec.size_multiple) * spec.size_multiple
    frame = prepare_lq(spec, torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))).to(device)
    with PeakMemory(device) as memory:
        spec.steps.flow(frame=frame, other=frame.flip(3))
    return (memory.bytes or 0) / side**2


def fit(settings: UpscaleSettings, size: tuple[int, int], need: Need, free: int) -> UpscaleSettings:
    """The settings with the largest tiles, and in mode `exact` the longest segments, that the free memory takes.

    Where the least are too much, what tiles are put together to lies in `temp_dir`; where that is too much, flow is
    estimated in tiles too.

    Args:
        settings: `tile` is `auto`: in one piece where `UpscaleSettings.tile_side` says so.
        size: (h, w) of the LR frames.
        need: What the network takes.
        free: Bytes.

    Raises:
        InputError: If the least tiles take more.
    """
    choices = itertools.product(
        _flow_tiles(settings, need, size), (None, settings.temp_dir), _tiles(settings, size), _segments(settings)
    )
    for flow_tile, folder, tile, segment in choices:
        fitted = replace(settings, flow_tile=flow_tile, tile=tile, segment=segment, whole_dir=tile and folder)
        if need.total(size, fitted) <= SHARE * free:
            return fitted
    h, w = size
    raise InputError(
        f'memory is too small: frames of {w}x{h} take {need.total(size, fitted) / GIB:.1f} GiB even in tiles of '
        f'{tile} pixels, and {SHARE * free / GIB:.1f} GiB can be taken; free some, or take a smaller network.'
    )


def _flow_tiles(settings: UpscaleSettings, need: Need, size: tuple[int, int]) -> Iterator[int | None]:
    tile = settings.flow_tile
    yield tile
    while need.flow and (smaller := halve_flow(tile, size)) != tile:
        yield (tile := smaller)


def _tiles(settings: UpscaleSettings, size: tuple[int, int]) -> Iterator[int | None]:
    yield settings.tile_side(size)
    tile = AUTO_TILE
    while tile >= LEAST_TILE:
        yield tile
        tile //= 2


def _segments(settings: UpscaleSettings) -> Iterator[int]:
    segment = settings.segment
    while segment > 1 and settings.mode == 'exact':
        yield segment
        segment //= 2
    yield segment if settings.mode != 'exact' else 1


def halve(tile: int | None, size: tuple[int, int]) -> int | None:
    """Tiles half as large, at most; None where they would be too small."""
    smaller = min(AUTO_TILE, max(size) // 2) if tile is None else tile // 2
    return smaller if smaller >= LEAST_TILE else None


def halve_flow(tile: int | None, size: tuple[int, int]) -> int | None:
    """The next smaller tiles for flow; the same where there are none, or the frame is not larger."""
    largest = max(size) if tile is None else tile
    return next((smaller for smaller in FLOW_TILES if smaller < largest), tile)
