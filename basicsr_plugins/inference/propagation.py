"""Bidirectional recurrent networks step by step: EFAR, and the toolbox's BasicVSR.

A network of this kind runs backward over a clip and then forward. Here each step of either is a call of its own, so
that a film of any length can be gone through with the states of a few frames in memory.

Shape shorthand: c channels, h and w height and width of the LR frame, s the scale. A batch is one film.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from basicsr.archs.arch_util import flow_warp
from basicsr.archs.basicvsr_arch import BasicVSR
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.efar_arch import EFAR
from basicsr_plugins.inference.tiles import run_whole


class EFARSteps:
    """The steps of an `EFAR`; see `EFAR.forward`.

    Args:
        net: The network.
        run: Calls a function of a frame's tensors, whole or by tiles.

    Attributes:
        coupled: Whether a forward step takes the backward state of its frame.
        ahead: How many frames a forward step sees ahead by itself.
    """

    ahead = 1

    def __init__(self, net: EFAR, run: Callable = run_whole):
        self.net = net
        self.run = run
        self.coupled = net.coupled_propagation

    def extract(self, frame: Tensor) -> Tensor:
        """(1, 3, h, w) -> (1, c, h, w), the frame's feature."""
        return self.run(self.net.extractor, frame)

    def flow(self, frame: Tensor, other: Tensor) -> Tensor:
        """(1, 3, h, w) each -> (1, 2, h, w), from `frame` to `other`."""
        return self.net.spynet(frame, other)

    def backward(self, clip: Clip, i: int, state: Tensor | None) -> Tensor:
        """The backward state of frame i, (1, c, h, w), from that of frame i + 1; None: the pass starts here."""
        return self._step(self.net.backward_propagation, clip, i, state, i + 1, i - 1)

    def forward(self, clip: Clip, i: int, state: Tensor | None, backward_state: Tensor | None) -> Tensor:
        """The forward state of frame i from that of frame i - 1; `backward_state`, its own, only where `coupled`."""
        extra = backward_state if self.coupled else None
        return self._step(self.net.forward_propagation, clip, i, state, i - 1, i + 1, extra)

    def _step(self, propagation: nn.Module, clip: Clip, i: int, state, came_from: int, neighbour: int, extra=None):
        to_state = None if state is None else clip.flow(i, came_from)
        feat_neighbour = to_neighbour = None
        if 0 <= neighbour < len(clip):
            feat_neighbour, to_neighbour = clip.feat(neighbour), clip.flow(i, neighbour)

        def propagate(frame, feat, state, feat_neighbour, extra, to_state, to_neighbour):
            return propagation(frame, feat, state, to_state, feat_neighbour, to_neighbour, extra)

        inputs = clip.frame(i), clip.feat(i), state, feat_neighbour, extra
        return self.run(propagate, *inputs, flows=(to_state, to_neighbour))

    def upsample(self, clip: Clip, i: int, backward_state: Tensor, forward_state: Tensor) -> Tensor:
        """The HR frame i, (1, 3, s * h, s * w), from its states."""
        return self.run(self.net.upsampler, clip.frame(i), backward_state, forward_state)


class BasicVSRSteps:
    """The steps of the toolbox's `BasicVSR` (Chan et al., CVPR 2021); arguments, attributes as of `EFARSteps`."""

    ahead = 0
    coupled = False

    def __init__(self, net: BasicVSR, run: Callable = run_whole):
        self.net = net
        self.run = run

    def flow(self, frame: Tensor, other: Tensor) -> Tensor:
        return self.net.spynet(frame, other)

    def backward(self, clip: Clip, i: int, state: Tensor | None) -> Tensor:
        return self._step(self.net.backward_trunk, clip, i, state, i + 1)

    def forward(self, clip: Clip, i: int, state: Tensor | None, backward_state: Tensor | None) -> Tensor:
        return self._step(self.net.forward_trunk, clip, i, state, i - 1)

    def _step(self, trunk: nn.Module, clip: Clip, i: int, state: Tensor | None, came_from: int) -> Tensor:
        def propagate(frame, state, flow):
            if state is None:
                aligned = frame.new_zeros(1, self.net.num_feat, *frame.shape[-2:])
            else:  # in float32: half precision has no whole pixels beyond 2048, and no fine ones long before
                aligned = flow_warp(state.float(), flow.permute(0, 2, 3, 1)).to(state.dtype)
            return trunk(torch.cat((frame, aligned), dim=1))

        flow = None if state is None else clip.flow(i, came_from)
        return self.run(propagate, clip.frame(i), state, flows=(flow,))

    def upsample(self, clip: Clip, i: int, backward_state: Tensor, forward_state: Tensor) -> Tensor:
        return self.run(self._upsample, clip.frame(i), backward_state, forward_state)

    def _upsample(self, frame: Tensor, backward_state: Tensor, forward_state: Tensor) -> Tensor:
        net = self.net
        feat = net.lrelu(net.fusion(torch.cat((backward_state, forward_state), dim=1)))
        for upconv in (net.upconv1, net.upconv2):
            feat = net.lrelu(net.pixel_shuffle(upconv(feat)))  # (1, c, 2h, 2w), (1, 64, 4h, 4w)
        residue = net.conv_last(net.lrelu(net.conv_hr(feat)))
        return residue + F.interpolate(frame, scale_factor=4, mode='bilinear', align_corners=False)


STEPS = {EFAR: EFARSteps, BasicVSR: BasicVSRSteps}


def has_steps(net: nn.Module) -> bool:
    """Whether a network can be run step by step."""
    return type(net) in STEPS


def steps_of(net: nn.Module, run: Callable = run_whole) -> EFARSteps | BasicVSRSteps:
    """A network's steps."""
    return STEPS[type(net)](net, run)


class Clip:
    """Frames of a scene, and what is computed of them when it is first asked for: features and flows.

    Args:
        steps: Of the network.
        frames: LR frames (3, h, w), read by index; their number, which may grow, is how far the scene is known.
        device: Where the network runs.
    """

    def __init__(self, steps: EFARSteps | BasicVSRSteps, frames, device: torch.device | None):
        self.frames = frames
        self._steps = steps
        self._device = device
        self._known = {}  # (what, i, ...) -> tensor

    def __len__(self) -> int:
        return len(self.frames)

    def frame(self, i: int) -> Tensor:
        """(1, 3, h, w), float32, on the network's device."""
        return self._get(('frame', i), lambda: self.frames[i].to(self._device, torch.float32).unsqueeze(0))

    def feat(self, i: int) -> Tensor:
        """(1, c, h, w)."""
        return self._get(('feat', i), lambda: self._steps.extract(self.frame(i)))

    def flow(self, i: int, j: int) -> Tensor:
        """(1, 2, h, w), float32, from frame i to frame j, in pixels, channel 0 = x."""

        def estimate():
            frame, other = self.frame(i), self.frame(j)
            with torch.autocast(frame.device.type, enabled=False):
                return self._steps.flow(frame, other)

        return self._get(('flow', i, j), estimate)

    def keep(self, first: int, last: int) -> None:
        """Forget what belongs to other frames than `first` to `last`."""
        self.frames.keep(first, last)
        self._known = {key: value for key, value in self._known.items() if first <= key[1] <= last}

    def _get(self, key: tuple, compute: Callable[[], Tensor]) -> Tensor:
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]


class Propagation:
    """Runs a network over a scene, a segment of frames at a time.

    Args:
        clip: The scene, as far as it is known.
        steps: The network's.
        skip: How many of the first HR frames are not wanted.
        on_backward: Called after every backward step.
    """

    def __init__(self, clip: Clip, steps: EFARSteps | BasicVSRSteps, skip: int, on_backward: Callable[[], None]):
        self._clip = clip
        self._steps = steps
        self._skip = skip
        self._on_backward = on_backward
        self._forward_state = None  # of the last frame that was put out

    def wants_backward(self, end: int) -> bool:
        """Whether a segment up to frame `end` - 1 needs its backward states."""
        return self._steps.coupled or end > self._skip

    def last_backward_state(self, start: int, end: int) -> Tensor | None:
        """The backward state of frame `start`, the pass starting at frame `end` - 1; None where that comes before."""
        state = None
        for _, new in self.run_backward(start, end, None):
            state = new
        return state

    def run_backward(self, start: int, end: int, state: Tensor | None) -> Iterator[tuple[int, Tensor]]:
        """Backward states of the frames `end` - 1 down to `start`, each with its frame's index.

        `state` is that of frame `end`; None: the pass starts after it.
        """
        for i in range(end - 1, start - 1, -1):
            state = self._steps.backward(self._clip, i, state)
            self._on_backward()
            yield i, state

    def upscale(self, start: int, end: int, state: Tensor | None) -> Iterator[Tensor | None]:
        """HR frames `start` to `end` - 1, (1, 3, s * h, s * w), None for a skipped one; `state` as of `run_backward`.

        Segments are to be upscaled in order: the forward state is carried on from one to the next.
        """
        backward_states = {}
        if self.wants_backward(end):
            backward_states.update(self.run_backward(start, end, state))
        for i in range(start, end):
            backward_state = backward_states.pop(i, None)
            self._forward_state = self._steps.forward(self._clip, i, self._forward_state, backward_state)
            yield None if i < self._skip else self._steps.upsample(self._clip, i, backward_state, self._forward_state)
            self._clip.keep(i, len(self._clip))
