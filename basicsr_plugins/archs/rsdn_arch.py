"""RSDN: video super-resolution with a recurrent structure-detail network.

Paper: Isobe, Jia, Gu, Li, Wang, Tian, ECCV 2020. An online network without flow. Each frame is split into structure
(what halving and doubling its size leaves) and detail (the rest); two branches that exchange their features restore
one each, and the hidden state is first weighted by how similar it is to the frame, with filters that the frame itself
gives. At the defaults it has 6,180,236 parameters (paper: 6.2 M).

Choices:

- The first frame takes the place of the missing previous one, so that no output sees a later frame. The released code
  pairs the first frame with the second instead.
- The training code was never published: structure and detail of the output are compared with the GT's by the pixel
  loss, at the pixel loss's weight each (`auxiliary_weights`).
- Frames of odd sides are padded to even ones by whoever restores with it. Where they are not, as in training, halving
  drops the last row or column, and doubling gives the frame's size again.

Shape shorthand: b batch, c channels (`num_feat`), h and w height and width of the LR frame.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.recurrent import RecurrentNetwork

SCALE = 4
NUM_OUTPUT = 3 * SCALE**2


@ARCH_REGISTRY.register()
class RSDN(RecurrentNetwork):
    """RSDN, x4.

    In training, the forward pass gives the outputs' structure and detail too, each (b, t, 3, 4 * h, 4 * w).

    Args:
        num_feat: Channels of the features and of the hidden state.
        num_block: Structure-detail blocks.
    """

    scale = SCALE
    scales = (SCALE,)
    size_multiple = 2
    min_size = 2
    auxiliary_weights: ClassVar = {'structure': 1.0, 'detail': 1.0}

    def __init__(self, num_feat: int = 128, num_block: int = 9):
        super().__init__()
        self.num_feat = num_feat
        self.conv_filter = nn.Conv2d(3, 9, 3, 1, 1)
        num_input = 2 * 3 + num_feat + NUM_OUTPUT
        self.conv_detail = nn.Conv2d(num_input, num_feat, 3, 1, 1)
        self.conv_structure = nn.Conv2d(num_input, num_feat, 3, 1, 1)
        self.body = nn.ModuleList(StructureDetailBlock(num_feat) for _ in range(num_block))
        self.hidden_detail = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.hidden_structure = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.last_detail = nn.Conv2d(num_feat, NUM_OUTPUT, 3, 1, 1)
        self.last_structure = nn.Conv2d(num_feat, NUM_OUTPUT, 3, 1, 1)
        self.conv_last = nn.Conv2d(2 * NUM_OUTPUT, NUM_OUTPUT, 3, 1, 1)

    def forward_step(
        self, frame: Tensor, previous_frame: Tensor | None, state: tuple[Tensor, Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step.

        Args:
            frame, previous_frame: (b, 3, h, w), RGB in [0, 1]; None before the clip's start.
            state: As returned for the previous frame; None at the first.

        Returns:
            The hidden state, (b, c, h, w); detail and structure of the output by `pixel_unshuffle`, (b, 48, h, w) each.
        """
        if state is None:
            b, _, h, w = frame.shape
            zeros = frame.new_zeros(b, NUM_OUTPUT, h, w)
            state = frame.new_zeros(b, self.num_feat, h, w), zeros, zeros
        hidden, last_detail, last_structure = state
        hidden = self.adapt(hidden, frame)
        structure, detail = split_structure(frame)
        previous_structure, previous_detail = (structure, detail)
        if previous_frame is not None:
            previous_structure, previous_detail = split_structure(previous_frame)
        d = lrelu(self.conv_detail(torch.cat((previous_detail, detail, hidden, last_detail), dim=1)))
        e = lrelu(self.conv_structure(torch.cat((previous_structure, structure, hidden, last_structure), dim=1)))
        for block in self.body:
            d, e = block(d, e)
        hidden = lrelu(self.hidden_detail(d)) + lrelu(self.hidden_structure(e))
        return hidden, self.last_detail(d), self.last_structure(e)

    def adapt(self, hidden: Tensor, frame: Tensor) -> Tensor:
        """Weight the hidden state, (b, c, h, w), by its similarity to the frame (hidden state adaptation).

        The frame gives a 3x3 filter for each pixel, the same for all channels; what it finds in the state, through a
        sigmoid, is the weight.
        """
        taps = lrelu(self.conv_filter(frame))  # (b, 9, h, w)
        h, w = hidden.shape[-2:]
        padded = F.pad(hidden, (1, 1, 1, 1))
        similarity = sum(
            taps[:, k : k + 1] * padded[:, :, k // 3 : k // 3 + h, k % 3 : k % 3 + w] for k in range(taps.size(1))
        )
        return hidden * torch.sigmoid(similarity)

    def upsample(self, frame: Tensor, state: tuple[Tensor, Tensor, Tensor]) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """The output (b, 3, 4 * h, 4 * w) from the frame's own state; in training also its structure and detail."""
        _, detail, structure = state
        output = F.pixel_shuffle(self.conv_last(torch.cat((detail, structure), dim=1)), SCALE)
        if not self.training:
            return output
        return output, F.pixel_shuffle(structure, SCALE), F.pixel_shuffle(detail, SCALE)

    def auxiliary_losses(
        self, output: tuple[Tensor, Tensor, Tensor], lq: Tensor, gt: Tensor, criterion: nn.Module
    ) -> dict[str, Tensor]:
        """Losses of structure and detail.

        Args:
            output: What the forward pass gave in training.
            lq: (b, t, 3, h, w).
            gt: (b, t, 3, 4 * h, 4 * w).
            criterion: The pixel loss.

        Returns:
            `structure` and `detail`, unweighted.
        """
        _, structure, detail = output
        wanted = split_structure(gt.flatten(0, 1))
        pairs = zip(('structure', 'detail'), (structure, detail), wanted)
        return {name: criterion(restored.flatten(0, 1), target) for name, restored, target in pairs}


class StructureDetailBlock(nn.Module):
    """A residual block for each branch; each adds both blocks' results to what it had."""

    def __init__(self, num_feat: int):
        super().__init__()
        self.detail = two_convs(num_feat)
        self.structure = two_convs(num_feat)

    def forward(self, detail: Tensor, structure: Tensor) -> tuple[Tensor, Tensor]:
        """Twice (b, c, h, w) -> twice (b, c, h, w)."""
        both = self.detail(detail) + self.structure(structure)
        return detail + both, structure + both


def two_convs(num_feat: int) -> nn.Sequential:
    """What a residual block adds to its input."""
    return nn.Sequential(nn.Conv2d(num_feat, num_feat, 3, 1, 1), nn.ReLU(), nn.Conv2d(num_feat, num_feat, 3, 1, 1))


def split_structure(image: Tensor) -> tuple[Tensor, Tensor]:
    """Structure and detail of an image, (b, 3, h, w) each; their sum is the image.

    Structure is the image halved and doubled again, bilinearly.
    """
    half = F.interpolate(image, scale_factor=0.5, mode='bilinear', align_corners=False)
    structure = F.interpolate(half, size=image.shape[-2:], mode='bilinear', align_corners=False)
    return structure, image - structure


def lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1)
