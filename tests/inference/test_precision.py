"""The dtype of a film: as good as float32 on its first frames, and faster."""

import math

import pytest
import torch
from torch import nn

from basicsr_plugins.errors import InputError
from basicsr_plugins.inference import precision
from basicsr_plugins.inference.precision import choose_dtype, loss_at

from .networks import film


class Noisy(nn.Module):
    """Frames with noise of so many dB PSNR."""

    input_type, scale = 'image', 1

    def __init__(self, psnr):
        super().__init__()
        self.amplitude = 10 ** (-psnr / 20)

    def forward(self, x):
        sign = torch.ones_like(x)
        sign[..., ::2] = -1
        return x * 0.9 + 0.05 + self.amplitude * sign


def choose(monkeypatch, bfloat16, float16, seconds):
    psnr = {torch.float32: math.inf, torch.bfloat16: bfloat16, torch.float16: float16}
    clock = iter(value for second in seconds for value in (0, 0, 0, second))
    monkeypatch.setattr(precision.time, 'perf_counter', lambda: next(clock))
    monkeypatch.setattr(precision, 'UpscaleSettings', lambda dtype, **settings: UPSCALE(**settings))

    def make(dtype):
        if psnr[dtype] is None:
            raise InputError('none')
        return Noisy(psnr[dtype])

    return choose_dtype(make, film(5, 12, 16))


UPSCALE = precision.UpscaleSettings  # whose dtype this network shall not compute in


@pytest.mark.parametrize(
    ('bfloat16', 'float16', 'seconds', 'chosen'),
    [
        (65, 70, (4, 2, 3), torch.bfloat16),
        (60, 70, (4, 2, 3), torch.float16),  # bfloat16 differs by more than 61.4 dB
        (60, 61, (4, 2, 3), torch.float32),
        (65, 70, (4, 5, 3), torch.float16),  # bfloat16 is slower
        (65, 70, (4, 5, 6), torch.float32),
        (None, 70, (4, 3), torch.float16),
        (math.nan, 70, (4, 2, 3), torch.float16),
        (None, None, (4,), torch.float32),
    ],
)
def test_the_fastest_that_is_as_good(monkeypatch, bfloat16, float16, seconds, chosen):
    dtype, why = choose(monkeypatch, bfloat16, float16, seconds)
    assert dtype == chosen
    assert why.startswith(str(chosen).split('.')[1])


def test_loss():
    """Noise as large as the error there is costs 3 dB; 26.4 dB below it, 0.01 dB."""
    assert loss_at(35) == pytest.approx(3.01, abs=0.01)
    assert loss_at(61.37) == pytest.approx(0.01, abs=1e-4)


def test_a_film_without_frames():
    assert choose_dtype(lambda dtype: Noisy(50), [])[0] == torch.float32
