"""Low-resolution frames by blur and decimation ("BD"), x4, in the three conventions that papers train and test with.

They differ in kernel, border and phase; a network of one is several dB worse on the LR frames of another.

    name         Gaussian                          border     LR pixel j sits at   used for
    bd_duf       13x13, sigma 1.6                  reflect    4 * j                DUF, PFNL, RRN, RSDN, TGA
    bd_mmagic    12x12, sigma 1.6                  replicate  4 * j + 1.5          BasicVSR, IconVSR, BasicVSR++, EDVR
    bd_tecogan   9x9, sigma 1.5                    reflect    4 * j                FRVSR, TecoGAN

RLSP's own LR frames are those of bd_tecogan but for a wider kernel (13x13; 0.4 % of it lies outside 9x9) and a border
that repeats its last pixel.

Shape shorthand: h and w height and width of the GT frame.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from basicsr.data.data_util import duf_downsample
from torch import Tensor
from torch.nn import functional as F

from basicsr_plugins.data.any_scale import BICUBIC, shrink_image
from basicsr_plugins.data.clips import ClipReader, DerivedReader
from basicsr_plugins.errors import InputError, suggest
from basicsr_plugins.scales import Scale, describe_scale

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


def check_convention(name: str, scale: Scale) -> None:
    """Refuse an unknown name, or another scale than 4.

    Raises:
        InputError: Naming either.
    """
    if name not in CONVENTIONS:
        raise InputError(f'there is no degradation {name!r}; {suggest(name, CONVENTIONS)}')
    if scale != SCALE:
        raise InputError(f'{name} is defined for scale {SCALE}, but the scale is {describe_scale(scale)}.')


def bd_downsample_images(images: np.ndarray, name: str, scale: int = SCALE) -> np.ndarray:
    """As `bd_downsample`, for images as they are read from and written to files.

    Args:
        images: (t, h, w, 3), of 8 or 16 bits per value; cropped to sides that divide by 4 first.
        name, scale: As in `bd_downsample`.

    Returns:
        (t, h // 4, w // 4, 3), of the same type, rounded.

    Raises:
        InputError: As `bd_downsample`.
    """
    peak = np.iinfo(images.dtype).max
    h, w = (side - side % SCALE for side in images.shape[1:3])
    frames = torch.from_numpy(images[:, :h, :w].astype(np.float32) / peak).permute(0, 3, 1, 2)
    lq = bd_downsample(frames, name, scale).permute(0, 2, 3, 1).numpy()
    return (lq.clip(0, 1) * peak).round().astype(images.dtype)


class DegradedReader(DerivedReader):
    """LR frames made of a GT reader's frames, rounded to 8 bits as files are.

    Args:
        gt: Reads the GT.
        name: One of `CONVENTIONS`, or of `any_scale.BICUBIC`.
        scale: 4; any for bicubic.

    Raises:
        InputError: If the name is unknown or the scale cannot be.
    """

    def __init__(self, gt: ClipReader, name: str, scale: Scale):
        if name not in BICUBIC:
            check_convention(name, scale)
        super().__init__(gt)
        self.name, self.scale = name, scale

    def read(self, clip: str, frame: str) -> np.ndarray:
        """(h // 4, w // 4, 3), or `scales.lr_size` of bicubic; BGR, uint8."""
        image = self.source.read(clip, frame)
        if self.name in BICUBIC:
            return shrink_image(image, self.name, self.scale)
        return bd_downsample_images(image[None], self.name, self.scale)[0]


# ---------------------------------------------------------------------------- the conventions


def _blur_and_decimate(frames: Tensor, size: int, sigma: float, before: int, after: int, border: str) -> Tensor:
    """Convolve with a Gaussian at every fourth pixel.

    Args:
        frames: (t, c, h, w).
        size, sigma: Of the Gaussian, in pixels; of an even size its centre lies between two.
        before, after: Pixels that the border adds; the first LR pixel's kernel starts `before` pixels outside.
        border: Mode of `F.pad`.
    """
    t, c, h, w = frames.shape
    kernel = _gaussian(size, sigma).to(frames)
    padded = F.pad(frames.reshape(t * c, 1, h, w), (before, after, before, after), mode=border)
    rows = F.conv2d(padded, kernel.view(1, 1, -1, 1), stride=(SCALE, 1))
    return F.conv2d(rows, kernel.view(1, 1, 1, -1), stride=(1, SCALE)).reshape(t, c, h // SCALE, w // SCALE)


def _gaussian(size: int, sigma: float) -> Tensor:
    """(size,), sums to 1."""
    distance = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    kernel = torch.exp(-(distance**2) / (2 * sigma**2))
    return kernel / kernel.sum()


CONVENTIONS = {
    'bd_duf': partial(duf_downsample, kernel_size=13, scale=SCALE),
    'bd_mmagic': partial(_blur_and_decimate, size=12, sigma=1.6, before=4, after=4, border='replicate'),
    'bd_tecogan': partial(_blur_and_decimate, size=9, sigma=1.5, before=4, after=1, border='reflect'),
}
