"""BasicAVSR: video super-resolution to any size, also by different factors for height and width.

Paper: Shang et al., "BasicAVSR: Arbitrary-Scale Video Super-Resolution via Image Priors and Enhanced Motion
Compensation", arXiv 2510.26149, 2025. This is an independent reading, not a reproduction: neither the paper's text
beyond a description of it nor its code was on hand. It joins that description [seed] with the code of the authors'
earlier network ST-AVSR (ECCV 2024, arXiv 2407.09919) and of IART (CVPR 2024) [code]; what none of them says is decided
here [ours].

- Prior [seed: a Laplacian pyramid, its bands resized, weighted, summed and put beside the frame]: four levels, weights
  for each level and colour that start at one, and bands that keep the frame's size, where a pyramid that keeps every
  second pixel would answer to a shift by one pixel with other features [ours]. `frequency_prior.py`.
- Extraction: a convolution and two residual blocks, so that the default has the published 6.2 M parameters [ours].
- Flow: SpyNet [seed]; ST-AVSR has PWC-Net.
- Propagation [seed: three forms; code: 15 residual blocks, 64 channels, the fusion of both directions]. The form with
  lookahead aligns the forward states of the next frames to the frame's own, and fuses them by attention over frames at
  each pixel, a light form of ST-AVSR's [ours]; it takes no frames that do not exist, where ST-AVSR reflects the clip.
- Motion compensation [seed: flow, a search in a window by attention, residual offsets and masks]: attention as IART's
  [code], with eight heads; then deformable convolution of BasicVSR++'s form; their sum [ours]. "Second order" is read
  as the second, correcting stage. `motion_compensation.py`.
- Upsampling as in ST-AVSR [seed, code], its positions computed from integers [ours]: its floats put a centre on the
  border of two pixels, at x2.5 every fifth, to either side. The kernels that meet in an HR pixel sum to one, by the
  middle one [ours]: ST-AVSR's do not, and a frame of one colour comes out with their pattern. `hyper_upsampling.py`.
- H = round(scale * h), halves up; the scale that counts is then H / h [ours]. Of a part of a frame, a tile or the
  crop that training compares, all terms are there; in ST-AVSR the border of the crop lacks some [ours].
- Trunks start as He's times 0.2 [code], the fusion as He's [ours]: times 0.2 too, next to nothing of the states reached
  the upsampling, and small networks only enlarged bilinearly for their first 500 to 1200 iterations.

Parameters: bidirectional 6,194,283; lookahead 5,020,971; unidirectional 4,343,803; the paper says 6.2 M and not of
which form. The total is met by the choice of the extraction, and is no evidence for the rest.

A frame of one colour comes out of one colour, and a frame that is shifted by whole pixels comes out shifted, where the
scale is whole; both away from the borders, where convolutions see zeros, and as far as the flow agrees: SpyNet's
pyramid keeps every second pixel of each level.

Shape shorthand: b batch, t frames, c channels, h and w height and width of the LR frame, H and W of the HR frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from basicsr.archs.arch_util import default_init_weights
from basicsr.archs.basicvsr_arch import ConvResidualBlocks
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from basicsr_plugins.archs.frequency_prior import FrequencyPrior
from basicsr_plugins.archs.hyper_upsampling import HyperUpsampler
from basicsr_plugins.archs.motion_compensation import SecondOrderMotionCompensation
from basicsr_plugins.archs.recurrent import RecurrentNetwork
from basicsr_plugins.archs.vsr_modules import build_spynet
from basicsr_plugins.errors import InputError
from basicsr_plugins.scales import MAX_SCALE, Place, Scale, Size, asked_place, check_scale, check_scale_range

UPSAMPLE_INPUTS = {  # by the form of propagation
    'bidirectional': ('frame', 'state', 'backward_state', 'places'),
    'lookahead': ('frame', 'state', 'next_states', 'flows_to_next', 'places'),
    'unidirectional': ('frame', 'state', 'places'),
}


@ARCH_REGISTRY.register()
class BasicAVSR(RecurrentNetwork):
    """BasicAVSR.

    Args:
        num_feat: Channels of the features.
        num_block: Residual blocks in each direction.
        num_extract_block: Residual blocks of the extraction.
        num_upsample_block: Residual blocks before upsampling.
        propagation: `bidirectional`; `unidirectional`, which sees no later frame; `lookahead`, which sees a few.
        num_lookahead: How many, with `lookahead`.
        window_size: Side of the window that is searched around the flow, in pixels, even.
        num_head: Heads of the search's attention; divides `num_feat`.
        deform_groups: Groups of channels that share an offset; divides `num_feat`.
        scale: Upscaling factor, from 1 to 16, or two, vertical and horizontal; a run sets its own.
        trained_scales: The least and the greatest factor that its weights are trained for; others are possible.
        spynet_path: SpyNet weights in the format of BasicSR's `SpyNet(load_path)`; without, flow starts untrained.

    Raises:
        InputError: If an argument is out of its range, or `spynet_path` does not hold SpyNet weights.
    """

    scale_range = (1, MAX_SCALE)

    def __init__(
        self,
        num_feat: int = 64,
        num_block: int = 15,
        num_extract_block: int = 2,
        num_upsample_block: int = 15,
        propagation: str = 'bidirectional',
        num_lookahead: int = 2,
        window_size: int = 2,
        num_head: int = 8,
        deform_groups: int = 16,
        scale: float | Sequence[float] = 4,
        trained_scales: Sequence[float] = (2, 6),
        spynet_path: str | None = None,
    ):
        super().__init__()
        check_scale(scale, 'BasicAVSR: scale')
        check_scale_range(trained_scales, 'BasicAVSR: trained_scales')
        _check(num_feat, propagation, num_lookahead, window_size, num_head, deform_groups)
        self.scale: Scale = scale
        self.trained_scales = tuple(trained_scales)
        self.num_feat = num_feat
        self.propagation = propagation
        self.num_lookahead = num_lookahead if propagation == 'lookahead' else 0

        def compensation():
            return SecondOrderMotionCompensation(num_feat, window_size, num_head, deform_groups)

        self.spynet = build_spynet(spynet_path)
        self.prior = FrequencyPrior()
        self.extractor = ConvResidualBlocks(6, num_feat, num_extract_block)
        self.forward_propagation = Propagation(num_feat, num_block, compensation())
        if propagation == 'bidirectional':
            self.backward_propagation = Propagation(num_feat, num_block, compensation())
        if propagation == 'lookahead':
            self.lookahead = LookaheadFusion(num_feat, compensation())
        if propagation != 'unidirectional':
            self.fusion = nn.Sequential(
                nn.Conv2d(2 * num_feat, 2 * num_feat, 3, 1, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(2 * num_feat, num_feat, 3, 1, 1),
            )
            default_init_weights(self.fusion)
        self.upsampler = HyperUpsampler(num_feat, num_upsample_block)

    def has_step(self, step: str) -> bool:
        """Only the bidirectional form has a backward pass."""
        return super().has_step(step) and (step != 'backward_step' or self.propagation == 'bidirectional')

    def step_inputs(self, step: str) -> tuple[str, ...]:
        return UPSAMPLE_INPUTS[self.propagation] if step == 'upsample' else super().step_inputs(step)

    def forward(self, x: Tensor, size: Size | None = None, places: tuple[Place, ...] | None = None) -> Tensor:
        """Upscale a clip, frame by frame.

        Args:
            x: (b, t, 3, h, w), RGB in [0, 1]; any t, h and w.
            size: H and W; without, by `scale`.
            places: In place of `size`: where the result lies, one for all of a batch or one of each, of one size.

        Returns:
            (b, t, 3, H, W).

        Raises:
            InputError: If `x` has another shape, or the size is smaller than the frames or over 16 times as large.
        """
        if size is not None:
            places = (asked_place(x.shape[-2:], size, 'BasicAVSR'),)
        return super().forward(x, places)

    def extract(self, frame: Tensor) -> Tensor:
        return self.extractor(self.prior(frame))

    def flow(self, frame: Tensor, other: Tensor) -> Tensor:
        return self.spynet(frame, other)

    def backward_step(self, feat: Tensor, state: Tensor | None, flow_to_next: Tensor | None) -> Tensor:
        return self.backward_propagation(feat, state, flow_to_next)

    def forward_step(self, feat: Tensor, state: Tensor | None, flow_to_previous: Tensor | None) -> Tensor:
        return self.forward_propagation(feat, state, flow_to_previous)

    def upsample(
        self,
        frame: Tensor,
        state: Tensor,
        backward_state: Tensor | None = None,
        next_states: tuple[Tensor, ...] | None = None,
        flows_to_next: tuple[Tensor, ...] | None = None,
        *,
        places: tuple[Place, ...],
    ) -> Tensor:
        """(b, 3, H, W) of the places; which of the states there are depends on the form of propagation."""
        if self.propagation == 'bidirectional':
            state = self.fusion(torch.cat((state, backward_state), dim=1))
        elif self.propagation == 'lookahead':
            ahead = self.lookahead(state, next_states, flows_to_next)
            state = self.fusion(torch.cat((state, ahead), dim=1))
        return self.upsampler(state, frame, places)


class Propagation(nn.Module):
    """One step of one direction: the neighbour's state, aligned, with the feature through residual blocks.

    Args:
        num_feat: Channels of features and state.
        num_block: Residual blocks.
        compensation: The alignment.
    """

    def __init__(self, num_feat: int, num_block: int, compensation: SecondOrderMotionCompensation):
        super().__init__()
        self.compensation = compensation
        self.trunk = ConvResidualBlocks(2 * num_feat, num_feat, num_block)
        default_init_weights(self.trunk, 0.2)

    def forward(self, feat: Tensor, state: Tensor | None, flow: Tensor | None) -> Tensor:
        """The state of the current frame; a state that does not exist (None) contributes zeros.

        Args:
            feat: (b, c, h, w), feature of the current frame.
            state: (b, c, h, w), of the neighbour.
            flow: (b, 2, h, w), from the current frame to the neighbour, in pixels, channel 0 = x.

        Returns:
            (b, c, h, w).
        """
        aligned = torch.zeros_like(feat) if state is None else self.compensation(feat, state, flow)
        return self.trunk(torch.cat((feat, aligned), dim=1))


class LookaheadFusion(nn.Module):
    """The states of the next frames, aligned to the current frame's and weighted by how they match it at each pixel.

    Args:
        num_feat: Channels of the states.
        compensation: The alignment, one for all frames.
    """

    def __init__(self, num_feat: int, compensation: SecondOrderMotionCompensation):
        super().__init__()
        self.compensation = compensation
        self.query = nn.Conv2d(num_feat, num_feat, 1)
        self.key = nn.Conv2d(num_feat, num_feat, 1)

    def forward(
        self, state: Tensor, next_states: tuple[Tensor, ...] | None, flows: tuple[Tensor, ...] | None
    ) -> Tensor:
        """Zeros where there are no next frames (None).

        Args:
            state: (b, c, h, w), of the current frame.
            next_states: (b, c, h, w) each.
            flows: (b, 2, h, w) each, from the current frame to those, in pixels, channel 0 = x.

        Returns:
            (b, c, h, w).
        """
        if next_states is None:
            return torch.zeros_like(state)
        aligned = [self.compensation(state, ahead, flow) for ahead, flow in zip(next_states, flows)]
        query = self.query(state) / math.sqrt(state.size(1))
        match = torch.stack([(query * self.key(one)).sum(1, keepdim=True) for one in aligned])  # (j, b, 1, h, w)
        return (match.softmax(dim=0).to(state.dtype) * torch.stack(aligned)).sum(dim=0)


def _check(num_feat, propagation, num_lookahead, window_size, num_head, deform_groups):
    if propagation not in UPSAMPLE_INPUTS:
        raise InputError(f'BasicAVSR: propagation must be one of {", ".join(UPSAMPLE_INPUTS)}, but is {propagation!r}.')
    if num_lookahead < 1:
        raise InputError(f'BasicAVSR: num_lookahead must be 1 or more, but is {num_lookahead}.')
    if window_size < 2 or window_size % 2:
        raise InputError(f'BasicAVSR: window_size must be even, 2 or more, but is {window_size}.')
    for name, divisor in (('2', 2), ('num_head', num_head), ('deform_groups', deform_groups)):
        if divisor < 1 or num_feat % divisor:
            raise InputError(f'BasicAVSR: {name} ({divisor}) must divide num_feat ({num_feat}).')
