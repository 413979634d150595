"""Prepare a PyTorch network for the frames that it is to upscale: the layout and the dtype of its weights.

Convolutions are fastest where a pixel's channels lie side by side (`torch.channels_last`), in bfloat16 on a processor
with AMX several times so: the layout of their weights is that of their results.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

CAST = (nn.modules.conv._ConvNd, nn.Linear)  # what autocast computes in half precision, with weights of their own


def lay_out(net: nn.Module) -> nn.Module:
    """The network itself, with the weights of its convolutions laid out for speed; their values stay."""
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.to(memory_format=torch.channels_last)
    return net


@contextlib.contextmanager
def prepared(net: nn.Module, dtype: torch.dtype) -> Iterator[nn.Module]:
    """A network in eval mode; for another dtype than float32 a copy, whose layers keep their weights in that dtype.

    A layer casts its weights when it is first used under autocast, once, and not in every step. What is used outside of
    autocast, as flow is, stays in float32.

    Args:
        net: A network; without weights of its own it is run as it is.
        dtype: In which `settings.precision` has it compute.
    """
    training = net.training
    net.eval()
    try:
        yield net if dtype == torch.float32 or not any(True for _ in net.parameters()) else _cast(net, dtype)
    finally:
        net.train(training)


def _cast(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    def cast_once(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.weight.dtype != dtype and torch.is_autocast_enabled(module.weight.device.type):
            module.to(dtype)

    net = lay_out(copy.deepcopy(net))
    for module in net.modules():
        if isinstance(module, CAST):
            module.register_forward_pre_hook(cast_once)
    return net
