"""What a training does about losses, gradients and weights that are not finite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from basicsr_plugins.errors import RunError


class SkippedSteps:
    """Counts the steps that were skipped, on the device, which is not waited for.

    Args:
        most: How many in a row stop the run.
        device: Where the losses are.
    """

    def __init__(self, most: int, device: torch.device):
        self._most = most
        self._in_a_row, self._longest, self._all = torch.zeros(3, dtype=torch.int64, device=device).unbind()
        # looking at the counts is free on a CPU
        self.can_look = device.type == 'cpu'

    def count(self, skipped: Tensor) -> None:
        """Take note of a step: of a tensor, 1 if it was skipped, else 0."""
        self._all.add_(skipped)
        self._in_a_row.add_(1).mul_(skipped)
        torch.maximum(self._longest, self._in_a_row, out=self._longest)

    @property
    def in_a_row(self) -> int:
        """How many there were without another since; this waits for the device."""
        return int(self._in_a_row)

    @property
    def total(self) -> int:
        """How many there were; this waits for the device."""
        return int(self._all)

    @property
    def too_many(self) -> bool:
        """Whether too many came in a row; this waits for the device."""
        return int(self._longest) >= self._most


def diverged(what: str, iteration: int, loss: float, lr: float, models: Path, skipped: int) -> RunError:
    """The error that ends a training.

    Args:
        what: What is not finite.
        iteration: Where it stands.
        loss: The last one.
        lr: The learning rate.
        models: The folder of checkpoints.
        skipped: Steps that were skipped since the last that was taken, which spoilt the weights: none saved after it is
            good.
    """
    numbers = [path.stem.split('_')[-1] for path in models.glob('net_g_*.pth')]
    number = max((int(one) for one in numbers if one.isdigit() and int(one) < iteration - skipped), default=None)
    last = None if number is None else models / f'net_g_{number}.pth'
    good = f'the last good checkpoint is {last}' if last else 'no checkpoint was saved before'
    return RunError(
        f'training diverged: at iteration {iteration} {what} (loss {loss:.4g}, learning rate {lr:.4g}); {good}; '
        'lower train: optim_g: lr, or set train: grad_clip.'
    )


def first_not_finite(weights: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or an infinite value."""
    finite = {name: torch.isfinite(value).all() for name, value in weights.items() if value.is_floating_point()}
    if not finite or torch.stack([value.cpu() for value in finite.values()]).all():
        return None
    return next(name for name, value in finite.items() if not value)
