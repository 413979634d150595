"""Blocks of pixels as channels, and back, in the order (row in the block, column in the block, colour).

It is the order of TensorFlow's `space_to_depth` and of ONNX's `DepthToSpace` in mode DCR. PyTorch's `pixel_unshuffle`
has colour first instead. With colour last, a frame repeated s * s times is what nearest-neighbour upsampling gives, and
the conversion moves whole pixels in channels-last memory.

Shape shorthand: b batch, c channels, h and w height and width at the smaller size, s the scale.
"""

from __future__ import annotations

from torch import Tensor


def space_to_depth(x: Tensor, scale: int) -> Tensor:
    """(b, c, s * h, s * w) -> (b, s * s * c, h, w), channel (row * s + column) * c + colour."""
    b, c, height, width = x.shape
    blocks = x.reshape(b, c, height // scale, scale, width // scale, scale)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(b, scale * scale * c, height // scale, width // scale)


def depth_to_space(x: Tensor, scale: int) -> Tensor:
    """(b, s * s * c, h, w) -> (b, c, s * h, s * w), the inverse of `space_to_depth`."""
    b, channels, h, w = x.shape
    blocks = x.reshape(b, scale, scale, channels // scale**2, h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(b, channels // scale**2, scale * h, scale * w)
