"""Zooming Slow-Mo: one-stage space-time video super-resolution.

Paper: "Zooming Slow-Mo: Fast and Accurate One-Stage Space-Time Video Super-Resolution", Xiang et al., CVPR 2020. t LR
frames at the times 0, 2, 4 ... give 2 * t - 1 frames, four times as large, at 0, 1, 2 ... The feature of a missing
frame is that of its two neighbours, aligned by deformable convolutions; a bidirectional deformable ConvLSTM, with the
same weights in both directions, goes over all of them. At the defaults it has 11,102,771 parameters (published:
11.1 M).

It runs step by step: the step of frame i is that of the times 2 * i and 2 * i + 1. The backward pass makes the feature
of the missing frame, and the forward pass takes it from there.

Choices:

- A clip is gone through as a whole. The paper trains on 4 frames, and tests in windows of 4 that share a frame, each
  from zero states; cut the clip to have that.
- Frames whose sides do not divide by 4 are mirrored beyond their border by the caller; the official code adds zeros.

Shape shorthand: b batch, c channels (`num_feat`), h and w height and width of the LR frame, multiples of 4.
"""

from __future__ import annotations

import torch
from basicsr.archs.arch_util import DCNv2Pack, ResidualBlockNoBN, make_layer
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs import sub_pixel
from basicsr_plugins.archs.recurrent import RecurrentNetwork, State
from basicsr_plugins.errors import InputError


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1, inplace=True)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)


@ARCH_REGISTRY.register()
class ZoomingSlowMo(RecurrentNetwork):
    """Zooming Slow-Mo, x4 and twice the frame rate.

    Args:
        num_feat: Channels.
        num_extract_block: Residual blocks of the feature extraction.
        num_block: Residual blocks of the reconstruction.
        deform_groups: Groups of channels that share an offset; divides `num_feat`.

    Raises:
        InputError: If `deform_groups` does not divide `num_feat`.
    """

    scale = 4
    scales = (4,)
    time_scale = 2
    size_multiple = 4

    def __init__(self, num_feat: int = 64, num_extract_block: int = 5, num_block: int = 40, deform_groups: int = 8):
        super().__init__()
        if deform_groups < 1 or num_feat % deform_groups:
            raise InputError(f'ZoomingSlowMo: deform_groups ({deform_groups}) must divide num_feat ({num_feat}).')
        self.conv_first = nn.Conv2d(3, num_feat, 3, 1, 1)
        self.extractor = make_layer(ResidualBlockNoBN, num_extract_block, num_feat=num_feat)
        self.interpolation = PairAlignment(num_feat, deform_groups)
        self.lstm = DeformableConvLSTMCell(num_feat, deform_groups)
        self.fusion = nn.Conv2d(2 * num_feat, num_feat, 1)
        self.reconstruction = make_layer(ResidualBlockNoBN, num_block, num_feat=num_feat)
        self.upconv1 = nn.Conv2d(num_feat, 4 * num_feat, 3, 1, 1)
        self.upconv2 = nn.Conv2d(num_feat, 4 * 64, 3, 1, 1)
        self.conv_hr = nn.Conv2d(64, 64, 3, 1, 1)
        self.conv_last = nn.Conv2d(64, 3, 3, 1, 1)

    def extract(self, frame: Tensor) -> Tensor:
        """(b, 3, h, w), RGB in [0, 1] -> (b, c, h, w)."""
        return self.extractor(_lrelu(self.conv_first(frame)))

    def backward_step(self, feat: Tensor, next_feat: Tensor | None, state: State | None) -> State:
        """The times 2 * i + 1 and 2 * i, in this order.

        Args:
            feat, next_feat: (b, c, h, w); no next one at the last frame, which no time follows.
            state: As returned for the next frame.

        Returns:
            Hidden and cell state at 2 * i, hidden state and feature of the frame at 2 * i + 1; (b, c, h, w) each, the
            last two zero at the last frame.
        """
        hidden, cell = state[:2] if state is not None else (torch.zeros_like(feat),) * 2
        missing = torch.zeros_like(feat)
        if next_feat is not None:
            missing = self.interpolation(feat, next_feat)
            hidden, cell = self.lstm(missing, hidden, cell)
        return (*self.lstm(feat, hidden, cell), hidden, missing)

    def forward_step(
        self, next_frame: Tensor | None, feat: Tensor, state: State | None, backward_state: State
    ) -> State:
        """The times 2 * i and 2 * i + 1.

        Args:
            next_frame: Whether there is a time 2 * i + 1.
            feat: (b, c, h, w).
            state: As returned for the previous frame.
            backward_state: As `backward_step` gave it for the frame.

        Returns:
            Hidden and cell state at 2 * i + 1, hidden state at 2 * i; (b, c, h, w) each. At the last frame, where there
            is no 2 * i + 1, those at 2 * i.
        """
        hidden, cell = state[:2] if state is not None else (torch.zeros_like(feat),) * 2
        hidden, cell = self.lstm(feat, hidden, cell)
        if next_frame is None:
            return hidden, cell, hidden
        return (*self.lstm(backward_state[3], hidden, cell), hidden)

    def upsample(self, next_frame: Tensor | None, state: State, backward_state: State) -> Tensor:
        """(b, 6, 4 * h, 4 * w): the frames at the times 2 * i and 2 * i + 1; (b, 3, ...) at the last frame."""
        frame = self._reconstruct(state[2], backward_state[0])
        if next_frame is None:
            return frame
        return torch.cat((frame, self._reconstruct(state[0], backward_state[2])), dim=1)

    def _reconstruct(self, forward_hidden: Tensor, backward_hidden: Tensor) -> Tensor:
        feat = self.reconstruction(self.fusion(torch.cat((forward_hidden, backward_hidden), dim=1)))
        for upconv in (self.upconv1, self.upconv2):
            feat = F.pixel_shuffle(_lrelu(upconv(feat)), 2)
        return sub_pixel.conv_in_blocks(self.conv_last, _lrelu(self.conv_hr(feat)), 2)


class DeformableConvLSTMCell(nn.Module):
    """A ConvLSTM cell whose hidden and cell state are first aligned, each by itself, to the feature that comes in."""

    def __init__(self, num_feat: int, deform_groups: int):
        super().__init__()
        self.align_hidden = PairAlignment(num_feat, deform_groups)
        self.align_cell = PairAlignment(num_feat, deform_groups)
        self.gates = nn.Conv2d(2 * num_feat, 4 * num_feat, 3, 1, 1)

    def forward(self, feat: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Feature, hidden and cell state, (b, c, h, w) each -> the new hidden and cell state."""
        aligned = self.align_hidden(feat, hidden)
        cell = self.align_cell(feat, cell)
        take, keep, show, new = self.gates(torch.cat((feat, aligned), dim=1)).chunk(4, dim=1)
        cell = torch.sigmoid(keep) * cell + torch.sigmoid(take) * torch.tanh(new)
        return torch.sigmoid(show) * torch.tanh(cell), cell


class PairAlignment(nn.Module):
    """Align two features to each other, over a pyramid of three levels, and fuse both results.

    Args:
        num_feat: Channels, in and out.
        deform_groups: Groups of channels that share an offset.
    """

    def __init__(self, num_feat: int, deform_groups: int):
        super().__init__()
        self.conv_l2_1 = nn.Conv2d(num_feat, num_feat, 3, 2, 1)
        self.conv_l2_2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_l3_1 = nn.Conv2d(num_feat, num_feat, 3, 2, 1)
        self.conv_l3_2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.directions = nn.ModuleList(DirectedAlignment(num_feat, deform_groups) for _ in range(2))
        self.fusion = nn.Conv2d(2 * num_feat, num_feat, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Twice (b, c, h, w) -> (b, c, h, w)."""
        pyramids = self._pyramid(first), self._pyramid(second)
        aligned = [align(*pair) for align, pair in zip(self.directions, (pyramids, pyramids[::-1]))]
        return self.fusion(torch.cat(aligned, dim=1))

    def _pyramid(self, feat: Tensor) -> dict[str, Tensor]:
        half = _lrelu(self.conv_l2_2(_lrelu(self.conv_l2_1(feat))))
        return {'l1': feat, 'l2': half, 'l3': _lrelu(self.conv_l3_2(_lrelu(self.conv_l3_1(half))))}


class DirectedAlignment(nn.Module):
    """Deformable convolution of one pyramid, its offsets from both, from the coarsest level to the finest.

    As EDVR's PCD, without its cascade, and the offsets of the one that is moved.
    """

    def __init__(self, num_feat: int, deform_groups: int):
        super().__init__()

        def convs(**num_in: int) -> nn.ModuleDict:
            return nn.ModuleDict({name: nn.Conv2d(number, num_feat, 3, 1, 1) for name, number in num_in.items()})

        self.offset_conv1 = convs(l1=2 * num_feat, l2=2 * num_feat, l3=2 * num_feat)
        self.offset_conv2 = convs(l1=2 * num_feat, l2=2 * num_feat, l3=num_feat)
        self.offset_conv3 = convs(l1=num_feat, l2=num_feat)
        self.dcn_pack = nn.ModuleDict(
            {
                name: DCNv2Pack(num_feat, num_feat, 3, padding=1, deformable_groups=deform_groups)
                for name in ('l1', 'l2', 'l3')
            }
        )
        self.feat_conv = convs(l1=2 * num_feat, l2=2 * num_feat)

    def forward(self, own: dict[str, Tensor], other: dict[str, Tensor]) -> Tensor:
        """The pyramid that is moved, and the one that it is moved towards -> (b, c, h, w)."""
        offset, aligned = None, None
        for level in ('l3', 'l2', 'l1'):
            lower, offset = offset, _lrelu(self.offset_conv1[level](torch.cat((own[level], other[level]), dim=1)))
            if lower is not None:
                offset = torch.cat((offset, 2 * _double(lower)), dim=1)  # in pixels of this level
            offset = _lrelu(self.offset_conv2[level](offset))
            if lower is not None:
                offset = _lrelu(self.offset_conv3[level](offset))
            moved = self.dcn_pack[level](own[level], offset)
            if aligned is not None:
                moved = self.feat_conv[level](torch.cat((moved, _double(aligned)), dim=1))
            aligned = moved if level == 'l1' else _lrelu(moved)
        return aligned
