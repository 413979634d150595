"""What the single-image networks have in common: what they say about themselves, and how their weights start.

Shape shorthand: b batch, c colours (1 for luma, 3 for RGB), h and w height and width of what a network takes, H and W
of what it gives, s the scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from basicsr_plugins.errors import InputError
from basicsr_plugins.scales import (
    MAX_SCALE,
    Place,
    Scale,
    Size,
    asked_place,
    check_scale,
    check_scale_range,
    scaled_size,
)


class ImageNetwork(nn.Module):
    """A network of single images, (b, c, h, w) -> (b, c, s * h, s * w), values in [0, 1].

    Of luma, where it takes one channel: the caller enlarges chroma bicubically, as the papers do.

    Args:
        num_in_ch: 1 for luma, 3 for RGB.
        scale: Upscaling factor.

    Raises:
        InputError: If `num_in_ch` is neither, or `scale` is none of the class's `scales`.
    """

    input_type = 'image'
    scales: tuple[int, ...] = ()

    def __init__(self, num_in_ch: int, scale: float):
        super().__init__()
        name = type(self).__name__
        if num_in_ch not in (1, 3):
            raise InputError(f'{name}: num_in_ch must be 1 (luma) or 3 (RGB), but is {num_in_ch}.')
        if self.scales and scale not in self.scales:
            raise InputError(f'{name}: scale must be one of {self.scales}, but is {scale}.')
        self.colour = 'y' if num_in_ch == 1 else 'rgb'
        self.scale = scale


class EnlargedImageNetwork(ImageNetwork):
    """A network that restores images which the caller enlarges bicubically before: (b, c, H, W) -> (b, c, H, W)."""

    lq = 'bicubic'


class AnyScaleNetwork(nn.Module):
    """A network of single images in RGB that enlarges to any size: (b, 3, h, w) -> (b, 3, H, W), values in [0, 1].

    Its subclasses have `features(x)`, (b, f, h, w), and `enlarge(feat, place)`, (b, 3, H, W) of a place.

    Args:
        scale: Upscaling factor, from 1 to 16, or two, vertical and horizontal; a run may set its own.
        trained_scales: The least and the greatest factor that its weights are trained for; others are possible.

    Raises:
        InputError: If `scale` or `trained_scales` is out of its range.
    """

    input_type = 'image'
    scale_range = (1, MAX_SCALE)
    takes_places = True

    def __init__(self, scale: float | Sequence[float], trained_scales: Sequence[float]):
        super().__init__()
        check_scale(scale, f'{type(self).__name__}: scale')
        check_scale_range(trained_scales, f'{type(self).__name__}: trained_scales')
        self.scale: Scale = scale
        self.trained_scales = tuple(trained_scales)

    def forward(self, x: Tensor, size: Size | None = None, places: tuple[Place, ...] | None = None) -> Tensor:
        """Enlarge images.

        Args:
            x: (b, 3, h, w), RGB in [0, 1].
            size: H and W; without, by `scale`, halves rounded up.
            places: In place of `size`: where the result lies, one for all of a batch or one of each, of one size.

        Returns:
            (b, 3, H, W), of the places.

        Raises:
            InputError: If the size is smaller than the images, or over 16 times as large.
        """
        if places is None:
            size = scaled_size(x.shape[-2:], self.scale) if size is None else size
            places = (asked_place(x.shape[-2:], size, type(self).__name__),)
        feat = self.features(x)
        if len(places) == 1:
            return self.enlarge(feat, places[0])
        return torch.cat([self.enlarge(one, place) for one, place in zip(feat.split(1), places)])


def he_init(net: nn.Module) -> None:
    """He's normal weights for every convolution, and biases zero.

    A value of a transposed convolution sums over a part of the taps, one of stride ** 2.
    """
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            taps = module.in_channels * math.prod(module.kernel_size)
            if isinstance(module, nn.ConvTranspose2d):
                taps /= math.prod(module.stride)
            nn.init.normal_(module.weight, std=math.sqrt(2 / taps))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
