"""VDSR: twenty convolutions that learn what bicubic enlargement lacks.

Paper: Kim, Lee, Lee, "Accurate Image Super-Resolution Using Very Deep Convolutional Networks", CVPR 2016,
arXiv:1511.04587. One network for all scales, on bicubically enlarged luma; at the defaults 665,921 parameters, 664,704
of them weights (paper: 665 K).

Shape shorthand: b batch, c colours (1 or 3), H and W height and width of the HR image.
"""

from __future__ import annotations

from typing import ClassVar

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from basicsr_plugins.archs.image_networks import EnlargedImageNetwork, he_init


@ARCH_REGISTRY.register()
class VDSR(EnlargedImageNetwork):
    """VDSR.

    Args:
        num_in_ch: 1 for luma, 3 for RGB.
        num_feat: Channels.
        num_conv: Convolutions, 2 or more.
        scale: Upscaling factor of the images that it gets.
    """

    argument_ranges: ClassVar = {'num_conv': (2, 1000)}

    def __init__(self, num_in_ch: int = 1, num_feat: int = 64, num_conv: int = 20, scale: float = 4):
        super().__init__(num_in_ch, scale)
        channels = [num_in_ch] + [num_feat] * (num_conv - 1)
        layers = [
            layer
            for before, after in zip(channels, channels[1:])
            for layer in (nn.Conv2d(before, after, 3, 1, 1), nn.ReLU(inplace=True))
        ]
        self.body = nn.Sequential(*layers)
        self.conv_last = nn.Conv2d(num_feat, num_in_ch, 3, 1, 1)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, H, W), enlarged -> (b, c, H, W)."""
        return x + self.conv_last(self.body(x))
