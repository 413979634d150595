"""Run a network that has steps over a scene, a segment of frames at a time, with the states of few frames in memory.

Shape shorthand: c channels, h and w height and width of the LR frame, s the scale.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from basicsr_plugins.archs.recurrent import Clip, State, call
from basicsr_plugins.inference.buffers import DiskFrames, DiskStates, MemoryFrames
from basicsr_plugins.inference.settings import Progress, UpscaleSettings, precision
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
) -> Iterator[tuple[Tensor, Tensor]]:
    """LR and HR frames of a scene, from frame `skip` on, as one pass over the whole scene gives them."""
    if not spec.steps.has_step('backward_step'):
        yield from restore_stream(spec, scene, device, settings, skip, progress)
        return
    with DiskFrames(settings.temp_dir) as frames, DiskStates(settings.temp_dir, settings.state_dtype) as borders:
        for frame in scene:
            frames.append(frame)
        if len(frames) <= skip:
            progress.add('upscale', len(frames))
            return
        propagation = Propagation(spec, frames, device, settings, skip, progress)
        number, length = len(frames), settings.segment
        segments = [(start, min(start + length, number)) for start in range(0, number, length)]

        first = next(start for start, end in segments if propagation.wants_backward(end))
        for i, state in propagation.run_backward(first + length, number, None):
            if i % length == 0:
                borders.save(i // length, state)
            propagation.clip.keep(i - 1, i)
        for start, end in segments:
            needs_border = end < number and start >= first
            state = borders.load(end // length) if needs_border else None
            yield from propagation.upscale(start, end, state)


def restore_stream(
    spec: NetworkSpec,
    scene: Iterator[Tensor],
    device: torch.device | None,
    settings: UpscaleSettings,
    skip: int,
    progress: Progress,
) -> Iterator[tuple[Tensor, Tensor]]:
    """As `restore_exactly`, in one pass that sees `settings.lookahead` frames ahead."""
    is_online = not spec.steps.has_step('backward_step')  # it needs no more than what it says itself
    segment, lookahead = (1, 0) if is_online else (settings.segment, settings.lookahead)
    with DiskFrames(settings.temp_dir) as on_disk:
        # no state is computed before it is sure that the scene outlasts what is skipped
        frames = on_disk if skip else MemoryFrames()
        _read(scene, frames, skip + 1)
        if len(frames) <= skip:
            progress.add('upscale', len(frames))
            return
        propagation = Propagation(spec, frames, device, settings, skip, progress)
        start = 0
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


def _read(scene: Iterator[Tensor], frames: DiskFrames | MemoryFrames, number: int) -> None:
    """Read on until there are `number` frames, or the scene ends."""
    for frame in itertools.islice(scene, max(number - len(frames), 0)):
        frames.append(frame)


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
        prepared = prepare_lq(self._spec, self._frames[i].to(self._device, torch.float32).unsqueeze(0))
        self.size = prepared.shape[-2:]
        return pad(self._spec, prepared)


def step_runner(spec: NetworkSpec, device: torch.device | None, settings: UpscaleSettings) -> Callable[..., State]:
    """What calls the steps, in the dtype and the tiles of the settings: flow always whole and in float32."""
    run_tiles = TiledRunner(settings.tile, settings.tile_overlap, spec.size_multiple) if settings.tile else call

    def run(step: Callable[..., State], **inputs: State | None) -> State:
        if step.__name__ == 'flow':
            return step(**inputs)
        with precision(device, settings.dtype):
            return run_tiles(step, **inputs)

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
    """

    def __init__(
        self,
        spec: NetworkSpec,
        frames: DiskFrames | MemoryFrames,
        device: torch.device | None,
        settings: UpscaleSettings,
        skip: int,
        progress: Progress,
    ):
        self._prepared = PreparedFrames(spec, frames, device)
        self.clip = Clip(spec.steps, self._prepared, step_runner(spec, device, settings))
        self._spec = spec
        self._frames = frames
        self._device = device
        self._skip = skip
        self._progress = progress
        self._forward_state = None  # of the last frame

    def wants_backward(self, end: int) -> bool:
        """Whether a segment up to frame `end` - 1 needs its backward states."""
        return self._spec.steps.has_step('backward_step') and (self._spec.steps.coupled or end > self._skip)

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
                yield lq, finish(self._spec, hr[0], lq.to(hr))
            self.clip.keep(i, len(self.clip))
            self._frames.forget(i)
