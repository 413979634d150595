"""Low-resolution frames by blur and decimation ("BD"), x4, in the three conventions that papers train and test with.

They differ in kernel, border and phase; a network of one is several dB worse on the LR frames of another.

    name         Gaussian                          border     LR pixel j sits at   used for
    bd_duf       13x13, sigma 1.6                  reflect    4 * j                DUF, PFNL, RRN, RSDN, TGA
    bd_mmagic    12x12, sigma 1.6; 8-bit values    replicate  4 * j + 1.5          BasicVSR, IconVSR, BasicVSR++, EDVR
    bd_tecogan   9x9, sigma 1.5                    reflect    4 * j                FRVSR, TecoGAN

RLSP's own LR frames are those of bd_tecogan but for a wider kernel (13x13; 0.4 % of it lies outside 9x9), a border that
repeats its last pixel, and 8-bit values.

Shape shorthand: h and w height and width of the GT frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from basicsr.data.data_util import duf_downsample
from basicsr.utils import img2tensor
from torch import Tensor
from torch.nn import functional as F

from basicsr_plugins.errors import InputError, suggest

SCALE = 4


def bd_downsample(frames: Tensor, name: str, scale: int = SCALE) -> Tensor:
    """Blur and decimate.

    Args:
        frames: (t, c, h, w), in [0, 1]; h and w divide by 4 and are 16 or more.
        name: One of `CONVENTIONS`.
        scale: 4.

    Returns:
        (t, c, h / 4, w / 4), in [0, 1].

    Raises:
        InputError: If the name is unknown, the scale is another, or the frames have another size.
    """
    check_convention(name, scale)
    h, w = frames.shape[-2:]
    if h % SCALE or w % SCALE or min(h, w) < 16:
        raise InputError(f'{name} takes frames whose sides divide by {SCALE} and are 16 or more, but got {w}x{h}.')
    return CONVENTIONS[name](frames)


def check_convention(name: str, scale: int) -> None:
    """Refuse an unknown name, or another scale than 4.

    Raises:
        InputError: Naming either.
    """
    if name not in CONVENTIONS:
        raise InputError(f'there is no degradation {name!r}; {suggest(name, CONVENTIONS)}')
    if scale != SCALE:
        raise InputError(f'{name} is defined for scale {SCALE}, but the scale is {scale}.')


def bd_downsample_images(images: Sequence[np.ndarray], name: str, scale: int = SCALE) -> list[np.ndarray]:
    """As `bd_downsample`, for images as they are read from and written to files.

    Args:
        images: (h, w, 3) each, BGR, of 8 or 16 bits per value; cropped to sides that divide by 4 first.
        name, scale: As in `bd_downsample`.

    Returns:
        (h // 4, w // 4, 3) each, of the same type, rounded.

    Raises:
        InputError: As `bd_downsample`.
    """
    dtype = images[0].dtype
    peak = np.iinfo(dtype).max
    h, w = (side - side % SCALE for side in images[0].shape[:2])
    floats = [image[:h, :w].astype(np.float32) / peak for image in images]
    lq = bd_downsample(torch.stack(img2tensor(floats, bgr2rgb=False)), name, scale)
    return list((lq.clamp(0, 1) * peak).round().permute(0, 2, 3, 1).numpy().astype(dtype))


# ---------------------------------------------------------------------------- the conventions


def _mmagic(frames: Tensor) -> Tensor:
    """Published LR sets hold 8-bit values; the kernel's centre lies between two pixels."""
    blurred = _blur_and_decimate(frames, _gaussian(12, 1.6), before=4, after=4, border='replicate')
    return (blurred.clamp(0, 1) * 255).round() / 255


def _tecogan(frames: Tensor) -> Tensor:
    return _blur_and_decimate(frames, _gaussian(9, 1.5), before=4, after=1, border='reflect')


def _blur_and_decimate(frames: Tensor, kernel: Tensor, before: int, after: int, border: str) -> Tensor:
    """Convolve with a separable kernel at every fourth pixel.

    Args:
        frames: (t, c, h, w).
        kernel: (k,), of both directions.
        before, after: Pixels that the border adds; `before` tells the phase: the first LR pixel's kernel starts there.
        border: Mode of `F.pad`.
    """
    t, c, h, w = frames.shape
    kernel = kernel.to(frames)
    padded = F.pad(frames.reshape(t * c, 1, h, w), (before, after, before, after), mode=border)
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1), stride=(SCALE, 1))
    return F.conv2d(rows, kernel.view(1, 1, 1, -1), stride=(1, SCALE)).reshape(t, c, h // SCALE, w // SCALE)


def _gaussian(size: int, sigma: float) -> Tensor:
    """(size,), sums to 1; of an even size its centre lies between two pixels."""
    distance = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    kernel = torch.exp(-(distance**2) / (2 * sigma**2))
    return kernel / kernel.sum()


CONVENTIONS = {
    'bd_duf': partial(duf_downsample, kernel_size=13, scale=SCALE),
    'bd_mmagic': _mmagic,
    'bd_tecogan': _tecogan,
}
