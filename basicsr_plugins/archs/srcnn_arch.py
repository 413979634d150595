"""SRCNN: the first convolutional network for super-resolution.

Paper: Dong, Loy, He, Tang, "Image Super-Resolution Using Deep Convolutional Networks", IEEE TPAMI 2015,
arXiv:1501.00092. Three convolutions on the bicubically enlarged luma: patches, a mapping, a reconstruction; at the
defaults ("9-5-5") 57,281 parameters, with `kernel_sizes: [9, 1, 5]` 8,129.

Choices: zeros pad the images, so that their size stays, where the paper's network loses its border; weights start as
He's, where the paper's start at 0.001 and need 10^8 samples.

Shape shorthand: b batch, c colours (1 or 3), H and W height and width of the HR image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.image_networks import EnlargedImageNetwork, he_init
from basicsr_plugins.errors import InputError


@ARCH_REGISTRY.register()
class SRCNN(EnlargedImageNetwork):
    """SRCNN.

    Args:
        num_in_ch: 1 for luma, 3 for RGB.
        num_feat: Channels after the first and after the second convolution.
        kernel_sizes: Of the three convolutions, odd.
        scale: Upscaling factor of the images that it gets.

    Raises:
        InputError: If there are not two `num_feat` and three odd `kernel_sizes`.
    """

    argument_ranges: ClassVar = {'kernel_sizes': (1, 99)}

    def __init__(
        self,
        num_in_ch: int = 1,
        num_feat: Sequence[int] = (64, 32),
        kernel_sizes: Sequence[int] = (9, 5, 5),
        scale: float = 4,
    ):
        super().__init__(num_in_ch, scale)
        if len(num_feat) != 2 or len(kernel_sizes) != 3 or not all(size % 2 for size in kernel_sizes):
            raise InputError(
                f'SRCNN: num_feat must be two numbers and kernel_sizes three odd ones, but are {num_feat} and '
                f'{kernel_sizes}.'
            )
        channels = (num_in_ch, *num_feat, num_in_ch)
        self.patches, self.mapping, self.conv_last = (
            nn.Conv2d(before, after, size, 1, size // 2)
            for before, after, size in zip(channels, channels[1:], kernel_sizes)
        )
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, H, W), enlarged -> (b, c, H, W)."""
        return self.conv_last(F.relu(self.mapping(F.relu(self.patches(x)))))
