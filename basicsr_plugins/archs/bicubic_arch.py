"""Bicubic upsampling as a network, so that it goes through the same validation as the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from basicsr.utils.matlab_functions import imresize
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor

from basicsr_plugins.archs.recurrent import RecurrentNetwork
from basicsr_plugins.ops.bicubic import make_bicubic
from basicsr_plugins.scales import MAX_SCALE, Place, Scale, check_scale, scaled_size, whole_factor, whole_place


@ARCH_REGISTRY.register()
class Bicubic(RecurrentNetwork):
    """MATLAB's bicubic `imresize` (the toolbox's), frame by frame; no parameters.

    Args:
        scale: Upscaling factor, from 1 to 16, or two, vertical and horizontal.
    """

    scale_range = (1, MAX_SCALE)

    def __init__(self, scale: float | Sequence[float] = 4):
        super().__init__()
        check_scale(scale, 'Bicubic: scale')
        self.scale: Scale = scale

    def upsample(self, frame: Tensor, places: tuple[Place, ...] | None = None) -> Tensor:
        """(b, 3, h, w), RGB in [0, 1] -> (b, 3, H, W), or the part of it that `places`, a single one, says."""
        images = frame.detach().float().cpu()  # the toolbox's function works on the CPU, in float32
        size = images.shape[-2:]
        whole, factor = whole_place(size, scaled_size(size, self.scale)), whole_factor(self.scale)
        place = whole if places is None else places[0]
        if place == whole and factor is not None:
            return torch.stack([imresize(image, factor) for image in images]).to(frame)
        return make_bicubic(images, place).to(frame)
