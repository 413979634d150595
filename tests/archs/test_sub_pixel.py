"""Convolutions to few channels, computed in blocks: values and gradients are those of the convolution itself."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from basicsr_plugins.archs.sub_pixel import conv_in_blocks, conv_of_shuffled


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('side', [2, 3])
@pytest.mark.parametrize('of_shuffled', [False, True])
def test_blocks_equal_the_convolution(of_shuffled, side, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 3, 3, 1, 1, bias=bias).double()
    shuffled = torch.randn(2, 5, 4 * side, 6 * side, dtype=torch.float64)
    x = (F.pixel_unshuffle(shuffled, side) if of_shuffled else shuffled).requires_grad_()
    inputs = (x, *conv.parameters())
    output = (conv_of_shuffled if of_shuffled else conv_in_blocks)(conv, x, side)
    expected = conv(F.pixel_shuffle(x, side) if of_shuffled else x)
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(output, expected)
    gradients, wanted = (torch.autograd.grad(out, inputs, upstream) for out in (output, expected))
    torch.testing.assert_close(gradients, wanted)
