"""Prepare a PyTorch network for the frames that it is to upscale: layout and dtype of its weights, compiled steps.

Convolutions are fastest where a pixel's channels lie side by side (`torch.channels_last`), in bfloat16 on a processor
with AMX several times so: the layout of their weights is that of their results.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from basicsr_plugins.archs.recurrent import State, Steps
from basicsr_plugins.errors import InputError, one_line
from basicsr_plugins.inference.replaced_steps import STEPS
from basicsr_plugins.memory import is_out_of_memory

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
    autocast, as flow is, stays in float32; so does what is used without its layer (`archs.sub_pixel`), a few kernels
    that are cast in every step.

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


def compiled(steps: Steps, device: torch.device | None) -> Steps:
    """What has the same steps, which `torch.compile` compiles when they are first used, on CUDA to CUDA graphs.

    Where that fails, a step goes on as it is, and a warning says so.
    """
    copied = copy.copy(steps)
    for name in STEPS:
        if steps.has_step(name):
            vars(copied)[name] = _Compiled(getattr(steps, name), device is not None and device.type == 'cuda')
    return copied


class _Compiled:
    """A step that is compiled, once it was called with all of its inputs: then its layers have cast their weights."""

    def __init__(self, step: Callable[..., State], on_cuda: bool):
        self.__name__ = step.__name__
        self._step, self._on_cuda = step, on_cuda
        self._is_warm, self._run = False, None

    def __call__(self, **inputs: State | None) -> State:
        if not self._is_warm or self._run is self._step:
            self._is_warm = all(value is not None for value in inputs.values())
            return self._step(**inputs)
        try:
            if self._run is None:
                self._run = torch.compile(self._step, **({'mode': 'reduce-overhead'} if self._on_cuda else {}))
            if self._on_cuda:
                torch.compiler.cudagraph_mark_step_begin()
            result = self._run(**inputs)
        except Exception as error:  # the compilers' own are many
            if isinstance(error, InputError) or is_out_of_memory(error):
                raise
            warnings.warn(f'{self.__name__} is not compiled ({one_line(error)[:300]}).', stacklevel=2)
            self._run = self._step
            return self._step(**inputs)
        if not self._on_cuda:
            return result
        # a CUDA graph writes there again
        return tuple(one.clone() for one in result) if isinstance(result, tuple) else result.clone()
