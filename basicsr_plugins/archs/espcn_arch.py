"""ESPCN: sub-pixel convolution.

Paper: Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
Network", CVPR 2016, arXiv:1609.05158. Three convolutions on the LR luma, the last of which gives all s * s pixels of a
block; at the defaults 24,752 parameters (RGB: 37,200).

Choices: tanh after the first two convolutions, as in the paper's experiments; weights start as PyTorch's, which suit
tanh.

Shape shorthand: b batch, c colours (1 or 3), h and w height and width of the LR image, s the scale.
"""

from __future__ import annotations

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.image_networks import ImageNetwork


@ARCH_REGISTRY.register()
class ESPCN(ImageNetwork):
    """ESPCN.

    Args:
        num_in_ch: 1 for luma, 3 for RGB.
        num_feat: Channels after the first convolution; half of them after the second.
        scale: Upscaling factor.
    """

    scales = (2, 3, 4)

    def __init__(self, num_in_ch: int = 1, num_feat: int = 64, scale: int = 4):
        super().__init__(num_in_ch, scale)
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 5, 1, 2)
        self.conv_mapping = nn.Conv2d(num_feat, num_feat // 2, 3, 1, 1)
        self.conv_last = nn.Conv2d(num_feat // 2, num_in_ch * scale**2, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, s * h, s * w)."""
        feat = torch.tanh(self.conv_mapping(torch.tanh(self.conv_first(x))))
        return F.pixel_shuffle(self.conv_last(feat), self.scale)  # (b, c * s * s, h, w) before
