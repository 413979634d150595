"""Bicubic upsampling as a network, so that it goes through the same validation as the others."""

from __future__ import annotations

import torch
from basicsr.utils.matlab_functions import imresize
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor

from basicsr_plugins.archs.recurrent import RecurrentNetwork


@ARCH_REGISTRY.register()
class Bicubic(RecurrentNetwork):
    """MATLAB's bicubic `imresize` (the toolbox's), frame by frame; no parameters.

    Args:
        scale: Upscaling factor.
    """

    def __init__(self, scale: int = 4):
        super().__init__()
        self.scale = scale

    def upsample(self, frame: Tensor) -> Tensor:
        """(b, 3, h, w), RGB in [0, 1] -> (b, 3, scale * h, scale * w)."""
        images = frame.detach().float().cpu()  # the toolbox's function works on the CPU, in float32
        return torch.stack([imresize(image, self.scale) for image in images]).to(frame)
