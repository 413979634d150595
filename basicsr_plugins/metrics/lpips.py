"""LPIPS: how different two frames look, by the features of a trained network; lower is better.

Paper: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018,
https://arxiv.org/abs/1801.03924. Computed by its authors' package `lpips` with AlexNet, version 0.1, as papers report
it. Neither that package nor AlexNet's weights come with this one, and nothing is downloaded in the middle of a run.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
import torch
import torchvision
from basicsr.utils.registry import METRIC_REGISTRY
from torch import Tensor, nn

from basicsr_plugins.errors import InputError


@METRIC_REGISTRY.register()
@torch.no_grad()
def calculate_lpips(img: np.ndarray, img2: np.ndarray, crop_border: int, input_order: str = 'HWC', **kwargs) -> float:
    """LPIPS of a restored frame and its ground truth, on the CPU.

    Args:
        img, img2: (h, w, 3), BGR, 0 to 255; 32 pixels or more.
        crop_border: Pixels at each edge that do not count.
        input_order: `HWC`, or `CHW` for (3, h, w).

    Raises:
        InputError: If the shapes differ, or as `check_lpips`.
    """
    if img.shape != img2.shape:
        raise InputError(f'calculate_lpips: the frames have different shapes, {img.shape} and {img2.shape}.')
    check_lpips()
    return float(_network()(*(_as_tensor(image, crop_border, input_order) for image in (img, img2))))


def check_lpips() -> None:
    """Refuse a machine on which LPIPS cannot be computed.

    Raises:
        InputError: If the package `lpips`, or the weights of AlexNet that it takes, are not there.
    """
    if importlib.util.find_spec('lpips') is None:
        raise InputError('calculate_lpips needs the package lpips, which is not installed: pip install lpips.')
    weights = Path(torch.hub.get_dir()) / 'checkpoints' / PurePosixPath(_weights().url).name
    if not weights.is_file():
        raise InputError(
            f'calculate_lpips needs the weights of AlexNet, but there is no file {weights}; '
            'torchvision.models.alexnet(weights="IMAGENET1K_V1") fetches it once.'
        )


calculate_lpips.check = check_lpips


def _weights() -> torchvision.models.WeightsEnum:
    return torchvision.models.AlexNet_Weights.IMAGENET1K_V1


@lru_cache(maxsize=1)
def _network() -> nn.Module:
    import lpips

    return lpips.LPIPS(net='alex', version='0.1', verbose=False).eval()


def _as_tensor(image: np.ndarray, crop_border: int, input_order: str) -> Tensor:
    """(1, 3, h, w), RGB in [-1, 1]."""
    image = image if input_order == 'HWC' else image.transpose(1, 2, 0)
    h, w = image.shape[:2]
    image = image[crop_border : h - crop_border, crop_border : w - crop_border, ::-1]
    return torch.from_numpy(np.ascontiguousarray(image, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
