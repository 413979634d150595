"""Sampling at coordinates that may be NaN, as those of a diverged flow network are."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def sample_finite(sample: Callable[[Tensor], Tensor], coordinates: Tensor) -> Tensor:
    """`sample(coordinates)`; all of it NaN where one of the coordinates is not finite, on a CPU.

    PyTorch's `grid_sample(padding_mode='border')` goes back, and torchvision's deformable convolution runs, through
    memory that is not theirs at NaN on a CPU: the process dies of SIGSEGV. Neither shows it before, so that a loss must
    learn of it here. CUDA's operators keep within bounds, and looking at the coordinates there would wait for them.

    Args:
        sample: Samples something at coordinates, or at displacements.
        coordinates: Of any shape.
    """
    if coordinates.device.type != 'cpu' or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return sample(coordinates)
    if torch.isfinite(coordinates).all():
        return sample(coordinates)
    return sample(torch.nan_to_num(coordinates, 0.0, 0.0, 0.0)) * math.nan
