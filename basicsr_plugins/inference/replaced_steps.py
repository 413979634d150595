"""A recurrent network whose steps something else computes: another runtime, or a recorder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from basicsr_plugins.archs.recurrent import RecurrentNetwork, State
from basicsr_plugins.models.network_spec import FIELDS, NetworkSpec

STEPS = ('clean', 'extract', 'flow', 'backward_step', 'forward_step', 'upsample')


class ReplacedSteps(RecurrentNetwork):
    """Describes itself as the network it stands for, and takes what that one's steps take.

    Args:
        spec: That network's description.
        step_inputs: For each step that it has, the names of what it takes.
        compute: (name of the step, its inputs by name) -> its result.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        step_inputs: Mapping[str, Sequence[str]],
        compute: Callable[[str, Mapping[str, State | None]], State],
    ):
        super().__init__()
        for field in FIELDS:
            setattr(self, field, getattr(spec, field))
        self._step_inputs = {step: tuple(names) for step, names in step_inputs.items()}
        self._compute = compute

    def step_inputs(self, step: str) -> tuple[str, ...]:
        return self._step_inputs.get(step, ())

    def has_step(self, step: str) -> bool:
        return step in self._step_inputs

    def clean(self, **inputs: State | None) -> Tensor:
        return self._compute('clean', inputs)

    def extract(self, **inputs: State | None) -> Tensor:
        return self._compute('extract', inputs)

    def flow(self, **inputs: State | None) -> Tensor:
        return self._compute('flow', inputs)

    def backward_step(self, **inputs: State | None) -> State:
        return self._compute('backward_step', inputs)

    def forward_step(self, **inputs: State | None) -> State:
        return self._compute('forward_step', inputs)

    def upsample(self, **inputs: State | None) -> Tensor:
        return self._compute('upsample', inputs)


def inputs_of_steps(spec: NetworkSpec) -> dict[str, tuple[str, ...]]:
    """The names of what each step of a network takes.

    Args:
        spec: Of a network that has steps.
    """
    fixed = {'clean': ('frame',), 'extract': ('frame',), 'flow': ('frame', 'other')}
    return {step: fixed.get(step) or spec.steps.step_inputs(step) for step in STEPS if spec.steps.has_step(step)}
