"""RDN: residual dense network.

Paper: Zhang, Tian, Kong, Zhong, Fu, "Residual Dense Network for Image Super-Resolution", CVPR 2018, arXiv:1802.08797.
Features of 16 residual dense blocks from the LR image in RGB, then sub-pixel convolutions (the toolbox's `Upsample`);
at the defaults 22,271,107 parameters (x2: 22,123,395).

Choices: weights start as PyTorch's.

Shape shorthand: b batch, c colours (1 or 3), h and w height and width of the LR image, s the scale.
"""

from __future__ import annotations

from typing import ClassVar

from basicsr.archs.arch_util import Upsample
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from basicsr_plugins.archs.image_networks import ImageNetwork
from basicsr_plugins.archs.residual_dense import ResidualDenseFeatures


@ARCH_REGISTRY.register()
class RDN(ImageNetwork):
    """RDN.

    Args:
        num_in_ch: 3 for RGB, 1 for luma.
        num_feat: Channels of the features.
        num_block: Residual dense blocks.
        num_conv: Convolutions in each.
        num_growth: Channels that each of them adds.
        scale: Upscaling factor.
    """

    scales = (2, 3, 4, 8)
    argument_ranges: ClassVar = {'num_block': (1, 1000), 'num_growth': (1, 1024)}

    def __init__(
        self,
        num_in_ch: int = 3,
        num_feat: int = 64,
        num_block: int = 16,
        num_conv: int = 8,
        num_growth: int = 64,
        scale: int = 4,
    ):
        super().__init__(num_in_ch, scale)
        self.features = ResidualDenseFeatures(num_in_ch, num_feat, num_block, num_conv, num_growth)
        self.upsample = Upsample(scale, num_feat)
        self.conv_last = nn.Conv2d(num_feat, num_in_ch, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, s * h, s * w)."""
        return self.conv_last(self.upsample(self.features(x)))
