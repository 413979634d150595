"""The steps of the toolbox's `BasicVSR` (Chan et al., CVPR 2021), by its own layers; see `archs.recurrent`.

Shape shorthand: b batch, c channels, h and w height and width of the LR frame.
"""

from __future__ import annotations

import torch
from basicsr.archs.arch_util import flow_warp
from basicsr.archs.basicvsr_arch import BasicVSR
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs import sub_pixel
from basicsr_plugins.archs.recurrent import Steps


class BasicVSRSteps(Steps):
    """Stands beside a `BasicVSR`, whose weights it uses.

    Args:
        net: The network.
    """

    def __init__(self, net: BasicVSR):
        self.net = net

    def flow(self, frame: Tensor, other: Tensor) -> Tensor:
        return self.net.spynet(frame, other)

    def backward_step(self, frame: Tensor, state: Tensor | None, flow_to_next: Tensor | None) -> Tensor:
        return self._propagate(self.net.backward_trunk, frame, state, flow_to_next)

    def forward_step(self, frame: Tensor, state: Tensor | None, flow_to_previous: Tensor | None) -> Tensor:
        return self._propagate(self.net.forward_trunk, frame, state, flow_to_previous)

    def _propagate(self, trunk: nn.Module, frame: Tensor, state: Tensor | None, flow: Tensor | None) -> Tensor:
        if state is None:
            aligned = frame.new_zeros(frame.size(0), self.net.num_feat, *frame.shape[-2:])
        else:
            aligned = flow_warp(state, flow.permute(0, 2, 3, 1))
        return trunk(torch.cat((frame, aligned), dim=1))

    def upsample(self, frame: Tensor, backward_state: Tensor, state: Tensor) -> Tensor:
        net = self.net
        feat = net.lrelu(net.fusion(torch.cat((backward_state, state), dim=1)))
        for upconv in (net.upconv1, net.upconv2):
            feat = net.pixel_shuffle(net.lrelu(upconv(feat)))  # (b, c, 2h, 2w), (b, 64, 4h, 4w)
        residue = sub_pixel.conv_in_blocks(net.conv_last, net.lrelu(net.conv_hr(feat)), 2)
        return residue + F.interpolate(frame, scale_factor=4, mode='bilinear', align_corners=False)
