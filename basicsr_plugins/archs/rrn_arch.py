"""RRN: revisiting temporal modeling for video super-resolution by a recurrent residual network.

Paper: Isobe, Zhu, Jia, Wang, BMVC 2020. An online network without flow: a convolution of this frame and the previous
one, the hidden state and the previous output as blocks of pixels, a trunk of residual blocks, and from it the next
hidden state and the residual on the bilinearly upsampled frame. At the defaults ("RRN-10L") it has 3,364,400 parameters
(paper: 3.4 M), with five blocks ("RRN-5L") 1,888,560 (1.9 M).

Choices:

- The first frame takes the place of the missing previous one, so that no output sees a later frame. The released code
  pairs the first frame with the second instead.
- Blocks of pixels are in PyTorch's order (`pixel_unshuffle`), as in the released code.
- Scales 2 and 3 follow from the block size; the paper has 4.

Shape shorthand: b batch, c channels (`num_feat`), h and w height and width of the LR frame, s the scale.
"""

from __future__ import annotations

import torch
from basicsr.archs.arch_util import ResidualBlockNoBN, make_layer
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.recurrent import RecurrentNetwork
from basicsr_plugins.errors import InputError


@ARCH_REGISTRY.register()
class RRN(RecurrentNetwork):
    """RRN.

    Args:
        num_feat: Channels of the features and of the hidden state.
        num_block: Residual blocks.
        scale: Upscaling factor.

    Raises:
        InputError: If `scale` is none of `scales`.
    """

    scales = (2, 3, 4)

    def __init__(self, num_feat: int = 128, num_block: int = 10, scale: int = 4):
        super().__init__()
        if scale not in self.scales:
            raise InputError(f'RRN: scale must be one of {self.scales}, but is {scale}.')
        self.scale = scale
        self.num_feat = num_feat
        self.num_output = 3 * scale**2
        self.conv_first = nn.Conv2d(2 * 3 + num_feat + self.num_output, num_feat, 3, 1, 1)
        self.body = make_layer(ResidualBlockNoBN, num_block, num_feat=num_feat)
        self.conv_hidden = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_last = nn.Conv2d(num_feat, self.num_output, 3, 1, 1)

    def forward_step(
        self, frame: Tensor, previous_frame: Tensor | None, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            frame, previous_frame: (b, 3, h, w), RGB in [0, 1]; None before the clip's start.
            state: As returned for the previous frame; None at the first.

        Returns:
            The hidden state, (b, c, h, w), and the output by `pixel_unshuffle`, (b, 3 * s * s, h, w).
        """
        if state is None:
            b, _, h, w = frame.shape
            state = frame.new_zeros(b, self.num_feat, h, w), frame.new_zeros(b, self.num_output, h, w)
        previous_frame = frame if previous_frame is None else previous_frame
        feat = F.relu(self.conv_first(torch.cat((previous_frame, frame, *state), dim=1)))
        feat = self.body(feat)
        base = F.interpolate(frame, scale_factor=self.scale, mode='bilinear', align_corners=False)
        return F.relu(self.conv_hidden(feat)), self.conv_last(feat) + F.pixel_unshuffle(base, self.scale)

    def upsample(self, frame: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        """The output (b, 3, s * h, s * w) from the frame's own state."""
        return F.pixel_shuffle(state[1], self.scale)
