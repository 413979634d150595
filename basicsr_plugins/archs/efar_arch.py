"""EFAR: video super-resolution with an enhanced feature alignment recurrent structure.

Paper: "Video super-resolution based on an enhanced feature alignment recurrent structure" (in Chinese; the text on hand
names neither journal nor DOI). A bidirectional recurrent network like BasicVSR, in which every step aligns two
neighbours to the current frame, one on each side, by deformable convolution around the optical flow (Section 2.3), with
a multi-branch feature extractor (Section 2.2) and an upsampler that sees the LR frame at two scales (Section 2.4).

The paper's count, 6.8 M parameters, settles some of what it leaves open; the defaults have 6.786 M:

- Each alignment has weights of its own (state or neighbour, backward or forward).
- One multi-branch block in the extractor: two have 6.955 M.
- One deformable group, uncoupled propagation: each alone would still round to 6.8 M with two groups (6.849 M) or
  coupling as in IconVSR (6.823 M), not with both (6.886 M) or four groups (6.973 M).

Free of it are the dilation rates ("different" ones), the fusion of backward and forward features by a 1x1 convolution,
and LeakyReLU (0.1) after it and after each pixel shuffle, as in BasicVSR.

At x2 and x3, which the paper does not have, the upsampler has its first stage only, of 2x2 or 3x3 sub-pixels: 6.639 M
and 6.823 M parameters.

These choices are arguments. Small EFARs, each with one other choice, were trained for 250 iterations on the demo clips
(`scripts/recipes/compare_efar_choices.py --iterations 250 --seeds 0 1`, two CPU cores, torch 2.15; when LeakyReLU (0.1)
stood for the ReLU of Section 2.3); PSNR in dB on the held-out clips, mean (seed 0, seed 1):

    the defaults                   25.88  (25.82, 25.93)
    dilations 1, 2, 4, 8           25.73  (25.63, 25.83)
    deform_groups 2                25.70  (25.89, 25.51)
    dilations 1, 1, 1, 1           25.64  (25.99, 25.28)
    coupled_propagation            25.37  (25.43, 25.31)

Coupling is worse with both seeds, in so short a training; the others differ by less than two seeds do.

Shape shorthand: b batch, t frames, c channels, h and w height and width of the LR frame, s the scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from basicsr.archs.basicvsr_arch import ConvResidualBlocks
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs import sub_pixel
from basicsr_plugins.archs.pyramid_flow import PyramidFlow
from basicsr_plugins.archs.recurrent import RecurrentNetwork
from basicsr_plugins.archs.vsr_modules import FlowGuidedAlignment, MultiBranchBlock, build_spynet, laid_out_as
from basicsr_plugins.errors import InputError

FLOW_NETWORKS = {'spynet': build_spynet, 'pyramid': PyramidFlow}


@ARCH_REGISTRY.register()
class EFAR(RecurrentNetwork):
    """EFAR.

    Args:
        num_feat: Channels of the features.
        num_block: Residual blocks in each direction.
        dilations: Dilation rates of the extractor's branches.
        num_extract_block: Multi-branch blocks in the extractor.
        deform_groups: Groups of channels that share an offset; divides `num_feat`.
        coupled_propagation: Whether the forward pass sees the backward pass's state of the same frame.
        max_residue_magnitude: Bound of the predicted offsets around the flow, in LR pixels; None for none.
        upsample_feat: Channels of the upsampler after each of its stages; None: `num_feat`, after a second one 64.
        flow: `spynet`, or `pyramid` for the much cheaper `PyramidFlow`.
        spynet_path: Weights of the flow network; without, flow starts untrained. Of SpyNet in the format of BasicSR's
            `SpyNet(load_path)`, of PyramidFlow under the key `params`.
        scale: Upscaling factor: 4, the paper's, or 2 or 3, where the upsampler has one stage.

    Raises:
        InputError: If an argument is out of its range, or `spynet_path` does not hold the flow network's weights.
    """

    scales = (2, 3, 4)

    def __init__(
        self,
        num_feat: int = 64,
        num_block: int = 30,
        dilations: Sequence[int] = (1, 2, 3, 4),
        num_extract_block: int = 1,
        deform_groups: int = 1,
        coupled_propagation: bool = False,
        max_residue_magnitude: float | None = None,
        upsample_feat: int | None = None,
        flow: str = 'spynet',
        spynet_path: str | None = None,
        scale: int = 4,
    ):
        super().__init__()
        if scale not in self.scales:
            raise InputError(f'EFAR: scale must be one of {self.scales}, but is {scale}.')
        if flow not in FLOW_NETWORKS:
            raise InputError(f'EFAR: flow is {flow!r}, but must be one of {", ".join(FLOW_NETWORKS)}.')
        if deform_groups < 1 or num_feat % deform_groups:
            raise InputError(f'EFAR: deform_groups ({deform_groups}) must divide num_feat ({num_feat}).')
        if not dilations or min(dilations) < 1:
            raise InputError(f'EFAR: dilations must be one or more rates from 1 on, but is {list(dilations)}.')
        self.scale = scale
        self.coupled_propagation = coupled_propagation

        self.spynet = FLOW_NETWORKS[flow](spynet_path)  # the toolbox's trainer knows a flow network by this name
        self.extractor = nn.Sequential(
            nn.Conv2d(3, num_feat, 3, 1, 1),
            *(MultiBranchBlock(num_feat, tuple(dilations)) for _ in range(num_extract_block)),
        )
        self.backward_propagation = EnhancedPropagation(num_feat, num_block, deform_groups, max_residue_magnitude)
        self.forward_propagation = EnhancedPropagation(
            num_feat, num_block, deform_groups, max_residue_magnitude, num_extra=num_feat if coupled_propagation else 0
        )
        self.upsampler = MultiScaleUpsampler(num_feat, upsample_feat, scale)

    def step_inputs(self, step: str) -> tuple[str, ...]:
        """Without coupling the forward pass does not take the backward pass's states."""
        names = super().step_inputs(step)
        if step == 'forward_step' and not self.coupled_propagation:
            return tuple(name for name in names if name != 'backward_state')
        return names

    def extract(self, frame: Tensor) -> Tensor:
        return self.extractor(frame)

    def flow(self, frame: Tensor, other: Tensor) -> Tensor:
        return self.spynet(frame, other)

    def backward_step(
        self,
        frame: Tensor,
        feat: Tensor,
        state: Tensor | None,
        previous_feat: Tensor | None,
        flow_to_previous: Tensor | None,
        flow_to_next: Tensor | None,
    ) -> Tensor:
        return self.backward_propagation(frame, feat, state, flow_to_next, previous_feat, flow_to_previous)

    def forward_step(
        self,
        frame: Tensor,
        feat: Tensor,
        state: Tensor | None,
        next_feat: Tensor | None,
        flow_to_previous: Tensor | None,
        flow_to_next: Tensor | None,
        backward_state: Tensor | None = None,
    ) -> Tensor:
        return self.forward_propagation(frame, feat, state, flow_to_previous, next_feat, flow_to_next, backward_state)

    def upsample(self, frame: Tensor, backward_state: Tensor, state: Tensor) -> Tensor:
        return self.upsampler(frame, backward_state, state)


class EnhancedPropagation(nn.Module):
    """One step of one direction (Section 2.3): align a neighbour from each side, fuse, 30 residual blocks.

    Args:
        num_feat: Channels of features and state.
        num_block: Residual blocks.
        deform_groups, max_residue_magnitude: As in `FlowGuidedAlignment`.
        num_extra: Channels of one more input to the fusion.
    """

    def __init__(
        self,
        num_feat: int,
        num_block: int,
        deform_groups: int,
        max_residue_magnitude: float | None,
        num_extra: int = 0,
    ):
        super().__init__()
        self.align_state = FlowGuidedAlignment(num_feat, deform_groups, max_residue_magnitude)
        self.align_neighbour = FlowGuidedAlignment(num_feat, deform_groups, max_residue_magnitude)
        self.fusion = ConvResidualBlocks(3 + 3 * num_feat + num_extra, num_feat, num_block)
        self.fusion.main[1] = nn.ReLU(inplace=True)  # as the paper has it; the toolbox's blocks start with LeakyReLU

    def forward(
        self,
        frame: Tensor,
        feat: Tensor,
        state: Tensor | None,
        flow_to_state: Tensor | None,
        neighbour: Tensor | None,
        flow_to_neighbour: Tensor | None,
        extra: Tensor | None = None,
    ) -> Tensor:
        """The state of the current frame; a neighbour that does not exist (None) contributes zeros.

        Args:
            frame: (b, 3, h, w), the LR frame.
            feat: (b, c, h, w), its feature.
            state: (b, c, h, w), the previous step's result.
            neighbour: (b, c, h, w), the feature of the frame on the other side.
            flow_to_state, flow_to_neighbour: (b, 2, h, w), from the current frame to those, in pixels, channel 0 = x.
            extra: (b, num_extra, h, w).

        Returns:
            (b, c, h, w).
        """
        zeros = torch.zeros_like(feat)
        aligned_state = zeros if state is None else self.align_state(feat, state, flow_to_state)
        aligned_neighbour = zeros if neighbour is None else self.align_neighbour(feat, neighbour, flow_to_neighbour)
        inputs = [laid_out_as(frame, feat), feat, aligned_state, aligned_neighbour]
        if extra is not None:
            inputs.append(extra)
        return self.fusion(torch.cat(inputs, dim=1))


class MultiScaleUpsampler(nn.Module):
    """Upsampling that sees the LR frame again at x2 and adds it at x4 (Section 2.4, Figure 4).

    At x2 and x3 it has the first stage only: the frame is seen again and added at that size.

    Args:
        num_feat: Channels of the states.
        upsample_feat, scale: As in `EFAR`.
    """

    def __init__(self, num_feat: int, upsample_feat: int | None = None, scale: int = 4):
        super().__init__()
        self.scale = scale
        self.first_scale = 2 if scale == 4 else scale
        first_feat = last_feat = upsample_feat or num_feat
        self.fusion = nn.Conv2d(2 * num_feat, num_feat, 1)
        self.upconv1 = nn.Conv2d(num_feat, self.first_scale**2 * first_feat, 3, 1, 1)
        self.fusion_x2 = nn.Conv2d(first_feat + 3, first_feat, 1)
        if scale == 4:
            last_feat = upsample_feat or 64
            self.upconv2 = nn.Conv2d(first_feat, 4 * last_feat, 3, 1, 1)
        self.conv_last = nn.Conv2d(last_feat, 3, 3, 1, 1)
        self.lrelu = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, frame: Tensor, backward_state: Tensor, forward_state: Tensor) -> Tensor:
        """(b, 3, h, w) and twice (b, c, h, w) -> (b, 3, s * h, s * w)."""
        feat = self.lrelu(self.fusion(torch.cat((backward_state, forward_state), dim=1)))
        feat = F.pixel_shuffle(self.lrelu(self.upconv1(feat)), self.first_scale)  # (b, c, 2h, 2w); at x3 (b, c, 3h, 3w)
        enlarged = F.interpolate(frame, scale_factor=self.first_scale, mode='bilinear', align_corners=False)
        feat = self.lrelu(self.fusion_x2(torch.cat((feat, laid_out_as(enlarged, feat)), dim=1)))
        if self.scale == 4:
            feat = self.lrelu(self.upconv2(feat))  # (b, 256, 2h, 2w), to be shuffled to (b, 64, 4h, 4w)
            residue = sub_pixel.conv_of_shuffled(self.conv_last, feat, 2)
            enlarged = F.interpolate(frame, scale_factor=4, mode='bilinear', align_corners=False)
        else:
            residue = sub_pixel.conv_in_blocks(self.conv_last, feat, self.scale)
        return residue + enlarged
