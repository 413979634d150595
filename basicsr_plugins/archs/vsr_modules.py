"""Layers that the video networks share.

Shape shorthand: b batch, t frames, c channels, h and w height and width of the LR frame, g deformable groups.
"""

from __future__ import annotations

import functools

import torch
from basicsr.archs.spynet_arch import SpyNet
from basicsr.utils import get_root_logger
from torch import Tensor, nn

from basicsr_plugins.ops.deform_conv import ModulatedDeformConv2d

FLOW_STARTS_UNTRAINED = (
    'network_g has no spynet_path: the flow network starts untrained unless a checkpoint brings its weights.'
)


def build_spynet(spynet_path: str | None) -> SpyNet:
    """SpyNet with the weights of `spynet_path` (the format of BasicSR's `SpyNet(load_path)`), untrained without.

    Raises:
        InputError: If the file is missing or holds other weights.
    """
    if spynet_path is None:
        _say_flow_starts_untrained()
    return SpyNet(spynet_path)


@functools.cache
def _say_flow_starts_untrained():
    get_root_logger().warning(FLOW_STARTS_UNTRAINED)


def laid_out_as(x: Tensor, other: Tensor) -> Tensor:
    """`x` in the dtype and the memory layout of `other`, both (b, c, h, w).

    Channels that are concatenated are so in one dtype and layout, else the result is in the widest and all is converted
    once more: half precision next to a frame in float32.
    """
    is_last = other.is_contiguous(memory_format=torch.channels_last)
    return x.to(other.dtype).contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)


class MultiBranchBlock(nn.Module):
    """EFAR's extraction block (Section 2.2, Figure 2): convolutions of several dilation rates side by side.

    Args:
        num_feat: Channels, in and out.
        dilations: One 3x3 convolution for each rate.
    """

    def __init__(self, num_feat: int, dilations: tuple[int, ...]):
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(num_feat, num_feat, 3, 1, rate, dilation=rate) for rate in dilations)
        self.fuse = nn.Conv2d(len(dilations) * num_feat, num_feat, 1)
        self.shortcut = nn.Conv2d(num_feat, num_feat, 1)
        self.lrelu = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, feat: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, h, w)."""
        fused = self.fuse(torch.cat([branch(feat) for branch in self.branches], dim=1))
        return self.lrelu(fused + self.shortcut(feat))


class FlowGuidedAlignment(nn.Module):
    """Align a neighbour's feature to the current frame by deformable convolution around the optical flow.

    EFAR, Section 2.3, Figure 3: the convolution that predicts offsets sees the current feature only. It starts at zero,
    so that alignment starts as warping by flow.

    Args:
        num_feat: Channels, in and out.
        deform_groups: Groups of channels that share an offset; divides `num_feat`.
        max_residue_magnitude: Bound of the predicted offsets around the flow, in pixels; None for none.
    """

    def __init__(self, num_feat: int, deform_groups: int, max_residue_magnitude: float | None = None):
        super().__init__()
        self.deform_groups = deform_groups
        self.max_residue_magnitude = max_residue_magnitude
        self.conv_offset = nn.Conv2d(num_feat, 3 * 9 * deform_groups, 3, 1, 1)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)
        self.deform_conv = ModulatedDeformConv2d(num_feat, num_feat, 3, padding=1, deform_groups=deform_groups)

    def forward(self, feat: Tensor, neighbour: Tensor, flow: Tensor) -> Tensor:
        """Align `neighbour` to `feat`.

        Args:
            feat: (b, c, h, w), feature of the current frame.
            neighbour: (b, c, h, w), feature or state of the other frame.
            flow: (b, 2, h, w), from the current frame to the other, in pixels, channel 0 = x.

        Returns:
            (b, c, h, w).
        """
        o1, o2, mask = self.conv_offset(feat).chunk(3, dim=1)  # each (b, g * 9, h, w)
        residue = torch.cat((o1, o2), dim=1)  # (b, g * 9 * 2, h, w): a pair (y, x) for each group and tap
        if self.max_residue_magnitude is not None:
            residue = self.max_residue_magnitude * torch.tanh(residue)
        offset = residue + flow.flip(1).repeat(1, 9 * self.deform_groups, 1, 1)
        return self.deform_conv(neighbour, offset, torch.sigmoid(mask))
