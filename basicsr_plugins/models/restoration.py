"""Restore a clip, frame after frame, with a network of any kind: recurrent, sliding-window or single-image.

Shape shorthand: t frames, h and w height and width of the LQ frame, s the scale, n the window length.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from basicsr.data.data_util import generate_frame_indices
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.bicubic_arch import Bicubic
from basicsr_plugins.errors import InputError

PADDING_MODES = ('replicate', 'reflection', 'reflection_circle', 'circle')
TOOLBOX_VIDEO_NETWORKS = {
    'BasicVSR': 'sequence',
    'IconVSR': 'sequence',
    'BasicVSRPlusPlus': 'sequence',
    'EDVR': 'window',
    'TOFlow': 'window',
    'DUF': 'window',
}


def input_type(net: nn.Module) -> str:
    """What one forward pass of a network takes.

    Of the toolbox's networks it is known. Others say it by an attribute `input_type`; where they do not, it is a
    sequence. A network of windows has its window length as attribute `num_frame`.

    Returns:
        `sequence`: (b, t, 3, h, w) -> (b, t, 3, s * h, s * w). `window`: (b, n, 3, h, w) -> (b, 3, s * h, s * w), the
        centre frame. `image`: (b, 3, h, w) -> (b, 3, s * h, s * w).
    """
    if hasattr(net, 'input_type'):
        return net.input_type
    if type(net).__module__.startswith('basicsr.'):
        return TOOLBOX_VIDEO_NETWORKS.get(type(net).__name__, 'image')
    return 'sequence'


def restore_frames(
    net: nn.Module,
    frames: Sequence[Tensor],
    padding: str = 'reflection_circle',
    flip_seq: bool = False,
    scale: int = 4,
) -> Iterator[Tensor]:
    """Restore a clip; call it in eval mode, without gradients.

    A recurrent network runs over the whole clip before the first frame comes, and its memory grows with the clip. The
    others read the frames that they need when the restored one is asked for, and keep no more than one window.

    Args:
        net: The network, not wrapped by DistributedDataParallel.
        frames: t frames (3, h, w), RGB in [0, 1], on any device; read by index.
        padding: How windows go on beyond the ends of the clip: the toolbox's modes `replicate`, `reflection`,
            `reflection_circle`, `circle`.
        flip_seq: Feed a recurrent network the clip followed by its reverse, and average (as BasicVSR's tests do).
        scale: Upscaling factor, for TOFlow alone, which takes frames that are bicubically upsampled already.

    Yields:
        t frames (3, s * h, s * w), on the network's device.

    Raises:
        InputError: If the padding mode is unknown, or `flip_seq` is asked of another than a recurrent network.
    """
    if padding not in PADDING_MODES:
        raise InputError(f'padding is {padding!r}, but must be one of {", ".join(PADDING_MODES)}.')
    kind = input_type(net)
    if flip_seq and kind != 'sequence':
        raise InputError(f'flip_seq is for recurrent networks, but {type(net).__name__} takes one {kind} at a time.')
    tensor = next(itertools.chain(net.parameters(), net.buffers()), None)
    device = None if tensor is None else tensor.device  # None: where the frames are
    if kind == 'sequence':
        return _restore_sequence(net, frames, device, flip_seq)
    if kind == 'window':
        return _restore_windows(_window_network(net, scale), frames, device, padding)
    return _restore_images(net, frames, device)


def _restore_sequence(net: nn.Module, frames: Sequence[Tensor], device, flip_seq: bool) -> Iterator[Tensor]:
    t = len(frames)
    lq = torch.stack([frames[i] for i in range(t)]).unsqueeze(0).to(device)  # (1, t, 3, h, w)
    if flip_seq:
        output = run_sequence(net, torch.cat([lq, lq.flip(1)], dim=1))
        output = 0.5 * (output[:, :t] + output[:, t:].flip(1))
    else:
        output = run_sequence(net, lq)
    yield from output[0]


def run_sequence(net: nn.Module, lq: Tensor) -> Tensor:
    """Run a recurrent network on a clip however short and small: (1, t, 3, h, w) -> (1, t, 3, s * h, s * w).

    The toolbox's IconVSR needs some frames, its BasicVSR++ 64 pixels a side; where they are missing, the clip goes on
    by its last frame and its border, and what comes of that is cut off.
    """
    t, h, w = lq.size(1), *lq.shape[-2:]
    # IconVSR mirrors the windows of its EDVR at the ends
    least_t = 2 * net.temporal_padding + 1 if hasattr(net, 'temporal_padding') else 1
    least_size = 64 if type(net).__name__ == 'BasicVSRPlusPlus' else 1
    bottom, right = max(least_size - h, 0), max(least_size - w, 0)
    if t >= least_t and bottom == right == 0:
        return net(lq)
    longer = lq[:, [min(i, t - 1) for i in range(max(t, least_t))]]
    padded = F.pad(longer.flatten(0, 1), (0, right, 0, bottom), mode='replicate').unflatten(0, longer.shape[:2])
    output = net(padded)
    s = output.size(-1) // padded.size(-1)
    return output[:, :t, :, : s * h, : s * w]


def _restore_images(net: nn.Module, frames: Sequence[Tensor], device) -> Iterator[Tensor]:
    blocks = [module for module in net.modules() if type(module).__name__ == 'SwinTransformerBlock']
    multiple = max((block.window_size for block in blocks), default=1)
    for i in range(len(frames)):
        yield _run_padded(net, frames[i].unsqueeze(0).to(device), multiple)[0]


def _restore_windows(network: WindowNetwork, frames: Sequence[Tensor], device, padding: str) -> Iterator[Tensor]:
    t = len(frames)
    kept = {}  # index of the frame -> what the network made of it
    for i in range(t):
        # in a clip shorter than half a window the toolbox's mirrored indices leave it
        window = [min(max(index, 0), t - 1) for index in generate_frame_indices(i, t, network.num_frame, padding)]
        kept = {index: value for index, value in kept.items() if index in window}
        for index in window:
            if index not in kept:
                kept[index] = network.prepare(frames[index].unsqueeze(0).to(device))
        yield network.restore([kept[index] for index in window])[0]


def prepare_windows(net: nn.Module, windows: Tensor, scale: int) -> Tensor:
    """What a sliding-window network takes in training: TOFlow's frames upsampled, the others' as they are.

    Args:
        net: The network.
        windows: (b, n, 3, h, w), RGB in [0, 1].
        scale: As in `restore_frames`.

    Raises:
        InputError: If the windows have another length than the network takes.
    """
    network = _window_network(net, scale)
    if windows.size(1) != network.num_frame:
        raise InputError(
            f'{type(net).__name__} takes windows of {network.num_frame} frames, but the samples have '
            f'{windows.size(1)}; set num_frame of the training set.'
        )
    return network.prepare_windows(windows)


def window_length(net: nn.Module) -> int:
    """How many frames a network takes at a time: n of a sliding-window network, 1 of a single-image one."""
    return _window_network(net, scale=4).num_frame if input_type(net) == 'window' else 1


# -------------------------------------------------------------------- how sliding-window networks take their frames


def _window_network(net: nn.Module, scale: int) -> WindowNetwork:
    if not type(net).__module__.startswith('basicsr.'):
        return FeatureWindow(net) if hasattr(net, 'extract_features') else WindowNetwork(net, net.num_frame)
    if type(net).__name__ == 'EDVR':
        return _edvr(net)
    if type(net).__name__ == 'TOFlow':
        return UpsampledWindow(net, num_frame=7, multiple=16, scale=scale)
    return WindowNetwork(net, num_frame=7)  # DUF


def _edvr(net: nn.Module) -> WindowNetwork:
    """EDVR keeps its window length in its fusion layer only, and its pyramid needs sides that divide by 4."""
    fusion = net.fusion.feat_fusion if net.with_tsa else net.fusion
    num_frame = fusion.in_channels // net.upconv1.in_channels
    if num_frame % 2 == 0 or net.center_frame_idx != num_frame // 2:
        raise InputError(
            f'EDVR: frame {net.center_frame_idx} of {num_frame} is not the centre of the window; '
            'num_frame must be odd and center_frame_idx its middle.'
        )
    return WindowNetwork(net, num_frame, multiple=16 if net.hr_in else 4)


class WindowNetwork:
    """A network that takes (1, n, 3, h, w) and restores the centre frame.

    Args:
        net: The network.
        num_frame: n, odd.
        multiple: Frames whose sides do not divide by it are padded by mirroring, and the output is cropped.
    """

    def __init__(self, net: nn.Module, num_frame: int, multiple: int = 1):
        self.net = net
        self.num_frame = num_frame
        self.multiple = multiple

    def prepare(self, frame: Tensor):
        """(1, 3, h, w) -> what is kept of a frame as long as a window shows it."""
        return frame

    def prepare_windows(self, windows: Tensor) -> Tensor:
        """Training samples, (b, n, 3, h, w) -> what the network's forward takes."""
        return windows

    def restore(self, window: list) -> Tensor:
        """n prepared frames -> (1, 3, s * h, s * w)."""
        return _run_padded(self.net, torch.stack(window, dim=1), self.multiple)


class UpsampledWindow(WindowNetwork):
    """A network, TOFlow, that takes frames which are bicubically upsampled already."""

    def __init__(self, net: nn.Module, num_frame: int, multiple: int, scale: int):
        super().__init__(net, num_frame, multiple)
        self.upsample = Bicubic(scale)

    def prepare(self, frame: Tensor) -> Tensor:
        return self.upsample(frame.unsqueeze(0))[0]

    def prepare_windows(self, windows: Tensor) -> Tensor:
        return self.upsample(windows)


class FeatureWindow(WindowNetwork):
    """A network, MSFFN, that extracts each frame's features by itself: once for all windows that show the frame."""

    def __init__(self, net: nn.Module):
        super().__init__(net, net.num_frame)

    def prepare(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        return frame, self.net.extract_features(frame)

    def restore(self, window: list) -> Tensor:
        frame, _ = window[self.num_frame // 2]
        return self.net.restore(frame, [feat for _, feat in window])


def _run_padded(net: nn.Module, x: Tensor, multiple: int) -> Tensor:
    """Run a network on (1, ..., 3, h, w) whose sides are mirrored on to divide by `multiple`, and crop its output."""
    h, w = x.shape[-2:]
    bottom, right = -h % multiple, -w % multiple
    if bottom == right == 0:
        return net(x)
    mode = 'reflect' if bottom < h and right < w else 'replicate'
    padded = F.pad(x.flatten(0, -4), (0, right, 0, bottom), mode=mode).reshape(*x.shape[:-2], h + bottom, w + right)
    output = net(padded)
    s = output.size(-1) // padded.size(-1)
    return output[..., : s * h, : s * w]
