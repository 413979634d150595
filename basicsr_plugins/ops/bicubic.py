"""MATLAB's bicubic `imresize` to any size, by the toolbox's weights as matrices.

The toolbox's `imresize` has one factor for both axes, and the size that follows from it; it goes line by line.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from basicsr.utils.matlab_functions import calculate_weights_indices
from torch import Tensor

from basicsr_plugins.scales import Place, Size, Span, whole_place


@lru_cache(maxsize=32)
def bicubic_matrix(length: int, target: int) -> Tensor:
    """What `imresize(image, [H W])` of MATLAB does along one side; antialiased where it shrinks.

    Returns:
        (target, length), float32; rows sum to 1.
    """
    weights, indices, before, _ = calculate_weights_indices(length, target, target / length, 'cubic', 4, True)
    indices = indices.long() - before  # below 0 and from `length` on lies the mirrored border
    indices = indices % (2 * length)
    indices = torch.where(indices < length, indices, 2 * length - 1 - indices)
    return torch.zeros(target, length).scatter_add_(1, indices, weights)


def resize_bicubic(images: Tensor, size: Size) -> Tensor:
    """(..., h, w) -> (..., H, W), float; antialiased along a side that shrinks."""
    return make_bicubic(images, whole_place(images.shape[-2:], size))


def make_bicubic(images: Tensor, place: Place) -> Tensor:
    """A part of an enlarged image.

    Args:
        images: (..., h, w), float: the LR pixels that `place` is made of. Where some that it needs are not among them,
            the border is repeated.
        place: The part.

    Returns:
        (..., H, W) of the part.
    """
    rows, columns = (_part(span, given).to(images) for span, given in zip(place, images.shape[-2:]))
    return rows @ images @ columns.T


def _part(span: Span, given: int) -> Tensor:
    """The rows and columns of the matrix that belong to a part."""
    matrix = bicubic_matrix(span.length, span.target)[span.start : span.stop]
    end = span.first + given
    if (span.first, end) == (0, span.length):
        return matrix
    part = matrix[:, span.first : end].clone()
    part[:, 0] += matrix[:, : span.first].sum(1)
    part[:, -1] += matrix[:, end:].sum(1)
    return part
