"""BasicAVSR's alignment of a neighbour's state in two stages: attention around the flow, then deformable convolution.

The first stage searches a window around the place to which the flow points, by attention whose positions have sub-pixel
precision (IART, Xu et al., CVPR 2024); the second corrects it, by a deformable convolution around the same flow, of the
form of BasicVSR++ (Chan et al., CVPR 2022) with one neighbour.

Shape shorthand: b batch, c channels, h and w height and width of the LR frame, W side of the window.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.vsr_modules import FlowGuidedAlignment

TEMPERATURE = 0.01  # IART's: the codes' frequencies rise from one period per window to about 75
MAX_RESIDUE_MAGNITUDE = 10  # BasicVSR++'s bound of the offsets around the flow, in pixels


class SecondOrderMotionCompensation(nn.Module):
    """The sum of a neighbour aligned by attention and the same aligned by deformable convolution.

    Args:
        num_feat: Channels; divides by 2, by `num_head` and by `deform_groups`.
        window_size: W, even; 2 is the four pixels that bilinear sampling reads.
        num_head: Heads of the attention.
        deform_groups: Groups of channels that share an offset.
    """

    def __init__(self, num_feat: int, window_size: int = 2, num_head: int = 8, deform_groups: int = 16):
        super().__init__()
        self.attention = FlowGuidedAttention(num_feat, window_size, num_head)
        self.refinement = DeformableRefinement(num_feat, deform_groups)

    def forward(self, feat: Tensor, neighbour: Tensor, flow: Tensor) -> Tensor:
        """Align `neighbour` to `feat`.

        Args:
            feat: (b, c, h, w), feature of the current frame.
            neighbour: (b, c, h, w), state of the other frame.
            flow: (b, 2, h, w), from the current frame to the other, in pixels, channel 0 = x.

        Returns:
            (b, c, h, w).
        """
        found = self.attention(feat, neighbour, flow)
        seen = torch.cat((found, feat, flow.to(found.dtype)), dim=1)
        return found + self.refinement(seen, neighbour, flow)


class DeformableRefinement(FlowGuidedAlignment):
    """Deformable convolution around the flow whose offsets come of four convolutions, the last of them zero at first.

    They see the neighbour as the attention found it, the current feature and the flow, (b, 2 * c + 2, h, w).
    """

    def __init__(self, num_feat: int, deform_groups: int):
        super().__init__(num_feat, deform_groups, MAX_RESIDUE_MAGNITUDE)
        layers = []
        for channels in (2 * num_feat + 2, num_feat, num_feat):
            layers += [nn.Conv2d(channels, num_feat, 3, 1, 1), nn.LeakyReLU(0.1, inplace=True)]
        self.conv_offset = nn.Sequential(*layers, self.conv_offset)


class FlowGuidedAttention(nn.Module):
    """Attention over the window of W x W pixels around the place to which the flow points (IART).

    Queries know where in the window, at sub-pixel precision, the flow points; keys and values know where they stand.
    Pixels beyond the border are those of the border.

    Args:
        num_feat, window_size, num_head: As in `SecondOrderMotionCompensation`.
    """

    def __init__(self, num_feat: int, window_size: int, num_head: int):
        super().__init__()
        self.window_size = window_size
        self.num_head = num_head
        self.query = nn.Conv2d(num_feat, num_feat, 1)
        self.key = nn.Conv2d(num_feat, num_feat, 1)
        self.value = nn.Conv2d(num_feat, num_feat, 1)

    def forward(self, feat: Tensor, neighbour: Tensor, flow: Tensor) -> Tensor:
        """As `SecondOrderMotionCompensation.forward`."""
        b, c, h, w = feat.shape
        place = flow.float().flip(1) + pixel_grid(h, w, flow.device)  # y, x
        base = place.floor()
        first = self.window_size // 2 - 1  # of the window's pixels, the one at `base`
        code = position_code(place - base + first, self.window_size, c)
        query = self.query(feat + code.to(feat.dtype)).view(b, self.num_head, -1, 1, h * w)

        base = base.long() - first
        keys = self._window(self.key, neighbour, base)
        values = self._window(self.value, neighbour, base)
        weights = ((query * keys).sum(dim=2, keepdim=True) / math.sqrt(c // self.num_head)).softmax(dim=3)
        return (weights.to(values.dtype) * values).sum(dim=3).view(b, c, h, w)

    def _window(self, layer: nn.Conv2d, neighbour: Tensor, base: Tensor) -> Tensor:
        """What a layer makes of the pixels around `base`, (b, num_head, c / num_head, W * W, h * w).

        The layer is linear: it is applied to the neighbour once, and once to the codes.
        """
        b, c, h, w = neighbour.shape
        side = range(self.window_size)
        cells = [(y, x) for y in side for x in side]
        mapped = layer(neighbour).flatten(2)
        codes = position_code(neighbour.new_tensor(cells).view(-1, 2, 1, 1), self.window_size, c)
        codes = F.conv2d(codes.to(layer.weight.dtype), layer.weight)  # (W * W, c, 1, 1)
        pixels = []
        for (y, x), code in zip(cells, codes):
            index = (base[:, :1] + y).clamp(0, h - 1) * w + (base[:, 1:] + x).clamp(0, w - 1)
            pixels.append(
                mapped.gather(2, index.view(b, 1, h * w).expand(-1, c, -1)) + code.to(mapped.dtype).view(c, 1)
            )
        return torch.stack(pixels, dim=2).view(b, self.num_head, -1, len(cells), h * w)


def pixel_grid(h: int, w: int, device: torch.device) -> Tensor:
    """(2, h, w): the row and the column of each pixel."""
    rows, columns = (torch.arange(length, device=device, dtype=torch.float32) for length in (h, w))
    return torch.stack((rows.view(h, 1).expand(h, w), columns.expand(h, w)))


def position_code(place: Tensor, window_size: int, channels: int) -> Tensor:
    """The sinusoidal code of a place in the window: half of the channels for y, half for x, sines and cosines in turn.

    Args:
        place: (b, 2, h, w), y and x, in pixels from the window's first.
        window_size: W.
        channels: c, even.

    Returns:
        (b, c, h, w), float32.
    """
    half = channels // 2
    k = torch.arange(half, device=place.device)
    exponent = -2 * torch.div(k, 2, rounding_mode='floor') / half
    frequency = 2 * math.pi / window_size * TEMPERATURE**exponent
    angle = place.float().unsqueeze(2) * frequency.view(-1, 1, 1)  # (b, 2, c / 2, h, w)
    quarter = (k % 2 * (math.pi / 2)).view(-1, 1, 1)  # a cosine is a sine a quarter ahead
    return torch.sin(angle + quarter).flatten(1, 2)
