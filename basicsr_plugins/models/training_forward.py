"""A network's forward in training: in mixed precision, with its steps checkpointed or compiled, flows in one batch.

Shape shorthand: b batch, t frames, h and w height and width of the LQ frame, s the scale.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from basicsr_plugins.archs.recurrent import State, run_clip
from basicsr_plugins.errors import one_line
from basicsr_plugins.models.network_spec import spec_of
from basicsr_plugins.scales import Place

PRECISIONS = {'none': None, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
CHECKPOINTED_BATCH = 7  # frames or pairs that are recomputed at once
WHOLE_CLIP = 10**6
CPUINFO = Path('/proc/cpuinfo')
BFLOAT16_FLAGS = {'amx_bf16', 'avx512_bf16', 'bf16'}  # of a processor; the last one is Arm's


def emulates_bfloat16(device: torch.device) -> bool:
    """Whether a device has no arithmetic in bfloat16, which then takes longer than float32.

    Of processors only Linux says it; on other systems they count as if they had it.
    """
    if device.type == 'cuda':
        return torch.cuda.get_device_capability(device) < (8, 0)  # before Ampere
    return CPUINFO.is_file() and not BFLOAT16_FLAGS & set(CPUINFO.read_text(encoding='utf-8').split())


class TrainingForward:
    """Stands in the place of `net.forward`; in evaluation mode it is the network's own.

    Flow is estimated in float32 whatever `amp` says, and what the losses get is float32. A network that has no steps
    runs as a whole.

    Args:
        net: The network, not wrapped by DistributedDataParallel.
        amp: Precision of the steps, a key of `PRECISIONS`.
        checkpointing: Whether each step is recomputed when gradients are, so that what is kept is the states.
        compiled: Whether steps are compiled by `torch.compile`.
    """

    def __init__(self, net: nn.Module, amp: str = 'none', checkpointing: bool = False, compiled: bool = False):
        self.net = net
        self.dtype = PRECISIONS[amp]
        self.checkpointing = checkpointing
        self.compiled = {} if compiled else None  # name of a step -> what stands in its place
        self._steps = spec_of(net).steps
        self._whole = net.forward
        net.forward = self

    def __call__(self, x: Tensor, places: tuple[Place, ...] | None = None) -> Tensor | tuple[Tensor, ...]:
        """As the network's forward; `places` for a network of any size."""
        if not self.net.training:
            return self._whole(x)
        # one region for the whole clip: it casts each weight once
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None):
            if self._steps is None:
                output = self._run(self._whole, x, **({} if places is None else {'places': places}))
            else:
                batch = CHECKPOINTED_BATCH if self.checkpointing else WHOLE_CLIP
                output = run_clip(self._steps, x, self._run, batch, places)
        if self.dtype is None:
            return output
        return tuple(part.float() for part in output) if isinstance(output, tuple) else output.float()

    def stop_compiling(self, error: Exception) -> None:
        """Go on without what `torch.compile` failed at, and say so."""
        self.compiled = None
        get_root_logger().warning(f'train: compile: goes on without ({one_line(error)[:300]}).')

    def _run(self, step: Callable[..., State], *whole: Tensor, **inputs: State | None) -> State:
        if self.compiled is not None:
            name = step.__name__
            if name not in self.compiled:
                self.compiled[name] = torch.compile(step)
            step = self.compiled[name]
        if self.checkpointing:
            return checkpoint(step, use_reentrant=False, preserve_rng_state=False, **inputs)
        return step(*whole, **inputs)
