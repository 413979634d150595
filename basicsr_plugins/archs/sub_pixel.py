"""3x3 convolutions to few channels at the larger size, computed for blocks of s x s pixels at once.

A processor computes 16 channels or so in the time of three. So what an upsampler ends with, from 64 channels to RGB,
takes as long as one to 3 * s * s channels would; with the pixels of a block as channels little of that is wasted. It is
the sub-pixel convolution of ESPCN (Shi et al., CVPR 2016) backwards: a block's kernels are the one kernel, shifted.
What comes out is the same to rounding, and so are gradients.

Shape shorthand: b batch, c channels, o channels of the output, h and w height and width of the grid of blocks, s their
side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_in_blocks(conv: nn.Conv2d, x: Tensor, side: int) -> Tensor:
    """`conv(x)`.

    Args:
        conv: 3x3, padding 1, from c to o channels.
        x: (b, c, s * h, s * w).
        side: s.

    Returns:
        (b, o, s * h, s * w).
    """
    blocks = F.conv2d(x, block_kernels(conv.weight, side), _repeated(conv.bias, side), stride=side, padding=1)
    return F.pixel_shuffle(blocks, side)


def conv_of_shuffled(conv: nn.Conv2d, x: Tensor, side: int) -> Tensor:
    """`conv(F.pixel_shuffle(x, side))`, without making the large picture that it is shuffled to.

    Args:
        conv: As in `conv_in_blocks`.
        x: (b, c * s * s, h, w).
        side: s.

    Returns:
        (b, o, s * h, s * w).
    """
    kernels = block_kernels(conv.weight, side, of_shuffled=True)
    return F.pixel_shuffle(F.conv2d(x, kernels, _repeated(conv.bias, side), padding=1), side)


def block_kernels(weight: Tensor, side: int, of_shuffled: bool = False) -> Tensor:
    """A kernel for each pixel of a block.

    Args:
        weight: (o, c, 3, 3).
        side: s.
        of_shuffled: Whether they are for blocks as channels.

    Returns:
        (o * s * s, c, s + 2, s + 2), with which a block sees itself and a pixel around; `of_shuffled`
        (o * s * s, c * s * s, 3, 3), with which it sees itself and a block around.
    """
    last = side - 1
    shifted = [F.pad(weight, (x, last - x, y, last - y)) for y in range(side) for x in range(side)]
    kernels = torch.stack(shifted, dim=1).flatten(0, 1)
    return F.pixel_unshuffle(F.pad(kernels, (last,) * 4), side) if of_shuffled else kernels


def _repeated(bias: Tensor | None, side: int) -> Tensor | None:
    return None if bias is None else bias[:, None].expand(-1, side * side).flatten()
