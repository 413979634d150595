"""Bicubic upsampling for LR pixels that sit at the corner of their block of HR pixels.

Where LR frames are made by blurring and keeping every s-th pixel from the first on (`data/bd_lr.py`: bd_duf,
bd_tecogan), LR pixel j sits at HR pixel s * j. `F.interpolate(align_corners=False)` takes it for the middle of its
block, (s - 1) / 2 HR pixels further.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def upsample_from_corners(x: Tensor, scale: int) -> Tensor:
    """Bicubic (Keys' kernel with a = -0.75, as PyTorch's) with LR pixel j at HR pixel `scale * j`; replicated border.

    As TecoGAN's PyTorch release does it.

    Args:
        x: (b, c, h, w), any values.
        scale: Upscaling factor.

    Returns:
        (b, c, scale * h, scale * w).
    """
    b, c, h, w = x.shape
    taps = torch.stack([_keys(phase / scale) for phase in range(scale)])  # (s, 4)
    kernel = torch.einsum('yi,xj->yxij', taps, taps).reshape(scale**2, 1, 4, 4).to(x)
    padded = F.pad(x, (1, 2, 1, 2), mode='replicate').reshape(b * c, 1, h + 3, w + 3)
    return F.pixel_shuffle(F.conv2d(padded, kernel), scale).reshape(b, c, scale * h, scale * w)


def _keys(fraction: float, a: float = -0.75) -> Tensor:
    """Weights of the pixels at -1, 0, 1 and 2 for a place between 0 and 1; they sum to 1."""
    distance = torch.tensor([1 + fraction, fraction, 1 - fraction, 2 - fraction], dtype=torch.float64)
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return torch.where(distance <= 1, near, far)
