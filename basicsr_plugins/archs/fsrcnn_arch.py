"""FSRCNN: SRCNN made fast by working on the LR image.

Paper: Dong, Loy, Tang, "Accelerating the Super-Resolution Convolutional Neural Network", ECCV 2016, arXiv:1608.00367.
Extraction, shrinking, mapping, expanding, and a transposed convolution that enlarges; at the defaults, FSRCNN(56, 12,
4), 12,637 parameters, as published, and 172 of the PReLUs. FSRCNN-s is `num_feat: 32`, `num_shrunk: 5`, `num_conv: 1`.

Choices: weights start as He's, those of the last layer too, where the paper's start at 0.001.

Shape shorthand: b batch, c colours (1 or 3), h and w height and width of the LR image, s the scale.
"""

from __future__ import annotations

from typing import ClassVar

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from basicsr_plugins.archs.image_networks import ImageNetwork, he_init


@ARCH_REGISTRY.register()
class FSRCNN(ImageNetwork):
    """FSRCNN.

    Args:
        num_in_ch: 1 for luma, 3 for RGB.
        num_feat: Channels of the extraction and of the expanded features (d).
        num_shrunk: Channels in between (s).
        num_conv: Convolutions in between (m).
        scale: Upscaling factor.
    """

    scales = (2, 3, 4)
    argument_ranges: ClassVar = {'num_shrunk': (1, 1024)}

    def __init__(self, num_in_ch: int = 1, num_feat: int = 56, num_shrunk: int = 12, num_conv: int = 4, scale: int = 4):
        super().__init__(num_in_ch, scale)
        self.extraction = activated(num_in_ch, num_feat, 5)
        self.shrinking = activated(num_feat, num_shrunk, 1)
        self.mapping = nn.Sequential(*(activated(num_shrunk, num_shrunk, 3) for _ in range(num_conv)))
        self.expanding = activated(num_shrunk, num_feat, 1)
        self.upconv = nn.ConvTranspose2d(num_feat, num_in_ch, 9, scale, padding=4, output_padding=scale - 1)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, s * h, s * w)."""
        return self.upconv(self.expanding(self.mapping(self.shrinking(self.extraction(x)))))


def activated(num_in: int, num_out: int, kernel_size: int) -> nn.Sequential:
    """A convolution that keeps the size, and a PReLU with a slope for each channel."""
    return nn.Sequential(nn.Conv2d(num_in, num_out, kernel_size, 1, kernel_size // 2), nn.PReLU(num_out))
