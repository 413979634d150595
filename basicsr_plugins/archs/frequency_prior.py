"""A frame's bands of frequencies, weighted and summed, as a prior beside the frame (BasicAVSR).

Shape shorthand: b batch, h and w height and width, l levels of the pyramid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUM_LEVEL = 4
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


class FrequencyPrior(nn.Module):
    """A frame and the weighted sum of the bands of its Laplacian pyramid.

    All weights start at one: the sum is then the frame itself.
    """

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(NUM_LEVEL, 3))  # of the bands; the last is what the blur leaves

    def forward(self, frame: Tensor) -> Tensor:
        """(b, 3, h, w), RGB in [0, 1] -> (b, 6, h, w), the frame and the sum."""
        bands = laplacian_pyramid(frame, NUM_LEVEL)
        summed = sum(weight.view(1, 3, 1, 1) * band for weight, band in zip(self.weight, bands))
        return torch.cat((frame, summed), dim=1)


def laplacian_pyramid(image: Tensor, num_level: int) -> list[Tensor]:
    """The bands of an image, from fine to coarse, all of its size (Burt and Adelson, 1983, undecimated).

    Where a pyramid keeps every second pixel of a level, this one doubles the distance of the next blur's taps ("à
    trous", Shensa, 1992): nothing has to be enlarged, and a shifted image has shifted bands.

    Args:
        image: (b, c, h, w), any h and w.
        num_level: l.

    Returns:
        l bands, (b, c, h, w) each, whose sum is the image; the last is the image blurred l - 1 times.
    """
    bands = []
    for level in range(num_level - 1):
        blurred = blur(image, 2**level)
        bands.append(image - blurred)
        image = blurred
    return [*bands, image]


def blur(image: Tensor, distance: int) -> Tensor:
    """Blur by the binomial (1, 4, 6, 4, 1) / 16, its taps `distance` pixels apart; border replicated."""
    channels = image.size(1)
    taps = image.new_tensor(BINOMIAL).expand(channels, 1, -1)
    padded = F.pad(image, [2 * distance] * 4, mode='replicate')
    rows = F.conv2d(padded, taps.unsqueeze(3), dilation=distance, groups=channels)
    return F.conv2d(rows, taps.unsqueeze(2), dilation=distance, groups=channels)
