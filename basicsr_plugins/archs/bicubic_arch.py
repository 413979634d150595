"""Bicubic upsampling as a network, so that it goes through the same validation as the others."""

from __future__ import annotations

import torch
from basicsr.utils.matlab_functions import imresize
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn


@ARCH_REGISTRY.register()
class Bicubic(nn.Module):
    """MATLAB's bicubic `imresize` (the toolbox's), frame by frame; no parameters.

    Args:
        scale: Upscaling factor.
    """

    def __init__(self, scale: int = 4):
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(b, t, 3, h, w), RGB in [0, 1] -> (b, t, 3, scale * h, scale * w)."""
        frames = x.detach().float().cpu().flatten(0, 1)  # the toolbox's function works on the CPU, in float32
        upscaled = torch.stack([imresize(frame, self.scale) for frame in frames])
        return upscaled.unflatten(0, x.shape[:2]).to(x)
