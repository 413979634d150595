"""Residual dense blocks and the features that they make (RDN), which networks with other upsamplers share.

Paper: Zhang, Tian, Kong, Zhong, Fu, "Residual Dense Network for Image Super-Resolution", CVPR 2018, arXiv:1802.08797.

Shape shorthand: b batch, c colours, f channels of the features, h and w height and width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualDenseFeatures(nn.Module):
    """Shallow features, residual dense blocks, their fusion, and the first features added (RDN without upsampling).

    Args:
        num_in_ch: Colours.
        num_feat: Channels of the features.
        num_block: Residual dense blocks.
        num_conv: Convolutions in each.
        num_growth: Channels that each of them adds.
    """

    def __init__(
        self, num_in_ch: int = 3, num_feat: int = 64, num_block: int = 16, num_conv: int = 8, num_growth: int = 64
    ):
        super().__init__()
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1)
        self.conv_second = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.blocks = nn.ModuleList(ResidualDenseBlock(num_feat, num_conv, num_growth) for _ in range(num_block))
        self.fusion = nn.Sequential(
            nn.Conv2d(num_block * num_feat, num_feat, 1), nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, f, h, w)."""
        first = self.conv_first(x)
        feats = [self.conv_second(first)]
        for block in self.blocks:
            feats.append(block(feats[-1]))
        return first + self.fusion(torch.cat(feats[1:], dim=1))


class ResidualDenseBlock(nn.Module):
    """Convolutions that see all before them, their fusion, and the input added.

    Args:
        num_feat: Channels, in and out.
        num_conv: Convolutions.
        num_growth: Channels that each adds.
    """

    def __init__(self, num_feat: int, num_conv: int, num_growth: int):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(num_feat + i * num_growth, num_growth, 3, 1, 1) for i in range(num_conv))
        self.fusion = nn.Conv2d(num_feat + num_conv * num_growth, num_feat, 1)

    def forward(self, feat: Tensor) -> Tensor:
        """(b, f, h, w) -> (b, f, h, w)."""
        feats = feat
        for conv in self.convs:
            feats = torch.cat((feats, F.relu(conv(feats))), dim=1)
        return feat + self.fusion(feats)
