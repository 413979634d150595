"""SRDenseNet: densely connected blocks for super-resolution.

Paper: Tong, Li, Liu, Gao, "Image Super-Resolution Using Dense Skip Connections", ICCV 2017. The form "All": from the LR
luma eight dense blocks of eight convolutions, everything concatenated and reduced to 256 channels, transposed
convolutions, a reconstruction.

Choices: the first convolution of a block sees the outputs of all blocks before it, the others what their own block has
made so far, which is also all that the block gives on (8 times 16 channels). This reading has 2,659,585 parameters;
tables say about 2.0 M and not of which, so that the count does not settle it.

Shape shorthand: b batch, c colours (1 or 3), h and w height and width of the LR image, s the scale.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.image_networks import ImageNetwork, he_init


@ARCH_REGISTRY.register()
class SRDenseNet(ImageNetwork):
    """SRDenseNet_All.

    Args:
        num_in_ch: 1 for luma, 3 for RGB.
        num_growth: Channels that each convolution of a block adds.
        num_conv: Convolutions in a block.
        num_block: Dense blocks.
        num_feat: Channels after the bottleneck.
        scale: Upscaling factor.
    """

    scales = (2, 4, 8)
    argument_ranges: ClassVar = {'num_growth': (1, 1024), 'num_conv': (1, 1000)}

    def __init__(
        self,
        num_in_ch: int = 1,
        num_growth: int = 16,
        num_conv: int = 8,
        num_block: int = 8,
        num_feat: int = 256,
        scale: int = 4,
    ):
        super().__init__(num_in_ch, scale)
        width = num_growth * num_conv
        self.conv_first = nn.Conv2d(num_in_ch, width, 3, 1, 1)
        self.blocks = nn.ModuleList(DenseBlock(width * (i + 1), num_growth, num_conv) for i in range(num_block))
        self.bottleneck = nn.Conv2d(width * (num_block + 1), num_feat, 1)
        self.upconvs = nn.ModuleList(
            nn.ConvTranspose2d(num_feat, num_feat, 3, 2, padding=1, output_padding=1)
            for _ in range(int(math.log2(scale)))
        )
        self.conv_last = nn.Conv2d(num_feat, num_in_ch, 3, 1, 1)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, s * h, s * w)."""
        feats = F.relu(self.conv_first(x))
        for block in self.blocks:
            feats = torch.cat((feats, block(feats)), dim=1)
        feat = F.relu(self.bottleneck(feats))
        for upconv in self.upconvs:
            feat = F.relu(upconv(feat))  # (b, num_feat, 2h, 2w), (b, num_feat, 4h, 4w)
        return self.conv_last(feat)


class DenseBlock(nn.Module):
    """Convolutions each of which sees what all before it in the block have made, and the first what the block gets.

    Args:
        num_in: Channels of what it gets.
        num_growth: Channels that each convolution makes.
        num_conv: How many.
    """

    def __init__(self, num_in: int, num_growth: int, num_conv: int):
        super().__init__()
        widths = [num_in, *(num_growth * i for i in range(1, num_conv))]
        self.convs = nn.ModuleList(nn.Conv2d(width, num_growth, 3, 1, 1) for width in widths)

    def forward(self, feats: Tensor) -> Tensor:
        """(b, num_in, h, w) -> (b, num_growth * num_conv, h, w)."""
        made = F.relu(self.convs[0](feats))
        for conv in self.convs[1:]:
            made = torch.cat((made, F.relu(conv(made))), dim=1)
        return made
