"""3x3 convolutions to few channels at the larger size, computed for blocks of s x s pixels at once.

A processor with AVX-512 computes 16 channels in the time of three. So what an upsampler ends with, from 64 channels to
RGB, takes as long as one to 3 * s * s channels would; with a block's pixels as channels little of that is wasted. It is
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
    """`conv(x)`, in blocks.

    Args:
        conv: 3x3, padding 1, from c to o channels. It is not called: what hooks onto it does not run.
        x: (b, c, s * h, s * w).
        side: s.

    Returns:
        (b, o, s * h, s * w).
    """
    return F.pixel_shuffle(F.conv2d(x, *block_parameters(conv, side), stride=side, padding=1), side)


def conv_of_shuffled(conv: nn.Conv2d, x: Tensor, side: int) -> Tensor:
    """`conv(F.pixel_shuffle(x, side))`, in blocks, without making the large picture that it is shuffled to.

    Args:
        conv: As in `conv_in_blocks`.
        x: (b, c * s * s, h, w).
        side: s.

    Returns:
        (b, o, s * h, s * w).
    """
    return F.pixel_shuffle(F.conv2d(x, *block_parameters(conv, side, of_shuffled=True), padding=1), side)


def block_parameters(conv: nn.Conv2d, side: int, of_shuffled: bool = False) -> tuple[Tensor, Tensor | None]:
    """A kernel and a bias for each pixel of a block.

    Args:
        conv: As in `conv_in_blocks`.
        side: s.
        of_shuffled: Whether the kernels are for blocks as channels.

    Returns:
        Kernels with which a block sees itself and a pixel around, (o * s * s, c, s + 2, s + 2), or, `of_shuffled`,
        itself and a block around, (o * s * s, c * s * s, 3, 3); biases, (o * s * s).
    """
    last = side - 1
    shifted = [F.pad(conv.weight, (x, last - x, y, last - y)) for y in range(side) for x in range(side)]
    kernels = torch.stack(shifted, dim=1).flatten(0, 1)
    if of_shuffled:
        kernels = F.pixel_unshuffle(F.pad(kernels, (last,) * 4), side)
    return kernels, None if conv.bias is None else conv.bias.repeat_interleave(side * side)
