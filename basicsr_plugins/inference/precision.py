"""Which dtype a film is upscaled in: the fastest whose frames are as good as those of float32."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from basicsr_plugins.errors import InputError
from basicsr_plugins.inference.engine import upscale_frames
from basicsr_plugins.inference.settings import UpscaleSettings

NUM_FRAME, SIDE = 3, 160  # of the film's start; LR pixels of the middle
USUAL_PSNR = 35  # dB between float32's frames and the film as it should be, which nobody has; x4 is mostly below
LARGEST_LOSS = 0.01  # dB


def choose_dtype(make: Callable[[torch.dtype], nn.Module], film: Iterable[Tensor]) -> tuple[torch.dtype, str]:
    """Measure bfloat16 and float16 on the first frames of a film.

    An error of mean square d on top of an independent one of g lowers PSNR by 10 log10(1 + d / g) dB. With g that of
    35 dB, at most 0.01 dB may be lost: PSNR between the frames of a dtype and those of float32 is at least 61.4 dB.

    Args:
        make: Gives the network for a dtype, or raises InputError where there is none for it.
        film: LR frames (3, h, w), RGB in [0, 1].

    Returns:
        The fastest dtype of those that lose no more, float32 where none is faster; and a sentence that says why.
    """
    frames = [_middle(frame) for frame in itertools.islice(film, NUM_FRAME)]
    if not frames:
        return torch.float32, 'float32 is used: the film has no frames to compare dtypes on.'
    expected, usual = _measure(make, frames, torch.float32)
    best, fastest, why = torch.float32, usual, 'float32 is used: no other dtype that the runtime has is as good.'
    for dtype in (torch.bfloat16, torch.float16):
        try:
            output, seconds = _measure(make, frames, dtype)
        except (InputError, RuntimeError):  # RuntimeError: an operation that PyTorch lacks in it
            continue
        psnr = _psnr(output, expected)
        if loss_at(psnr) <= LARGEST_LOSS and seconds < fastest:
            best, fastest = dtype, seconds
            why = (
                f'{str(dtype).split(".")[1]} is used: on the first frames it takes {seconds / usual:.2f} of '
                f"float32's time and differs from it by {psnr:.1f} dB PSNR, at most {LARGEST_LOSS} dB of quality."
            )
    return best, why


def loss_at(psnr: float) -> float:
    """PSNR in dB that frames lose which differ from float32's by `psnr` dB."""
    return 10 * math.log10(1 + 10 ** ((USUAL_PSNR - psnr) / 10))


def _middle(frame: Tensor) -> Tensor:
    top, left = (max(side - SIDE, 0) // 2 for side in frame.shape[-2:])
    return frame[:, top : top + SIDE, left : left + SIDE]


def _measure(
    make: Callable[[torch.dtype], nn.Module], frames: list[Tensor], dtype: torch.dtype
) -> tuple[Tensor, float]:
    """The frames, and the seconds of the second time; NaN, where a dtype overflows, counts as different."""
    net = make(dtype)
    settings = UpscaleSettings(dtype=dtype, scene_cuts=False, tile=None)
    for _ in range(2):
        start = time.perf_counter()
        output = torch.stack([frame.cpu() for frame in upscale_frames(net, frames, settings)])
        seconds = time.perf_counter() - start
    return output.clamp(0, 1), seconds


def _psnr(output: Tensor, expected: Tensor) -> float:
    mse = (output - expected).double().square().mean().item()
    return -math.inf if math.isnan(mse) else -10 * math.log10(max(mse, 1e-12))
