"""Run a network that has steps over a scene, a segment of frames at a time, with the states of few frames in memory.

Shape shorthand: c channels, h and w height and width of the LR frame, s the scale.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from basicsr_plugins.archs.recurrent import Clip, State, call
from basicsr_plugins.inference.buffers import DiskFrames, DiskStates, KeptStates, MemoryFrames
from basicsr_plugins.inference.settings import FLOW_MULTIPLE, FLOW_OVERLAP, Progress, UpscaleSettings, precision
from basicsr_plugins.inference.tiles import TiledRunner
from basicsr_plugins.models.network_spec import NetworkSpec
from basicsr_plugins.models.restoration import crop, finish, pad, prepare_lq


def restore_exactly(
    spec: NetworkSpec,
    scene: Iterator[Tensor],
    device: torch.device | None,
    settings: UpscaleSettings,
    skip: int,
    progress: Progress,
    keep: Path | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """LR and HR frames of a scene, from frame `skip` on, as one pass over the whole scene gives them.

    States are kept in the folder `keep`, if it is given: who goes on from there takes them up.
    """
    if not spec.steps.has_step('backward_step'):
        yield from restore_stream(spec, scene, device, settings, skip, progress, keep)
        return
    forward = _forward_states(keep, progress, device)
    if keep is None:
        borders = DiskStates(settings.temp_dir, settings.state_dtype)
    else:
        borders = KeptStates(keep, 'backward', progress.count['upscale'], settings.state_dtype, device)
    with DiskFrames(settings.temp_dir) as frames, borders:
        for frame in scene:
            frames.append(frame)
        if len(frames) <= skip:
            progress.add('upscale', len(frames))
            return
        propagation = Propagation(spec, frames, device, settings, skip, progress, forward)
        for start in range(propagation.go_on(), len(frames), settings.segment):
            end = min(start + settings.segment, len(frames))
            needs_border = end < len(frames) and propagation.wants_backward(end)
            state = propagation.border(end, settings.segment, borders) if needs_border else None
            yield from propagation.upscale(start, end, state)


def restore_stream(
    spec: NetworkSpec,
    scene: Iterator[Tensor],
    device: torch.device | None,
    settings: UpscaleSettings,
    skip: int,
    progress: Progress,
    keep: Path | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """As `restore_exactly`, in one pass that sees `settings.lookahead` frames ahead."""
    is_online = not spec.steps.has_step('backward_step')  # it needs no more than what it says itself
    lookahead = max(settings.lookahead, spec.time_scale - 1)  # the frame after the last one of a block needs the next
    segment, lookahead = (1, 0) if is_online else (settings.segment, lookahead)
    forward = _forward_states(keep, progress, device)
    with DiskFrames(settings.temp_dir) as on_disk:
        # no state is computed before it is sure that the scene outlasts what is skipped
        frames = on_disk if skip else MemoryFrames()
        _read(scene, frames, skip + 1)
        if len(frames) <= skip:
            progress.add('upscale', len(frames))
            return
        propagation = Propagation(spec, frames, device, settings, skip, progress, forward)
        start = propagation.go_on()
        while True:
            end = start + segment
            _read(scene, frames, end + max(lookahead, spec.steps.ahead))
            if start >= len(frames):
                return
            end = min(end, len(frames))
            seen = min(end + lookahead, len(frames)) if propagation.wants_backward(end) else end
            state = None
            for _, new in propagation.run_backward(end, seen, None):
                state = new
            yield from propagation.upscale(start, end, state)
            start = end


def _forward_states(keep: Path | None, progress: Progress, device: torch.device | None) -> KeptStates | None:
    """Where the forward states of the scene that begins are kept."""
    if keep is None:
        return None
    first = progress.count['upscale']
    KeptStates(keep, 'scene', first).mark()
    return KeptStates(keep, 'forward', first, device=device)


def _read(scene: Iterator[Tensor], frames: DiskFrames | MemoryFrames, number: int) -> None:
    """Read on until there are `number` frames, or the scene ends."""
    for frame in itertools.islice(scene, max(number - len(frames), 0)):
        frames.append(frame)


KEEP_EVERY = 50  # frames at least between two forward states that are kept: few, for a fast network has large ones


class PreparedFrames:
    """Frames as the network takes them, (1, c, h, w), float32, on its device.

    Attributes:
        size: Their height and width before they were padded to what it can take.
    """

    def __init__(self, spec: NetworkSpec, frames: DiskFrames | MemoryFrames, device: torch.device | None):
        self._spec = spec
        self._frames = frames
        self._device = device

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, i: int) -> Tensor:
        prepared = prepare_lq(self._spec, self._frames.load(i, self._device).unsqueeze(0))
        self.size = prepared.shape[-2:]
        return pad(self._spec, prepared)


def step_runner(spec: NetworkSpec, device: torch.device | None, settings: UpscaleSettings) -> Callable[..., State]:
    """What calls the steps, in the dtype and the tiles of the settings: flow in tiles of its own, in float32.

    A frame is cleaned as a whole: how often depends on all of it.
    """
    run_tiles = run_flow = call
    if settings.tile:
        run_tiles = TiledRunner(settings.tile, settings.tile_overlap, spec.size_multiple, settings.whole_dir)
    if settings.flow_tile:
        multiple = math.lcm(FLOW_MULTIPLE, spec.size_multiple)
        run_flow = TiledRunner(settings.flow_tile, FLOW_OVERLAP, multiple)

    def run(step: Callable[..., State], **inputs: State | None) -> State:
        if step.__name__ == 'flow':
            return run_flow(step, **inputs)
        with precision(device, settings.dtype):
            return step(**inputs) if step.__name__ == 'clean' else run_tiles(step, **inputs)

    return run


class Propagation:
    """Goes over a scene backward and forward.

    Args:
        spec: Of the network.
        frames: LR frames (3, h, w), read by index; their number may grow.
        device: Where the network is.
        settings: How; `tile` is a number or None.
        skip: How many of the first HR frames are not wanted.
        progress: Counts backward steps and HR frames.
        forward: Where forward states are kept; None for nowhere.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        frames: DiskFrames | MemoryFrames,
        device: torch.device | None,
        settings: UpscaleSettings,
        skip: int,
        progress: Progress,
        forward: KeptStates | None = None,
    ):
        self._prepared = PreparedFrames(spec, frames, device)
        self.clip = Clip(spec.steps, self._prepared, step_runner(spec, device, settings))
        self._spec = spec
        self._frames = frames
        self._device = device
        self._skip = skip
        self._progress = progress
        self._forward_state = None  # of the last frame
        self._forward = forward
        self._last_kept = 0

    def wants_backward(self, end: int) -> bool:
        """Whether a segment up to frame `end` - 1 needs its backward states."""
        return self._spec.steps.has_step('backward_step') and (self._spec.steps.coupled or end > self._skip)

    def go_on(self) -> int:
        """Take up the last forward state that is kept and not after the first wanted frame; the frame that is next."""
        if self._forward is None:
            return 0
        self._last_kept, self._forward_state = self._forward.latest(self._skip)
        self._progress.add('upscale', self._last_kept)
        return self._last_kept

    def border(self, frame: int, segment: int, borders: DiskStates | KeptStates) -> State:
        """The backward state of the first frame after a segment: a kept one, or computed from the next that is kept.

        Args:
            frame: That frame.
            segment: Frames of a segment, at whose borders states are kept on the way.
            borders: Where they are kept, by frames.
        """
        state, computed_from = borders.load(frame), frame
        if state is None:
            computed_from = len(self.clip)
            # a state that was rounded to be kept is none to compute others from
            for later in range(frame + segment, len(self.clip), segment) if borders.dtype == torch.float32 else ():
                state = borders.load(later)
                if state is not None:
                    computed_from = later
                    break
        kept = state
        for i, computed in self.run_backward(frame, computed_from, state):
            if i % segment == 0:
                kept = borders.save(i, computed)
            self.clip.keep(i - 1, i)
        return kept

    def run_backward(self, start: int, end: int, state: State | None) -> Iterator[tuple[int, State]]:
        """Backward states of the frames `end` - 1 down to `start`, each with its frame's index.

        `state` is that of frame `end`; None: the pass starts after it.
        """
        for i in range(end - 1, start - 1, -1):
            state = self.clip.step('backward_step', i, state)
            self._progress.add('backward')
            yield i, state

    def upscale(self, start: int, end: int, state: State | None) -> Iterator[tuple[Tensor, Tensor]]:
        """LR and HR frames of `start` to `end` - 1, without the skipped ones; `state` as of `run_backward`.

        Segments are to be upscaled in order: the forward state is carried on from one to the next.
        """
        backward_states = {}
        if self.wants_backward(end):
            backward_states.update(self.run_backward(start, end, state))
        for i in range(start, end):
            backward_state = backward_states.pop(i, None)
            self._forward_state = self.clip.step('forward_step', i, self._forward_state, backward_state)
            if i < self._skip:
                self._progress.add('upscale')
            else:
                hr = self.clip.step('upsample', i, self._forward_state, backward_state)
                hr = crop(hr, self.clip.frame(i), self._prepared.size)
                self._progress.add('upscale')
                lq = self._frames[i]
                yield lq, finish(self._spec, hr[0], lq)
            self.clip.keep(i, len(self.clip))
            self._frames.forget(i)
        if self._forward is not None and end - self._last_kept >= KEEP_EVERY:
            self._forward.save(end, self._forward_state)
            self._last_kept = end
