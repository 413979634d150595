"""FRVSR: frame-recurrent video super-resolution.

Paper: Sajjadi, Vemulapalli, Brown, CVPR 2018. An online network: flow to the previous frame is estimated at LR size
(FNet), upsampled, and warps the previous output, which enters the upscaling of this frame (SRNet) as blocks of pixels.
At the defaults ("FRVSR 10-128") it has 5,054,693 parameters (paper: 5.1 M), with 64 channels, the generator of TecoGAN,
2,589,093; FNet 1,745,506 of them.

Choices:

- Frames whose sides do not divide by 8 are padded for FNet by their border; the flow of the padding is cut off.
- `residual` adds the upsampled frame to SRNet's output, as TecoGAN does; the paper's figure does not show it.
- `lr_at_corner` says how LR frames are made: where LR pixel j sits at HR pixel 4 * j (blurred and decimated: bd_duf,
  bd_tecogan), flow and frame are upsampled to fit (`upsample_from_corners`); otherwise bilinearly, for bicubic LR.
- Blocks of pixels are ordered (row, column, colour), as in TecoGAN.
- The loss of FNet, warping the previous LR frame onto this one, is the pixel loss too; the paper has squared errors for
  both, at equal weights.

Shape shorthand: b batch, t frames, c channels (`num_feat`), h and w height and width of the LR frame.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from basicsr.archs.arch_util import ResidualBlockNoBN, flow_warp, make_layer
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.phase_upsampling import upsample_from_corners
from basicsr_plugins.archs.recurrent import RecurrentNetwork
from basicsr_plugins.archs.space_to_depth import depth_to_space, space_to_depth

SCALE = 4


@ARCH_REGISTRY.register()
class FRVSR(RecurrentNetwork):
    """FRVSR, x4.

    Args:
        num_feat: Channels of SRNet.
        num_block: Residual blocks of SRNet.
        residual: Whether the upsampled frame is added to SRNet's output.
        lr_at_corner: Whether LR pixel j sits at HR pixel 4 * j, not at the middle of its block.
    """

    scale = SCALE
    scales = (SCALE,)
    auxiliary_weights: ClassVar = {'warp': 1.0}

    def __init__(self, num_feat: int = 128, num_block: int = 10, residual: bool = False, lr_at_corner: bool = True):
        super().__init__()
        self.residual = residual
        self.lr_at_corner = lr_at_corner
        self.fnet = FNet()
        self.srnet = SRNet(num_feat, num_block)

    def flow(self, frame: Tensor, other: Tensor) -> Tensor:
        """(b, 3, h, w) each -> (b, 2, h, w), from `frame` to `other`, in LR pixels, channel 0 = x, within ±24."""
        h, w = frame.shape[-2:]
        pair = F.pad(torch.cat((frame, other), dim=1), (0, -w % 8, 0, -h % 8), mode='replicate')
        return self.fnet(pair)[:, :, :h, :w]

    def forward_step(self, frame: Tensor, state: Tensor | None, flow_to_previous: Tensor | None) -> Tensor:
        """One step.

        Args:
            frame: (b, 3, h, w), RGB in [0, 1].
            state: As returned for the previous frame; None at the first, where zeros take its place.
            flow_to_previous: (b, 2, h, w), see `flow`; None at the first.

        Returns:
            The output as blocks of pixels, (b, 48, h, w), in the order of `space_to_depth`.
        """
        if state is None:
            b, _, h, w = frame.shape
            warped = frame.new_zeros(b, 3 * SCALE**2, h, w)
        else:
            hr_flow = SCALE * self._upsample(flow_to_previous)
            previous = depth_to_space(state, SCALE)
            warped = space_to_depth(warp(previous, hr_flow).to(state.dtype), SCALE)
        output = self.srnet(torch.cat((frame, warped), dim=1))
        if self.residual:
            output = output + self._upsample(frame)
        return space_to_depth(output, SCALE)

    def _upsample(self, x: Tensor) -> Tensor:
        if self.lr_at_corner:
            return upsample_from_corners(x, SCALE)
        return F.interpolate(x, scale_factor=SCALE, mode='bilinear', align_corners=False)

    def upsample(self, frame: Tensor, state: Tensor) -> Tensor:
        """The output (b, 3, 4 * h, 4 * w) from the frame's own state."""
        return depth_to_space(state, SCALE)

    def auxiliary_losses(self, output: Tensor, lq: Tensor, gt: Tensor, criterion: nn.Module) -> dict[str, Tensor]:
        """The warping loss of FNet: each LR frame against the previous one, warped onto it.

        Args:
            output, gt: (b, t, 3, 4 * h, 4 * w).
            lq: (b, t, 3, h, w).
            criterion: The pixel loss.

        Returns:
            `warp`, unweighted; nothing for clips of one frame.
        """
        if lq.size(1) < 2:
            return {}
        frames, previous = lq[:, 1:].flatten(0, 1), lq[:, :-1].flatten(0, 1)
        return {'warp': criterion(warp(previous, self.flow(frames, previous)), frames)}


class FNet(nn.Module):
    """Flow by an encoder and a decoder of three levels; the last convolution's output is bounded by tanh.

    Args:
        max_flow: The bound, in LR pixels.
    """

    def __init__(self, max_flow: float = 24.0):
        super().__init__()
        self.max_flow = max_flow
        self.encoder = nn.ModuleList([_two_convs(6, 32), _two_convs(32, 64), _two_convs(64, 128)])
        self.decoder = nn.ModuleList([_two_convs(128, 256), _two_convs(256, 128), _two_convs(128, 64)])
        self.conv_flow = nn.Conv2d(64, 32, 3, 1, 1)
        self.conv_last = nn.Conv2d(32, 2, 3, 1, 1)

    def forward(self, pair: Tensor) -> Tensor:
        """(b, 6, h, w), two frames, sides divide by 8 -> (b, 2, h, w)."""
        feat = pair
        for convs in self.encoder:
            feat = F.max_pool2d(convs(feat), 2)
        for convs in self.decoder:
            feat = F.interpolate(convs(feat), scale_factor=2, mode='bilinear', align_corners=False)
        feat = F.leaky_relu(self.conv_flow(feat), 0.2)
        return self.max_flow * torch.tanh(self.conv_last(feat))


class SRNet(nn.Module):
    """Residual blocks at LR size, two transposed convolutions.

    Args:
        num_feat: Channels.
        num_block: Residual blocks.
    """

    def __init__(self, num_feat: int, num_block: int):
        super().__init__()
        self.conv_first = nn.Conv2d(3 + 3 * SCALE**2, num_feat, 3, 1, 1)
        self.body = make_layer(ResidualBlockNoBN, num_block, num_feat=num_feat)
        self.upconv1 = nn.ConvTranspose2d(num_feat, num_feat, 3, 2, 1, output_padding=1)
        self.upconv2 = nn.ConvTranspose2d(num_feat, num_feat, 3, 2, 1, output_padding=1)
        self.conv_last = nn.Conv2d(num_feat, 3, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3 + 48, h, w), the frame and the warped output's blocks -> (b, 3, 4 * h, 4 * w)."""
        feat = self.body(F.relu(self.conv_first(x)))
        feat = F.relu(self.upconv1(feat))
        return self.conv_last(F.relu(self.upconv2(feat)))


def _two_convs(num_in: int, num_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, 1, 1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(num_out, num_out, 3, 1, 1),
        nn.LeakyReLU(0.2, inplace=True),
    )


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """The image, (b, c, h, w), read at each pixel plus its flow, (b, 2, h, w); beyond the frame its border."""
    # in float32: half precision has no whole pixels beyond 2048
    return flow_warp(image.float(), flow.float().permute(0, 2, 3, 1), padding_mode='border')
