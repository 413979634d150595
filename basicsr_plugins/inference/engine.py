"""Upscale a film of any length with a network of the registry, in memory that does not grow with its length.

    from basicsr_plugins.inference import UpscaleSettings, upscale_frames

    for hr in upscale_frames(net, lr_frames, UpscaleSettings(segment=20)):
        ...

A bidirectional recurrent network of which the single steps are known (EFAR, BasicVSR; see `propagation`) runs in one of
two modes:

- `exact`: what one pass over the whole scene gives, bit for bit on a CPU in float32. The scene is read to its end, its
  frames kept on disk; then the backward pass runs over it, and its states at the borders of segments are kept on disk
  as well. Then segment after segment goes forward, its backward states computed again from the border's. That is twice
  the backward steps (once, where the scene has no more than one segment). On disk are the LR frames and, for every
  segment, one state: 4 * c * h * w bytes in float32, with c channels.
- `stream`: one pass. Frames are put out in blocks of `segment`, when `lookahead` frames after the block have been read;
  the backward pass starts anew at the last of these, the forward state is carried on exactly. The latency is
  `lookahead` + `segment` frames (EFAR's forward step sees one frame ahead by itself, so it waits for one at least), the
  cost (`lookahead` + `segment`) / `segment` backward steps a frame; `segment=1` waits the least and costs the most.

What `stream` loses: a small EFAR (32 channels, 4 blocks, 1000 iterations on the demo clips) on a crop of Vid4 city (34
frames of 96 x 112) with `segment=1`, against `exact`, which reaches 23.052 dB. PSNR to `exact` over the frames that
differ; differences in grey levels of 255.

    lookahead                       0       5      10      20
    PSNR to exact, dB            38.5    58.2    73.2   102.7
    largest difference           36.5    13.6     2.3    0.05
    PSNR to ground truth, dB   22.883  23.052  23.052  23.052

Border states in float16 changed no value by more than 0.006 levels there. Tiles of 72 pixels, with an overlap of 8 to
32, changed none of the first 8 frames of Vid4 calendar by more than 0.0011 levels, with the same network.

Other networks of sequences run in either mode over chunks of `segment` frames with `lookahead` more on each side; these
are discarded, or faded into the neighbouring chunk where `blend` is set. Networks of windows and of single images are
run as in validation (`models.restoration`).

Shape shorthand: h and w height and width of the LR frame, s the scale.
"""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from basicsr_plugins.errors import InputError
from basicsr_plugins.inference.chunks import restore_chunks
from basicsr_plugins.inference.propagation import Clip, Propagation, has_steps, steps_of
from basicsr_plugins.inference.scenes import SceneDetector
from basicsr_plugins.inference.spool import FrameBuffer, FramesFrom, FrameSpool, StateSpool
from basicsr_plugins.inference.tiles import TiledRunner, restore_tiled, run_whole
from basicsr_plugins.models.restoration import input_type, restore_frames, window_length

MODES = ('exact', 'stream')
STATE_DTYPES = (torch.float32, torch.float16)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class UpscaleSettings:
    """How a film is upscaled.

    Args:
        mode: `exact` or `stream`, see the module.
        segment: Frames whose backward states are in memory at a time; in `stream` the frames of a block; of other
            networks the frames of a chunk.
        lookahead: Frames seen ahead in `stream`; of other networks what a chunk has more on each side.
        spool: Folder for LR frames and border states; None: the system's for temporary files.
        state_dtype: Of border states: float32, or float16 for half the space, no longer bit for bit.
        dtype: Of the computation: float32, bfloat16 or float16 (by `torch.autocast`; flow stays in float32).
        tile: Side of tiles, in LR pixels; None: the frame in one piece.
        tile_overlap: What is worked on around a tile, in LR pixels.
        scene_cuts: Whether cuts are looked for, and each scene upscaled by itself.
        scale: Upscaling factor, for TOFlow alone, which takes frames that are upsampled already.
        blend: Whether chunks are faded into each other, over at most half a chunk.

    Raises:
        InputError: If a value is out of its range.
    """

    mode: str = 'exact'
    segment: int = 10
    lookahead: int = 10
    spool: Path | None = None
    state_dtype: torch.dtype = torch.float32
    dtype: torch.dtype = torch.float32
    tile: int | None = None
    tile_overlap: int = 32
    scene_cuts: bool = True
    scale: int = 4
    blend: bool = False

    def __post_init__(self):
        for name, choices in (('mode', MODES), ('state_dtype', STATE_DTYPES), ('dtype', DTYPES)):
            if getattr(self, name) not in choices:
                raise InputError(
                    f'{name} is {getattr(self, name)!r}, but must be one of {", ".join(map(str, choices))}.'
                )
        for name, least in (('segment', 1), ('lookahead', 0), ('tile', 8), ('tile_overlap', 0), ('scale', 1)):
            value = getattr(self, name)
            if name == 'tile' and value is None:
                continue
            if not isinstance(value, numbers.Integral) or value < least:
                raise InputError(f'{name} is {value!r}, but must be a whole number from {least} on.')


def upscale_frames(
    net: nn.Module,
    frames: Iterable[Tensor],
    settings: UpscaleSettings | None = None,
    skip: int = 0,
    progress: Callable[[str, int], None] | None = None,
) -> Iterator[Tensor]:
    """Upscale a film; without gradients, the network in eval mode while it lasts.

    Args:
        net: A network for video or images of the registry, on its device.
        frames: LR frames (3, h, w), RGB in [0, 1], any float dtype, all of one size; consumed once, in order.
        settings: How; default: `UpscaleSettings()`.
        skip: So many HR frames are there already: they are not yielded, and nothing is computed that only they need.
        progress: Called with `read`, `backward` or `upscale`, and how many frames have gone through that so far; with
            the skipped ones, in `read` and `upscale`.

    Yields:
        HR frames (3, s * h, s * w), float32, RGB, not clamped, on the network's device, in order.

    Raises:
        InputError: If a frame has another shape, the network cannot be run in the asked dtype, or the folder for
            temporary files is full.
    """
    settings = UpscaleSettings() if settings is None else settings
    if skip < 0:
        raise InputError(f'skip is {skip}, but must be a whole number from 0 on.')
    if settings.dtype != torch.float32 and not has_steps(net) and _has_flow(net):
        raise InputError(
            f'dtype is {settings.dtype}, but {type(net).__name__} estimates optical flow, which needs torch.float32.'
        )
    return _upscale(net, frames, settings, skip, _Progress(progress))


def _has_flow(net: nn.Module) -> bool:
    return any('spynet' in type(module).__name__.lower() for module in net.modules())


@torch.no_grad()
def _upscale(net, frames, settings, skip, progress):
    device = next((tensor.device for tensor in itertools.chain(net.parameters(), net.buffers())), None)
    restore = partial(_choose(net, settings), net, device=device, settings=settings, progress=progress)
    with _in_eval_mode(net):
        for scene in _scenes(frames, settings.scene_cuts, progress):
            missing = max(skip - progress.count['upscale'], 0)
            for frame in restore(scene, skip=missing):
                yield frame.float()


def _choose(net: nn.Module, settings: UpscaleSettings) -> Callable[..., Iterator[Tensor]]:
    """The way to restore a scene: (net, scene, device=, settings=, skip=, progress=) -> HR frames."""
    if has_steps(net):
        return _restore_exactly if settings.mode == 'exact' else _restore_stream
    return _restore_otherwise


@contextmanager
def _in_eval_mode(net: nn.Module):
    training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(training)


def _precision(device: torch.device | None, dtype: torch.dtype):
    """A context in which networks on `device` compute in `dtype`."""
    kind = 'cpu' if device is None else device.type
    return nullcontext() if dtype == torch.float32 else torch.autocast(kind, dtype)


class _Progress:
    """Counts frames, and tells the count."""

    def __init__(self, tell: Callable[[str, int], None] | None):
        self.count = {'read': 0, 'backward': 0, 'upscale': 0}
        self._tell = tell

    def add(self, stage: str, number: int = 1) -> None:
        self.count[stage] += number
        if self._tell is not None:
            self._tell(stage, self.count[stage])


def _scenes(frames: Iterable[Tensor], scene_cuts: bool, progress: _Progress) -> Iterator[Iterator[Tensor]]:
    """The film's scenes, each an iterator of its frames, to be gone through in order."""
    detector = SceneDetector()
    scene = 0

    def numbered():
        nonlocal scene
        for frame in _checked(frames):
            scene += scene_cuts and detector.starts_scene(frame)
            progress.add('read')
            yield scene, frame

    for _, group in itertools.groupby(numbered(), key=lambda pair: pair[0]):
        yield (frame for _, frame in group)


def _checked(frames: Iterable[Tensor]) -> Iterator[Tensor]:
    size = None
    for i, frame in enumerate(frames):
        if frame.dim() != 3 or frame.size(0) != 3 or not frame.is_floating_point():
            raise InputError(
                f'frames must be (3, h, w) and float, but frame {i} is {tuple(frame.shape)}, {frame.dtype}.'
            )
        size = frame.shape if size is None else size
        if frame.shape != size:
            raise InputError(f'frame {i} is {frame.size(2)}x{frame.size(1)}, but the first {size[2]}x{size[1]}.')
        yield frame


# ---------------------------------------------------------------------------- networks that run step by step


def _steps(net: nn.Module, device: torch.device | None, settings: UpscaleSettings):
    run_tiles = TiledRunner(settings.tile, settings.tile_overlap) if settings.tile else run_whole

    def run(function, *tensors, flows=()):
        with _precision(device, settings.dtype):
            return run_tiles(function, *tensors, flows=flows)

    return steps_of(net, run)


def _put_out(upscaled: Iterator[Tensor | None], progress: _Progress) -> Iterator[Tensor]:
    """Count the HR frames, and hand those on that are wanted."""
    for frame in upscaled:
        progress.add('upscale')
        if frame is not None:
            yield frame[0]


def _restore_exactly(net, scene, device, settings, skip, progress):
    with FrameSpool(settings.spool) as frames, StateSpool(settings.spool, settings.state_dtype) as borders:
        for frame in scene:
            frames.append(frame)
        if len(frames) <= skip:
            progress.add('upscale', len(frames))
            return
        steps = _steps(net, device, settings)
        clip = Clip(steps, frames, device)
        propagation = Propagation(clip, steps, skip, partial(progress.add, 'backward'))
        segments = _segments(len(frames), settings.segment)

        first = next(start for start, end in segments if propagation.wants_backward(end))
        for i, state in propagation.run_backward(first + settings.segment, len(frames), None):
            if i % settings.segment == 0:
                borders.save(i // settings.segment, state)
            clip.keep(i - 1, i)
        for start, end in segments:
            needs_border = end < len(frames) and start >= first
            state = borders.load(end // settings.segment) if needs_border else None
            yield from _put_out(propagation.upscale(start, end, state), progress)


def _segments(number: int, length: int) -> list[tuple[int, int]]:
    return [(start, min(start + length, number)) for start in range(0, number, length)]


def _restore_stream(net, scene, device, settings, skip, progress):
    with FrameSpool(settings.spool) as spool:
        # no state is computed before it is sure that the scene outlasts what is skipped
        frames = spool if skip else FrameBuffer()
        _read(scene, frames, skip + 1)
        if len(frames) <= skip:
            progress.add('upscale', len(frames))
            return
        steps = _steps(net, device, settings)
        clip = Clip(steps, frames, device)
        propagation = Propagation(clip, steps, skip, partial(progress.add, 'backward'))
        start = 0
        while True:
            end = start + settings.segment
            _read(scene, frames, end + max(settings.lookahead, steps.ahead))
            if start >= len(frames):
                return
            end = min(end, len(frames))
            seen = min(end + settings.lookahead, len(frames)) if propagation.wants_backward(end) else end
            state = propagation.last_backward_state(end, seen)
            yield from _put_out(propagation.upscale(start, end, state), progress)
            start = end


def _read(scene: Iterator[Tensor], frames: FrameSpool | FrameBuffer, number: int) -> None:
    """Read on until there are `number` frames, or the scene ends."""
    for frame in itertools.islice(scene, max(number - len(frames), 0)):
        frames.append(frame)


# ---------------------------------------------------------------------------- all other networks


def _restore_otherwise(net, scene, device, settings, skip, progress):
    if input_type(net) == 'image':  # one at a time: nothing to keep
        for i, frame in enumerate(scene):
            restored = list(_restore_spooled(net, [frame], device, settings, 0)) if i >= skip else []
            progress.add('upscale')
            yield from restored
        return
    with FrameSpool(settings.spool) as frames:
        for frame in scene:
            frames.append(frame)
        progress.add('upscale', min(skip, len(frames)))
        if len(frames) > skip:
            for frame in _restore_spooled(net, frames, device, settings, skip):
                progress.add('upscale')
                yield frame


def _restore_spooled(net, frames, device, settings, skip) -> Iterator[Tensor]:
    """The frames of a scene from `skip` on."""
    restored = partial(_restore, net, settings, skip)
    if settings.tile:
        restored = partial(restore_tiled, restored, tile=settings.tile, overlap=settings.tile_overlap)
    restored = restored(frames)
    while True:
        with _precision(device, settings.dtype):
            frame = next(restored, None)
        if frame is None:
            return
        yield frame


def _restore(net, settings, skip, frames):
    if input_type(net) == 'sequence':
        return restore_chunks(net, frames, settings.segment, settings.lookahead, settings.blend, skip)
    # frames before `skip` that its window shows, or mirrors at the end of the scene, come out wrong and are discarded
    start = max(skip - window_length(net), 0) if skip else 0
    restored = restore_frames(net, FramesFrom(frames, start), scale=settings.scale)
    return itertools.islice(restored, skip - start, None)
