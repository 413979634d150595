"""Upscale a film of any length with a network of the registry, in memory that does not grow with its length.

    from basicsr_plugins.inference import UpscaleSettings, upscale_frames

    for hr in upscale_frames(net, lr_frames, UpscaleSettings(segment=20)):
        ...

A network that has steps (`archs.recurrent`; the toolbox's BasicVSR too) runs in one of two modes:

- `exact`: what one pass over the whole scene gives, bit for bit on a CPU in float32. The scene is read to its end, its
  frames kept on disk; then the backward pass runs over it, and its states at the borders of segments are kept on disk
  as well. Then segment after segment goes forward, its backward states computed again from the border's. That is twice
  the backward steps (once, where the scene has no more than one segment). On disk are the LR frames and, for every
  segment, one state: 4 * c * h * w bytes in float32, with c channels.
- `stream`: one pass. Frames are yielded in blocks of `segment`, when `lookahead` frames after the block have been read;
  the backward pass starts anew at the last of these, the forward state is carried on exactly. The latency is
  `lookahead` + `segment` frames (EFAR's forward step sees one frame ahead by itself, so it waits for one at least), the
  cost (`lookahead` + `segment`) / `segment` backward steps a frame; `segment=1` waits the least and costs the most.
  docs/upscaling.md shows what it loses, by scripts/benchmark_lookahead.py.

A network without a backward pass is the same in both: it keeps nothing on disk and waits for no more than it sees.

Networks of sequences without steps run in either mode over chunks of `segment` frames with `lookahead` more on each
side; these are discarded, or faded into the neighbouring chunk where `blend` is set. Networks of windows and of single
images run as in validation (`models.restoration`).

Shape shorthand: h and w height and width of the LR frame, s the scale.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from basicsr_plugins.archs.recurrent import split_times
from basicsr_plugins.errors import InputError
from basicsr_plugins.inference.buffers import DiskFrames, FramesFrom
from basicsr_plugins.inference.chunks import restore_chunks
from basicsr_plugins.inference.prepared import compiled, prepared
from basicsr_plugins.inference.propagation import restore_exactly, restore_stream
from basicsr_plugins.inference.scenes import SceneDetector
from basicsr_plugins.inference.settings import Progress, UpscaleSettings, precision
from basicsr_plugins.inference.tiles import TiledRunner, restore_tiled
from basicsr_plugins.models.network_spec import NetworkSpec, spec_of
from basicsr_plugins.models.restoration import device_of, restore_frames
from basicsr_plugins.scales import scaled_size, whole_place


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
        frames: LR frames (3, h, w), RGB in [0, 1], any float dtype, consumed once, in order. One of
            another size than the one before starts a scene.
        settings: How; default: `UpscaleSettings()`.
        skip: So many HR frames are there already: they are not yielded, and nothing is computed that only they need.
        progress: Called with `read`, `backward` or `upscale`, and how many LR frames have gone through that so far;
            with the skipped ones, in `read` and `upscale`.

    Yields:
        HR frames (3, s * h, s * w), float32, RGB, not clamped, on the network's device, in order; of a network of twice
        the frame rate 2 * n - 1 for n LR frames, those at a cut a repetition.

    Raises:
        InputError: If a frame has another shape, the network cannot be run in the asked dtype, or the folder for
            temporary files is full.
    """
    pairs = upscale_pairs(net, frames, settings, skip, progress)

    def upscaled():
        with contextlib.closing(pairs):
            for _, hr in pairs:
                yield hr

    return upscaled()


def upscale_pairs(
    net: nn.Module,
    frames: Iterable[Tensor],
    settings: UpscaleSettings | None = None,
    skip: int = 0,
    progress: Callable[[str, int], None] | None = None,
    keep: Path | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """As `upscale_frames`, each HR frame with its LR frame, (3, h, w), as it was given but for its dtype.

    In the folder `keep`, if it is given, states of the network outlast the run: one with the same network, frames and
    settings goes on from them. What it does not need any more `buffers.forget_states` removes.
    """
    settings = UpscaleSettings() if settings is None else settings
    spec = spec_of(net)
    if skip < 0:
        raise InputError(f'skip is {skip}, but must be a whole number from 0 on.')
    if settings.dtype != torch.float32 and spec.steps is None and spec.estimates_flow:
        raise InputError(
            f'dtype is {settings.dtype}, but {spec.name} estimates optical flow, which needs torch.float32.'
        )
    if settings.compiled and hasattr(net, 'runtime'):
        raise InputError(f'compiled: that is for PyTorch, but {spec.name} runs by {net.runtime}.')
    if spec.time_scale != 1 and spec.steps is None:
        raise InputError(f'{spec.name} makes frames between those it is given, and has no steps: it cannot upscale.')
    done = skip // spec.time_scale  # LR frames
    pairs = _upscale(net, frames, settings, done, Progress(progress), keep)
    return _after(pairs, skip - done * spec.time_scale)


def _after(pairs: Iterator, skip: int) -> Iterator:
    with contextlib.closing(pairs):
        yield from itertools.islice(pairs, skip, None)


def notes_on(net: nn.Module, settings: UpscaleSettings) -> list[str]:
    """Sentences about what a user should know of how a network is run."""
    spec = spec_of(net)
    notes = [f'{spec.name} has no steps, and is not compiled.'] if settings.compiled and spec.steps is None else []
    if spec.input_type != 'sequence' or spec.steps is not None:
        return notes
    lost = ', so mode exact is not what one pass over the film gives' if settings.mode == 'exact' else ''
    return [
        *notes,
        f'{spec.name} has no steps and runs over chunks of {settings.segment} frames, with {settings.lookahead} more '
        f'on each side{lost}.',
    ]


@torch.no_grad()
def _upscale(net, frames, settings, skip, progress, keep):
    """Pairs from LR frame `skip` on; where scenes meet, the last frame of the first stays for one between them."""
    last = None  # of the scene before, where a frame between is missing
    with prepared(net, settings.dtype) as net:
        spec = spec_of(net)
        if settings.compiled and spec.steps is not None:
            spec = replace(spec, steps=compiled(spec.steps, device_of(net)))
        for size, scene in _scenes(frames, settings.scene_cuts, progress):
            missing = max(skip - progress.count['upscale'], 0)
            of_size = replace(settings, tile=settings.tile_side(size))
            for lq, hr in _choose(net, spec, of_size, keep)(scene, device_of(net), of_size, missing, progress):
                for one in split_times(spec, hr.float()):
                    if last is not None:
                        yield last
                        last = None
                    yield lq, one
            if spec.time_scale > 1 and progress.count['upscale'] > skip:
                last = lq, one


def _choose(net: nn.Module, spec: NetworkSpec, settings: UpscaleSettings, keep: Path | None) -> Callable[..., Iterator]:
    """The way to restore a scene: (scene, device, settings, skip, progress) -> LR and HR frames."""
    if spec.steps is None:
        return partial(_restore_otherwise, net, spec)
    return partial(restore_exactly if settings.mode == 'exact' else restore_stream, spec, keep=keep)


def _scenes(
    frames: Iterable[Tensor], scene_cuts: bool, progress: Progress
) -> Iterator[tuple[torch.Size, Iterator[Tensor]]]:
    """The film's scenes, each the (h, w) and an iterator of its frames, to be gone through in order."""
    detector = SceneDetector()
    scene = 0

    def numbered():
        nonlocal scene
        for frame in _checked(frames):
            scene += scene_cuts and detector.starts_scene(frame)
            progress.add('read')
            yield (scene, frame.shape[-2:]), frame

    for (_, size), group in itertools.groupby(numbered(), key=lambda pair: pair[0]):
        yield size, (frame for _, frame in group)


def _checked(frames: Iterable[Tensor]) -> Iterator[Tensor]:
    for i, frame in enumerate(frames):
        if frame.dim() != 3 or frame.size(0) != 3 or not frame.is_floating_point():
            raise InputError(
                f'frames must be (3, h, w) and float, but frame {i} is {tuple(frame.shape)}, {frame.dtype}.'
            )
        yield frame


# ---------------------------------------------------------------------------- networks without steps


def _restore_otherwise(net, spec, scene, device, settings, skip, progress):
    if spec.input_type == 'image':  # one at a time: nothing to keep
        for i, frame in enumerate(scene):
            pairs = list(_restore_kept(net, spec, [frame], device, settings, 0)) if i >= skip else []
            progress.add('upscale')
            yield from pairs
        return
    with DiskFrames(settings.temp_dir) as frames:
        for frame in scene:
            frames.append(frame)
        progress.add('upscale', min(skip, len(frames)))
        if len(frames) > skip:
            for pair in _restore_kept(net, spec, frames, device, settings, skip):
                progress.add('upscale')
                yield pair


def _restore_kept(net, spec, frames, device, settings, skip) -> Iterator[tuple[Tensor, Tensor]]:
    """The frames of a scene from `skip` on."""
    restored = partial(_restore, net, spec, settings, skip)
    if settings.tile and spec.takes_places:
        restored = partial(_restore_places, net, spec, settings)
    elif settings.tile:
        restored = partial(
            restore_tiled,
            restored,
            tile=settings.tile,
            overlap=settings.tile_overlap,
            multiple=spec.lr_multiple,
            folder=settings.whole_dir,
        )
    restored = restored(frames)
    for i in itertools.count(skip):
        with precision(device, settings.dtype):
            frame = next(restored, None)
        if frame is None:
            return
        yield frames[i], frame


def _restore_places(net, spec, settings, frames):
    """Images in tiles whose borders may lie between HR pixels."""
    run_tiles = TiledRunner(settings.tile, settings.tile_overlap, spec.size_multiple, settings.whole_dir)
    for i in range(len(frames)):
        frame = frames[i].unsqueeze(0).to(device_of(net))
        size = frame.shape[-2:]
        yield run_tiles(net, x=frame, places=(whole_place(size, scaled_size(size, spec.scale)),))[0]


def _restore(net, spec, settings, skip, frames):
    if spec.input_type == 'sequence':
        return restore_chunks(net, frames, settings.segment, settings.lookahead, settings.blend, skip)
    # frames before `skip` that its window shows, or mirrors at the end of the scene, come out wrong and are discarded
    start = max(skip - spec.num_frame, 0) if skip else 0
    return itertools.islice(restore_frames(net, FramesFrom(frames, start)), skip - start, None)
