"""DRRN: residual units that share their weights.

Paper: Tai, Yang, Liu, "Image Super-Resolution via Deep Recursive Residual Network", CVPR 2017. On bicubically enlarged
luma, one recursive block of 25 residual units, each of which adds the block's first feature (B1U25, 52 layers); at the
defaults 297,216 parameters (paper: 297 K).

Choices: no batch normalisation, which super-resolution gave up after it, and no biases, so that the parameters are the
published ones; no activation before the first convolution, whose input is not negative anyway.

Shape shorthand: b batch, c colours (1 or 3), H and W height and width of the HR image.
"""

from __future__ import annotations

from typing import ClassVar

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.image_networks import EnlargedImageNetwork, he_init


@ARCH_REGISTRY.register()
class DRRN(EnlargedImageNetwork):
    """DRRN with one recursive block.

    Args:
        num_in_ch: 1 for luma, 3 for RGB.
        num_feat: Channels.
        num_unit: Residual units.
        scale: Upscaling factor of the images that it gets.
    """

    argument_ranges: ClassVar = {'num_unit': (1, 1000)}

    def __init__(self, num_in_ch: int = 1, num_feat: int = 128, num_unit: int = 25, scale: float = 4):
        super().__init__(num_in_ch, scale)
        self.num_unit = num_unit
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1, bias=False)
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, 1, 1, bias=False)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1, bias=False)
        self.conv_last = nn.Conv2d(num_feat, num_in_ch, 3, 1, 1, bias=False)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, H, W), enlarged -> (b, c, H, W)."""
        first = feat = self.conv_first(x)
        for _ in range(self.num_unit):
            feat = first + self.conv2(F.relu(self.conv1(F.relu(feat))))
        return x + self.conv_last(F.relu(feat))
