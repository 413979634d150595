"""A small optical flow network, for networks that must be quick: the scheme of SpyNet with one level for all scales.

SpyNet (Ranjan and Black, CVPR 2017) adds up flow from coarse to fine, with a network of its own at each of six levels
and 240 k multiply-adds for each pixel of the finest. Every level does the same: it sees a frame, the other frame warped
by the flow so far, and that flow, and gives what the flow still lacks. Here all levels share one network of 5x5
convolutions: 30 k multiply-adds for a pixel and 30 k parameters at the defaults, 1.44 M in SpyNet.

Shape shorthand: b batch, h and w height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from basicsr.archs.arch_util import flow_warp
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.errors import InputError, one_line


class PyramidFlow(nn.Module):
    """Optical flow from coarse to fine, each level by the same few convolutions.

    Args:
        load_path: Its weights, under the key `params`; without, it starts untrained.
        num_level: Levels of the pyramid; the coarsest is smaller by 2 ** (num_level - 1).
        widths: Channels between the level's 5x5 convolutions.

    Raises:
        InputError: If an argument is below 1, or `load_path` does not hold such weights.
    """

    def __init__(self, load_path: str | None = None, num_level: int = 5, widths: Sequence[int] = (16, 32, 16)):
        super().__init__()
        if num_level < 1 or min(widths, default=0) < 1:
            raise InputError(f'PyramidFlow: num_level ({num_level}) and widths ({list(widths)}) must be 1 or more.')
        self.num_level = num_level
        channels = [3 + 3 + 2, *widths, 2]
        layers = []
        for num_in, num_out in zip(channels, channels[1:]):
            layers += [nn.Conv2d(num_in, num_out, 5, 1, 2), nn.ReLU(inplace=True)]
        self.level = nn.Sequential(*layers[:-1])
        if load_path is not None:
            self._load(load_path)

    def _load(self, path: str) -> None:
        if not Path(path).is_file():
            raise InputError(f'spynet_path: there is no file {path}.')
        try:
            self.load_state_dict(torch.load(path, map_location='cpu', weights_only=True)['params'])
        except Exception as error:  # whatever torch's readers raise on another file
            raise InputError(
                f'spynet_path: {path} does not hold weights of PyramidFlow ({one_line(error)[:200]}).'
            ) from error

    def forward(self, frame: Tensor, other: Tensor) -> Tensor:
        """Estimate the flow from `frame` to `other`.

        Args:
            frame, other: (b, 3, h, w), RGB in [0, 1]; any h and w.

        Returns:
            (b, 2, h, w), in pixels, channel 0 = x.
        """
        h, w = frame.shape[-2:]
        multiple = 2 ** (self.num_level - 1)
        pad = (0, -w % multiple, 0, -h % multiple)
        pyramids = [[F.pad(image, pad, mode='replicate')] for image in (frame, other)]
        for pyramid in pyramids:
            for _ in range(self.num_level - 1):
                pyramid.append(F.avg_pool2d(pyramid[-1], 2))
        flow = torch.zeros_like(pyramids[0][-1][:, :2])
        for ref, supp in zip(*map(reversed, pyramids)):
            if ref.shape[-2:] != flow.shape[-2:]:
                flow = 2 * F.interpolate(flow, scale_factor=2, mode='bilinear', align_corners=False)
            flow = flow + self.lacking(ref, supp, flow)
        return flow[..., :h, :w]

    def lacking(self, ref: Tensor, supp: Tensor, flow: Tensor) -> Tensor:
        """What `flow` lacks, (b, 2, h, w), by the network of a level; shapes as in `forward`."""
        warped = flow_warp(supp, flow.permute(0, 2, 3, 1), padding_mode='border')
        return self.level(torch.cat((ref, warped, flow), dim=1))
