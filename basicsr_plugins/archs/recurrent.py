"""Recurrent networks as steps: training, upscaling and export go through the same ones.

A network of this kind derives from `RecurrentNetwork` and defines steps instead of `forward`. Each is a pure function
of tensors, and what it takes is said by the names of its arguments:

    clean(frame) -> frame                   optional; in float32; all other steps then get cleaned frames
    extract(frame) -> feat                  optional
    flow(frame, other) -> flow              optional; from `frame` to `other`, in pixels, channel 0 = x; in float32
    backward_step(...) -> state             optional; the pass from the last frame to the first
    forward_step(...) -> state              optional; the pass from the first frame to the last
    upsample(...) -> (b, 3, s * h, s * w)

The last three take, of frame i, any of `frame`, `feat`, `previous_frame`, `next_frame`, `previous_feat`, `next_feat`,
`flow_to_previous`, `flow_to_next` and

    state            in a pass that of the frame it came from, None where it starts; in `upsample` the forward pass's
    backward_state   the backward pass's state of the frame itself

and `upsample` also, of up to `num_lookahead` frames (an attribute of the network) after frame i, in order

    next_states      the forward pass's states, which must not need the backward pass's
    flows_to_next    the flows from frame i to each

and, of networks that enlarge to any size,

    places           where the result lies (`scales.Place`): one for all of a batch, or one of each; always there

A network that makes frames between those it is given (`time_scale = 2`) gives in `upsample` of each frame but the last
the one after it too: (b, 6, s * h, s * w).

What lies beyond the clip's ends, or before the start of a pass, is None. A state is a tensor (b, c, h, w) or a tuple of
such tensors, with the height and width of the frame, so that it can be cut into tiles.

Shape shorthand: b batch, t frames, c channels, h and w height and width of the LR frame, s the scale.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Union

import torch
from torch import Tensor, nn

from basicsr_plugins.errors import InputError
from basicsr_plugins.scales import Place, scaled_size, whole_place

State = Union[Tensor, 'tuple[Tensor, ...]']
NEIGHBOURS = {'previous': -1, 'next': 1}
INPUTS = (
    *('frame', 'feat', 'state', 'backward_state'),
    *(name for side in NEIGHBOURS for name in (f'{side}_frame', f'{side}_feat', f'flow_to_{side}')),
    *('next_states', 'flows_to_next', 'places'),
)
STEPS = ('backward_step', 'forward_step', 'upsample')
CAME_FROM = {'backward_step': 1, 'forward_step': -1}  # where a pass's previous frame lies


class Steps:
    """What the steps of a network take, read from the names of their arguments.

    Attributes:
        num_lookahead: Of how many frames ahead `upsample` takes the forward states.
    """

    num_lookahead = 0

    def step_inputs(self, step: str) -> tuple[str, ...]:
        """The names of what `backward_step`, `forward_step` or `upsample` takes; none where there is no such step.

        Raises:
            TypeError: If an argument has a name that says nothing.
        """
        return _argument_names(getattr(type(self), step)) if self.has_step(step) else ()

    def has_step(self, step: str) -> bool:
        return hasattr(type(self), step)

    @property
    def ahead(self) -> int:
        """How many frames the forward pass sees ahead by itself."""
        steps, upsample = (
            any('next' in name for name in self.step_inputs(step)) for step in ('forward_step', 'upsample')
        )
        return max(steps + self.num_lookahead, int(upsample))

    @property
    def coupled(self) -> bool:
        """Whether the forward pass takes the backward pass's states."""
        return 'backward_state' in self.step_inputs('forward_step')


@functools.cache
def _argument_names(step: Callable) -> tuple[str, ...]:
    names = tuple(inspect.signature(step).parameters)[1:]  # without self
    for name in names:
        if name not in INPUTS:
            raise TypeError(f'{step.__qualname__}: no step can take {name!r}; it takes {", ".join(INPUTS)}.')
    return names


def call(step: Callable[..., State], **inputs: State | None) -> State:
    """Call a step as it is. What stands in its place may tile, checkpoint, compile or convert by `step.__name__`."""
    return step(**inputs)


class Clip:
    """The frames of a clip, what the steps make of single frames and pairs (once each), and calls of the steps.

    Args:
        steps: The network, or what has its steps.
        frames: (b, 3, h, w) each, read by index; their number, which may grow, is how far the clip is known.
        run: Calls a step: (step, **inputs) -> its result.
        places: Where the results lie; None: everywhere, the frames enlarged by the network's scale.
    """

    def __init__(
        self,
        steps: Steps,
        frames: Sequence[Tensor],
        run: Callable[..., State] = call,
        places: tuple[Place, ...] | None = None,
    ):
        self.frames = frames
        self._places = places
        self._steps = steps
        self._run = run
        self._known = {}  # (what, i, ...) -> tensor

    def __len__(self) -> int:
        return len(self.frames)

    def frame(self, i: int) -> Tensor:
        """(b, 3, h, w), cleaned where the network has a step for it."""
        if not self._steps.has_step('clean'):
            return self._once(('frame', i), lambda: self.frames[i])
        return self._once(('frame', i), lambda: self._run(self._steps.clean, frame=self.frames[i]))

    def feat(self, i: int) -> Tensor:
        """What `extract` makes of frame i."""
        return self._once(('feat', i), lambda: self._run(self._steps.extract, frame=self.frame(i)))

    def flow(self, i: int, j: int) -> Tensor:
        """(b, 2, h, w), float32, from frame i to frame j, in pixels, channel 0 = x."""
        return self._once(('flow', i, j), lambda: self._estimate(self.frame(i), self.frame(j)))

    def _estimate(self, frame: Tensor, other: Tensor) -> Tensor:
        kind = 'cpu' if frame.is_meta else frame.device.type  # autocast knows no meta device
        with torch.autocast(kind, enabled=False):
            return self._run(self._steps.flow, frame=frame, other=other)

    def step(
        self, name: str, i: int, state: State | None = None, backward_state: State | None = None
    ) -> State | Tensor | None:
        """The result of `backward_step`, `forward_step` or `upsample` for frame i; None where there is no such step."""
        if not self._steps.has_step(name):
            return None
        if name == 'forward_step' and ('state', i) in self._known:
            return self._known['state', i]
        states = {'state': state, 'backward_state': backward_state}
        starts = state is None and name in CAME_FROM
        beyond = i + CAME_FROM[name] if starts else None  # not of this pass
        names = self._steps.step_inputs(name)
        if 'next_states' in names:
            states['next_states'] = self._next_states(i, state)
        if 'places' in names:
            states['places'] = self._places or self._everywhere(i)
        inputs = {what: states[what] if what in states else self._input(what, i, beyond) for what in names}
        return self._run(getattr(self._steps, name), **inputs)

    def _everywhere(self, i: int) -> tuple[Place, ...]:
        size = tuple(self.frame(i).shape[-2:])
        return (whole_place(size, scaled_size(size, self._steps.scale)),)

    def _next(self, i: int) -> range:
        if self._steps.num_lookahead < 1:
            raise TypeError(f'{type(self._steps).__name__} takes what lies ahead, but its num_lookahead is not set.')
        return range(i + 1, min(i + self._steps.num_lookahead, len(self) - 1) + 1)

    def _next_states(self, i: int, state: State | None) -> tuple[State, ...] | None:
        """Of the frames after i, each computed once: the forward pass takes them up when it comes there."""
        states = []
        for j in self._next(i):
            state = self._once(('state', j), functools.partial(self.step, 'forward_step', j, state))
            states.append(state)
        return tuple(states) or None

    def _input(self, what: str, i: int, beyond: int | None) -> State | None:
        if what == 'flows_to_next':
            return tuple(self.flow(i, j) for j in self._next(i)) or None
        *side, kind = what.split('_')  # ['next'], 'feat'; or ['flow', 'to'], 'next'
        if not side:
            return getattr(self, kind)(i)
        is_flow = side[0] == 'flow'
        j = i + NEIGHBOURS[kind if is_flow else side[0]]
        if j == beyond or not 0 <= j < len(self):
            return None
        return self.flow(i, j) if is_flow else getattr(self, kind)(j)

    def compute_ahead(self, size: int) -> None:
        """Compute the features of all frames and the flows of all pairs that the steps take, `size` in one batch.

        What comes of a batch differs from what comes one by one, by rounding.
        """
        taken = {name for step in STEPS for name in self._steps.step_inputs(step)}
        frames = range(len(self))
        if self._steps.has_step('clean'):
            for part in _parts(frames, size):
                cleaned = self._run(self._steps.clean, frame=torch.cat([self.frames[i] for i in part]))
                self._known.update((('frame', i), frame) for i, frame in zip(part, cleaned.chunk(len(part))))
        if any(name.endswith('feat') for name in taken):
            for part in _parts(frames, size):
                feats = self._run(self._steps.extract, frame=torch.cat([self.frame(i) for i in part]))
                self._known.update((('feat', i), feat) for i, feat in zip(part, feats.chunk(len(part))))
        sides = [offset for name, offset in NEIGHBOURS.items() if f'flow_to_{name}' in taken]
        pairs = [(i, i + offset) for offset in sides for i in frames if 0 <= i + offset < len(self)]
        for part in _parts(pairs, size):
            flows = self._estimate(*(torch.cat([self.frame(i) for i in side]) for side in zip(*part)))
            self._known.update((('flow', *pair), flow) for pair, flow in zip(part, flows.chunk(len(part))))

    def keep(self, first: int, last: int) -> None:
        """Forget what belongs to other frames than `first` to `last`."""
        self._known = {key: value for key, value in self._known.items() if first <= key[1] <= last}

    def _once(self, key: tuple, compute: Callable[[], State]) -> State:
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]


def split_times(steps: Steps, output: Tensor | tuple[Tensor, ...]) -> Sequence[Tensor | tuple[Tensor, ...]]:
    """What `upsample` gave for a frame as the frames that it is: one, or more of a network that makes some between."""
    return output.split(3, dim=-3) if getattr(steps, 'time_scale', 1) > 1 else (output,)


def _parts(items: Sequence, size: int) -> list[Sequence]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def run_clip(
    steps: Steps,
    x: Tensor,
    run: Callable[..., State] = call,
    batch: int | None = None,
    places: tuple[Place, ...] | None = None,
) -> Tensor | tuple[Tensor, ...]:
    """Upscale a clip by the steps of a network: what `forward` does.

    Args:
        steps: The network, or what has its steps.
        x: (b, t, 3, h, w).
        run: Calls a step: (step, **inputs) -> its result.
        batch: How many frames' features and pairs' flows are computed at once, before the passes begin; None for one by
            one, as they are needed, which gives the very values of upscaling.
        places: As of `Clip`.

    Returns:
        (b, t, 3, s * h, s * w), with 2 * t - 1 frames of a network of twice the frame rate; a tuple, of which this is
        the first, where `upsample` gives one.
    """
    clip = Clip(steps, x.unbind(1), run, places)
    if batch is not None:
        clip.compute_ahead(batch)
    backward_states = [None] * len(clip)
    state = None
    for i in reversed(range(len(clip))):
        state = backward_states[i] = clip.step('backward_step', i, state)

    outputs = []
    state = None
    for i in range(len(clip)):
        state = clip.step('forward_step', i, state, backward_states[i])
        outputs.extend(split_times(steps, clip.step('upsample', i, state, backward_states[i])))
        backward_states[i] = None
        clip.keep(i, len(clip))
    if isinstance(outputs[0], tuple):  # in training: the frames, and what losses of the network's own look at
        return tuple(torch.stack(output, dim=1) for output in zip(*outputs))
    return torch.stack(outputs, dim=1)


class RecurrentNetwork(Steps, nn.Module):
    """A network that goes through a clip step by step; see the module for what a subclass defines.

    Attributes:
        colour: `rgb`, or `y` for a network of the luma channel alone.
    """

    input_type = 'sequence'
    colour = 'rgb'

    def forward(self, x: Tensor, places: tuple[Place, ...] | None = None) -> Tensor:
        """Upscale a clip, frame by frame.

        Args:
            x: (b, t, 3, h, w), RGB in [0, 1]; (b, t, 1, h, w), luma, for a network of luma.
            places: As of `Clip`, for a network that enlarges to any size.

        Returns:
            (b, t, 3, s * h, s * w), or of one channel.

        Raises:
            InputError: If `x` has another shape.
        """
        channels = 1 if self.colour == 'y' else 3
        if x.dim() != 5 or x.size(1) < 1 or x.size(2) != channels:
            raise InputError(
                f'{type(self).__name__} takes frames of shape (b, t, {channels}, h, w), but got {tuple(x.shape)}.'
            )
        return run_clip(self, x, places=places)
