"""A frame's bands of frequencies, weighted and summed, as a prior beside the frame (BasicAVSR).

A level is enlarged by two whatever the size of the frame, so that all that counts for a pixel lies near it: a tile that
begins at a multiple of `GRID` pixels has the whole frame's values.

Shape shorthand: b batch, h and w height and width, l levels of the pyramid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUM_LEVEL = 4
GRID = 2 ** (NUM_LEVEL - 1)
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


class FrequencyPrior(nn.Module):
    """A frame and the weighted sum of the bands of its Laplacian pyramid.

    All weights start at one: the sum is then near the frame itself, which it would be if resizing lost nothing.
    """

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(NUM_LEVEL, 3))  # of the bands; the last is what the blur leaves

    def forward(self, frame: Tensor) -> Tensor:
        """(b, 3, h, w), RGB in [0, 1] -> (b, 6, h, w), the frame and the sum."""
        bands = laplacian_pyramid(frame, NUM_LEVEL)
        bands = [enlarge(band, 2**level, frame) for level, band in enumerate(bands)]
        summed = sum(weight.view(1, 3, 1, 1) * band for weight, band in zip(self.weight, bands))
        return torch.cat((frame, summed), dim=1)


def laplacian_pyramid(image: Tensor, num_level: int) -> list[Tensor]:
    """The bands of an image, from fine to coarse (Burt and Adelson, 1983; coarser levels are enlarged bilinearly).

    Args:
        image: (b, c, h, w), any h and w.
        num_level: l.

    Returns:
        l bands, (b, c, ceil(h / 2 ** i), ceil(w / 2 ** i)) each. A band plus the next coarser level, enlarged, is the
        level it comes from; the last band is the coarsest level.
    """
    bands = []
    for _ in range(num_level - 1):
        coarser = halve(image)
        bands.append(image - enlarge(coarser, 2, image))
        image = coarser
    return [*bands, image]


def halve(image: Tensor) -> Tensor:
    """Blur by the binomial (1, 4, 6, 4, 1) / 16 and keep every second pixel from the first on; border replicated."""
    channels = image.size(1)
    taps = image.new_tensor(BINOMIAL).expand(channels, 1, -1)
    padded = F.pad(image, (2, 2, 2, 2), mode='replicate')
    rows = F.conv2d(padded, taps.unsqueeze(3), stride=(2, 1), groups=channels)
    return F.conv2d(rows, taps.unsqueeze(2), stride=(1, 2), groups=channels)


def enlarge(image: Tensor, factor: int, like: Tensor) -> Tensor:
    """Bilinear, by a factor, as much of it as `like` is high and wide."""
    if factor > 1:
        image = F.interpolate(image, scale_factor=factor, mode='bilinear', align_corners=False)
    return image[..., : like.size(-2), : like.size(-1)]
