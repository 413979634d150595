"""RLSP: efficient video super-resolution through recurrent latent space propagation.

Paper: Fuoli, Gu, Timofte, ICCV Workshops 2019. An online network without flow: a cell of seven
convolutions sees the frame, both its neighbours, the previous output as blocks of pixels, and a latent state that it
hands on. So it carries what it has seen at one frame of delay and in constant memory. It learns the residual on
nearest-neighbour upsampling.

The paper's network restores luma alone (`luma_only`); the default restores RGB, which needs 48 output channels instead
of 16 and no chroma beside it. What a small one learns of chroma in a short training is little, and stairs along
coloured edges stay: with `bilinear_chroma` it learns the residual on nearest-neighbour luma and bilinear chroma.
Parameters for 48, 64, 128 and 256 channels: RGB 190,896; 319,024; 1,154,096; 4,372,528, luma 163,216; 282,128;
1,080,336; 4,225,040.

Choices, and what departs from the released code:

- Values are in [0, 1], not 0 to 255. Luma is BT.601's limited range (16 to 235 of 255) as there.
- The luma network takes and gives RGB all the same: chroma is upsampled bicubically inside (`F.interpolate`). So it
  trains by a loss on RGB, or on luma alone by a loss that looks at luma.
- One convolution gives output and state, as in the PyTorch release.
- At the clip's ends the border frame takes the missing neighbour's place, and state and previous output are zero.
- Scales 2 and 3 follow from the block size; the paper has 4.

Shape shorthand: b batch, c channels (`num_feat`), h and w height and width of the LR frame, s the scale, k the output's
colours (3, or 1 for luma).
"""

from __future__ import annotations

import torch
from basicsr.utils.color_util import rgb2ycbcr_pt
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.recurrent import RecurrentNetwork
from basicsr_plugins.archs.space_to_depth import depth_to_space
from basicsr_plugins.errors import InputError


@ARCH_REGISTRY.register()
class RLSP(RecurrentNetwork):
    """RLSP.

    Args:
        num_feat: Channels of the features and of the latent state.
        num_conv: Convolutions between the cell's first and its last.
        luma_only: Restore luma, as the paper does, and upsample chroma bicubically.
        scale: Upscaling factor.
        bilinear_chroma: Restore RGB from nearest-neighbour luma and bilinear chroma.

    Raises:
        InputError: If `scale` is none of `scales`, or `bilinear_chroma` meets `luma_only`.
    """

    scales = (2, 3, 4)

    def __init__(
        self,
        num_feat: int = 128,
        num_conv: int = 5,
        luma_only: bool = False,
        scale: int = 4,
        bilinear_chroma: bool = False,
    ):
        super().__init__()
        if scale not in self.scales:
            raise InputError(f'RLSP: scale must be one of {self.scales}, but is {scale}.')
        if bilinear_chroma and luma_only:
            raise InputError('RLSP: bilinear_chroma is for RGB; with luma_only chroma is bicubic already.')
        self.scale = scale
        self.num_feat = num_feat
        self.luma_only = luma_only
        self.num_output = (1 if luma_only else 3) * scale**2
        self.conv_first = nn.Conv2d(3 * 3 + self.num_output + num_feat, num_feat, 3, 1, 1)
        self.body = nn.ModuleList(nn.Conv2d(num_feat, num_feat, 3, 1, 1) for _ in range(num_conv))
        self.conv_last = nn.Conv2d(num_feat, self.num_output + num_feat, 3, 1, 1)
        self.register_buffer('chroma', chroma_kernel(scale) if bilinear_chroma else None, persistent=False)

    def forward_step(
        self,
        frame: Tensor,
        previous_frame: Tensor | None,
        next_frame: Tensor | None,
        state: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """One cell.

        Args:
            frame, previous_frame, next_frame: (b, 3, h, w), RGB in [0, 1]; None beyond the clip's ends.
            state: As returned for the previous frame; None at the first.

        Returns:
            The output as blocks of pixels, (b, s * s * k, h, w) in the order of `space_to_depth`, and the latent state,
            (b, c, h, w).
        """
        if state is None:
            b, _, h, w = frame.shape
            state = frame.new_zeros(b, self.num_output, h, w), frame.new_zeros(b, self.num_feat, h, w)
        previous_frame = frame if previous_frame is None else previous_frame
        next_frame = frame if next_frame is None else next_frame
        feat = F.relu(self.conv_first(torch.cat((previous_frame, frame, next_frame, *state), dim=1)))
        for conv in self.body:
            feat = F.relu(conv(feat))
        residue, latent = self.conv_last(feat).split((self.num_output, self.num_feat), dim=1)
        if self.chroma is not None:
            residue = residue + F.conv2d(F.pad(frame, [1] * 4, mode='replicate'), self.chroma)
        base = rgb2ycbcr_pt(frame, y_only=True) if self.luma_only else frame
        return residue + base.repeat(1, self.scale**2, 1, 1), F.relu(latent)

    def upsample(self, frame: Tensor, state: tuple[Tensor, Tensor]) -> Tensor:
        """The output (b, 3, s * h, s * w) from the frame's own state."""
        output = depth_to_space(state[0], self.scale)
        return with_bicubic_chroma(output, frame) if self.luma_only else output


def chroma_kernel(scale: int) -> Tensor:
    """The convolution of a frame, RGB, padded by 1, that gives bilinear less nearest-neighbour upsampling of chroma.

    Returns:
        (s * s * 3, 3, 3, 3); its outputs are in the order of `space_to_depth`.
    """
    pixels = torch.eye(9).reshape(9, 1, 3, 3)
    bilinear = F.interpolate(pixels, scale_factor=scale, mode='bilinear', align_corners=False)
    smoother = (bilinear - F.interpolate(pixels, scale_factor=scale))[:, 0, scale:-scale, scale:-scale]
    colours = torch.eye(3)[:, :, None, None]
    luma = 255 / 219 * (rgb2ycbcr_pt(colours, y_only=True) - rgb2ycbcr_pt(0 * colours, y_only=True)).flatten()
    chroma = torch.eye(3) - luma
    return torch.einsum('kyx,oc->yxock', smoother, chroma).reshape(scale * scale * 3, 3, 3, 3)


def with_bicubic_chroma(luma: Tensor, frame: Tensor) -> Tensor:
    """An RGB image of the given luma whose chroma is the LR frame's, bicubically upsampled.

    Luma of limited range enters R, G and B alike, by 255 / 219: what it differs by from the upsampled frame's is added.

    Args:
        luma: (b, 1, s * h, s * w), BT.601 limited range, 16 / 255 to 235 / 255.
        frame: (b, 3, h, w), RGB in [0, 1].

    Returns:
        (b, 3, s * h, s * w), RGB in [0, 1] and somewhat beyond.
    """
    upsampled = F.interpolate(frame, size=luma.shape[-2:], mode='bicubic', align_corners=False)
    return upsampled + 255 / 219 * (luma - rgb2ycbcr_pt(upsampled, y_only=True))
