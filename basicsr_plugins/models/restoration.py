"""Restore a clip, frame after frame, with a network of any kind: of sequences, of windows, of single images.

Shape shorthand: t frames, h and w height and width of the LQ frame, s the scale, n the window length, c channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from basicsr.data.data_util import generate_frame_indices
from basicsr.utils.color_util import rgb2ycbcr_pt
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.bicubic_arch import Bicubic
from basicsr_plugins.errors import InputError
from basicsr_plugins.models.network_spec import NetworkSpec, spec_of
from basicsr_plugins.scales import Scale, true_scale

PADDING_MODES = ('replicate', 'reflection', 'reflection_circle', 'circle')
LUMA_OF_WHITE = 219 / 255  # Y of BT.601 minus that of black


def restore_frames(
    net: nn.Module, frames: Sequence[Tensor], padding: str = 'reflection_circle', flip_seq: bool = False
) -> Iterator[Tensor]:
    """Restore a clip; call it in eval mode, without gradients.

    A network of sequences runs over the whole clip before the first frame comes, and its memory grows with the clip.
    The others read the frames that they need when the restored one is asked for, and keep no more than one window.

    Args:
        net: The network, not wrapped by DistributedDataParallel.
        frames: t frames (3, h, w), RGB in [0, 1], on any device; read by index.
        padding: How windows go on beyond the ends of the clip: the toolbox's modes `replicate`, `reflection`,
            `reflection_circle`, `circle`.
        flip_seq: Feed a network of sequences the clip followed by its reverse, and average (as BasicVSR's tests do).

    Yields:
        t frames (3, s * h, s * w), on the network's device; 2 * t - 1 of a network of twice the frame rate.

    Raises:
        InputError: If the padding mode is unknown, or `flip_seq` is asked of another than a network of sequences.
    """
    if padding not in PADDING_MODES:
        raise InputError(f'padding is {padding!r}, but must be one of {", ".join(PADDING_MODES)}.')
    spec = spec_of(net)
    if flip_seq:
        check_flip(spec)
    if spec.input_type == 'sequence':
        return _restore_sequence(net, frames, flip_seq)
    if spec.input_type == 'window':
        return _restore_windows(net, spec, frames, padding)
    return _restore_images(net, spec, frames)


def check_flip(spec: NetworkSpec) -> None:
    """Refuse `flip_seq` of a network that does not take whole clips.

    Raises:
        InputError: Naming it.
    """
    if spec.input_type != 'sequence':
        raise InputError(f'flip_seq is for recurrent networks, but {spec.name} takes one {spec.input_type} at a time.')


def device_of(net: nn.Module) -> torch.device | None:
    """Where a network is; None where it has no tensors, and runs where the frames are."""
    return next((tensor.device for tensor in itertools.chain(net.parameters(), net.buffers())), None)


# ---------------------------------------------------------------------------- what goes in and what comes out


def prepare_lq(spec: NetworkSpec, lq: Tensor) -> Tensor:
    """(..., 3, h, w), RGB -> what the network takes of it: luma alone, bicubically enlarged, or as it is."""
    if spec.colour == 'y':
        lq = luma(lq)
    if spec.lq == 'bicubic':
        lq = _enlarge(lq, spec.scale)
    return lq


def prepare_sample(net: nn.Module, lq: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
    """A training sample as a network takes it, and what its output is compared with.

    Args:
        net: The network.
        lq: (b, t, 3, h, w), RGB in [0, 1].
        gt: (b, t, 3, s * h, s * w), of a network of twice the frame rate (b, 2 * t - 1, 3, s * h, s * w); or that of
            the centre frame alone, (b, 3, s * h, s * w).

    Raises:
        InputError: If the sample's length is not the network's, or it lacks the GT of a frame.
    """
    spec = spec_of(net)
    if spec.input_type == 'sequence' and gt.dim() != 5:
        raise InputError(
            f'{spec.name} restores every frame, but the samples have GT of the centre frame only; '
            'Vimeo90KDataset is for sliding-window networks, Vimeo90KRecurrentDataset for recurrent ones.'
        )
    if spec.input_type == 'sequence' and gt.size(1) != spec.num_output(lq.size(1)):
        raise InputError(
            f'{spec.name} makes {spec.num_output(lq.size(1))} frames of {lq.size(1)}, but the samples have GT of '
            f'{gt.size(1)}; set lq_interval of the training set to {spec.time_scale}.'
        )
    if spec.input_type == 'window':
        if lq.size(1) != spec.num_frame:
            raise InputError(
                f'{spec.name} takes windows of {spec.num_frame} frames, but the samples have {lq.size(1)}; '
                'set num_frame of the training set.'
            )
        gt = gt[:, gt.size(1) // 2] if gt.dim() == 5 else gt
    if spec.input_type == 'image':
        lq, gt = (lq[:, lq.size(1) // 2], gt) if gt.dim() == 4 else (lq.flatten(0, 1), gt.flatten(0, 1))
    return prepare_lq(spec, lq), luma(gt) if spec.colour == 'y' else gt


def finish(spec: NetworkSpec, output: Tensor, lq: Tensor) -> Tensor:
    """The network's output as RGB: luma gets the bicubically enlarged chroma of its LQ frame.

    Args:
        spec: The network's.
        output: (..., c, s * h, s * w).
        lq: (..., 3, h, w), RGB, on any device.
    """
    if spec.colour == 'rgb':
        return output
    enlarged = _enlarge(lq.to(output), true_scale(lq.shape[-2:], output.shape[-2:]))
    return enlarged + (output - luma(enlarged)) / LUMA_OF_WHITE  # grey changes luma alone


def luma(rgb: Tensor) -> Tensor:
    """(..., 3, h, w), RGB in [0, 1] -> (..., 1, h, w), Y of BT.601 as the toolbox has it, 16 / 255 to 235 / 255."""
    return rgb2ycbcr_pt(rgb.reshape(-1, *rgb.shape[-3:]), y_only=True).reshape(*rgb.shape[:-3], 1, *rgb.shape[-2:])


def _enlarge(images: Tensor, scale: Scale) -> Tensor:
    enlarged = Bicubic(scale).upsample(images.reshape(-1, *images.shape[-3:]))
    return enlarged.reshape(*images.shape[:-2], *enlarged.shape[-2:])


def run_padded(net: nn.Module, spec: NetworkSpec, x: Tensor) -> Tensor:
    """Run a network on what it takes, (1, ..., c, h, w), however small, and crop its output.

    A frame under the least size goes on by its border; sides that do not divide by the network's multiple are mirrored.
    """
    padded = pad(spec, x)
    return crop(net(padded), padded, x.shape[-2:])


def pad(spec: NetworkSpec, x: Tensor) -> Tensor:
    """What a network takes, (..., c, h, w), however small -> (..., c, h', w'), of a size that it can take."""
    h, w = x.shape[-2:]
    padded = _pad(x, max(spec.min_size - h, 0), max(spec.min_size - w, 0), 'replicate')
    bottom, right = (-side % spec.size_multiple for side in padded.shape[-2:])
    return _pad(padded, bottom, right, 'reflect' if bottom < h and right < w else 'replicate')


def crop(output: Tensor, padded: Tensor, size: tuple[int, int]) -> Tensor:
    """What a network made of `padded`, without what `pad` added to (h, w); sizes that are not whole are rounded."""
    height, width = (
        math.floor(length * given / taken + 0.5)
        for length, given, taken in zip(size, output.shape[-2:], padded.shape[-2:])
    )
    return output[..., :height, :width]


def _pad(x: Tensor, bottom: int, right: int, mode: str) -> Tensor:
    if bottom == right == 0:
        return x
    h, w = x.shape[-2:]
    padded = F.pad(x.flatten(0, -4), (0, right, 0, bottom), mode=mode)
    return padded.reshape(*x.shape[:-2], h + bottom, w + right)


# ---------------------------------------------------------------------------- three kinds of networks


def _restore_sequence(net: nn.Module, frames: Sequence[Tensor], flip_seq: bool) -> Iterator[Tensor]:
    t = len(frames)
    lq = torch.stack([frames[i] for i in range(t)]).unsqueeze(0).to(device_of(net))  # (1, t, 3, h, w)
    if flip_seq:
        output = run_sequence(net, torch.cat([lq, lq.flip(1)], dim=1))
        t = spec_of(net).num_output(t)
        output = 0.5 * (output[:, :t] + output[:, -t:].flip(1))
    else:
        output = run_sequence(net, lq)
    yield from output[0]


def run_sequence(net: nn.Module, lq: Tensor) -> Tensor:
    """Run a network of sequences on a clip however short and small: (1, t, 3, h, w) -> (1, t, 3, s * h, s * w).

    Where frames are missing, the clip goes on by its last one, and what comes of that is cut off.
    """
    spec = spec_of(net)
    t = lq.size(1)
    longer = lq[:, [min(i, t - 1) for i in range(max(t, spec.min_frames))]]
    output = run_padded(net, spec, prepare_lq(spec, longer))
    if spec.time_scale > 1:
        return output[:, : spec.num_output(t)]
    return finish(spec, output[:, : output.size(1) + t - longer.size(1)], lq)


def _restore_images(net: nn.Module, spec: NetworkSpec, frames: Sequence[Tensor]) -> Iterator[Tensor]:
    for i in range(len(frames)):
        frame = frames[i].unsqueeze(0).to(device_of(net))
        yield finish(spec, run_padded(net, spec, prepare_lq(spec, frame)), frame)[0]


def _restore_windows(net: nn.Module, spec: NetworkSpec, frames: Sequence[Tensor], padding: str) -> Iterator[Tensor]:
    """A network may have `extract_features(frame)`, which is called once for all windows that show the frame, and
    `restore(frame, feats)`, from the centre frame and the features of its window."""
    t = len(frames)
    by_features = hasattr(net, 'extract_features')
    kept = {}  # index of the frame -> the frame, and what the network takes of it
    for i in range(t):
        # in a clip shorter than half a window the toolbox's mirrored indices leave it
        window = [min(max(index, 0), t - 1) for index in generate_frame_indices(i, t, spec.num_frame, padding)]
        kept = {index: value for index, value in kept.items() if index in window}
        for index in window:
            if index not in kept:
                frame = frames[index].unsqueeze(0).to(device_of(net))
                prepared = prepare_lq(spec, frame)
                kept[index] = frame, net.extract_features(prepared) if by_features else prepared
        shown = [kept[index][1] for index in window]
        if by_features:
            output = net.restore(prepare_lq(spec, kept[i][0]), shown)
        else:
            output = run_padded(net, spec, torch.stack(shown, dim=1))
        yield finish(spec, output, kept[i][0])[0]
