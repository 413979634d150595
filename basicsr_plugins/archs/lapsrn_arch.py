"""LapSRN: a Laplacian pyramid of residuals, twice the size at each level.

Paper: Lai, Huang, Ahuja, Yang, "Deep Laplacian Pyramid Networks for Fast and Accurate Super-Resolution", CVPR 2017,
arXiv:1704.03915. From the LR luma, each level enlarges the features and the image by transposed convolutions and adds
a residual to the image; at the defaults 871,588 parameters with biases (tables say 0.81 M).

Choices: the GT of the lower levels, for their own loss `levels`, is GT halved by PyTorch's antialiased bicubic
interpolation, whose kernel is MATLAB's and whose borders are not.

Shape shorthand: b batch, c colours (1 or 3), h and w height and width of the LR image, s the scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.image_networks import ImageNetwork, he_init


@ARCH_REGISTRY.register()
class LapSRN(ImageNetwork):
    """LapSRN.

    Args:
        num_in_ch: 1 for luma, 3 for RGB.
        num_feat: Channels.
        num_conv: Convolutions at each level before the features are enlarged.
        scale: Upscaling factor.
    """

    scales = (2, 4, 8)
    auxiliary_weights: ClassVar[dict[str, float]] = {'levels': 1.0}

    def __init__(self, num_in_ch: int = 1, num_feat: int = 64, num_conv: int = 10, scale: int = 4):
        super().__init__(num_in_ch, scale)
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1)
        self.levels = nn.ModuleList(Level(num_in_ch, num_feat, num_conv) for _ in range(int(math.log2(scale))))
        he_init(self)
        for level in self.levels:
            level.start_bilinear()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(b, c, h, w) -> (b, c, s * h, s * w); in training also the images of the lower levels, the smallest last."""
        feat = F.leaky_relu(self.conv_first(x), 0.2)
        images = [x]
        for level in self.levels:
            feat, image = level(feat, images[0])
            images.insert(0, image)
        return tuple(images[:-1]) if self.training else images[0]

    def auxiliary_losses(
        self, output: tuple[Tensor, ...], lq: Tensor, gt: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """The losses of the lower levels, summed.

        Args:
            output: As `forward` gives it in training.
            lq, gt: (b, c, h, w) and (b, c, s * h, s * w).
            criterion: The pixel loss.
        """
        loss = gt.new_zeros(())
        for image in output[1:]:
            gt = F.interpolate(gt, scale_factor=0.5, mode='bicubic', antialias=True)
            loss = loss + criterion(image, gt)
        return {'levels': loss}


class Level(nn.Module):
    """One level: features and image at twice the size.

    Args:
        num_in_ch: Colours.
        num_feat: Channels.
        num_conv: Convolutions before the features are enlarged.
    """

    def __init__(self, num_in_ch: int, num_feat: int, num_conv: int):
        super().__init__()
        convs = [(nn.Conv2d(num_feat, num_feat, 3, 1, 1), nn.LeakyReLU(0.2, inplace=True)) for _ in range(num_conv)]
        self.body = nn.Sequential(*(layer for pair in convs for layer in pair))
        self.upconv = nn.ConvTranspose2d(num_feat, num_feat, 4, 2, 1)
        self.conv_residual = nn.Conv2d(num_feat, num_in_ch, 3, 1, 1)
        self.upconv_image = nn.ConvTranspose2d(num_in_ch, num_in_ch, 4, 2, 1)

    def start_bilinear(self) -> None:
        """Let the image's transposed convolution be bilinear interpolation, each colour by itself."""
        taps = torch.tensor([0.25, 0.75, 0.75, 0.25])
        colours = torch.eye(self.upconv_image.in_channels)
        with torch.no_grad():
            self.upconv_image.weight.copy_(torch.einsum('io,y,x->ioyx', colours, taps, taps))
            self.upconv_image.bias.zero_()

    def forward(self, feat: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """(b, num_feat, h, w) and (b, c, h, w) -> both at 2h x 2w."""
        feat = F.leaky_relu(self.upconv(self.body(feat)), 0.2)
        return feat, self.upconv_image(image) + self.conv_residual(feat)
