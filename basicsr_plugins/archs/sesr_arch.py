"""SESR: a small network trained as a large one.

Paper: Bhardwaj et al., "Collapsible Linear Blocks for Super-Efficient Super Resolution", MLSys 2022, arXiv:2103.09404.
In training each convolution is a linear pair, k x k to many channels and 1 x 1 back, with the identity where channels
allow; nothing lies between them, so that the pair is one k x k convolution. Its weight is computed anew at each step,
and is all that the collapsed network has. At the defaults ("M5") that is 18,320 weights without the PReLUs; "M3", "M7"
and "M11" have 3, 7, 11 blocks (13,712; 22,928; 32,144), "XL" 11 blocks of 32 channels (114,976).

Choices: no biases, as the published counts have none; the two `depth_to_space` of x4 are PyTorch's `pixel_shuffle`,
whose order of channels is another than TensorFlow's; weights start as PyTorch's.

Shape shorthand: b batch, c colours (1 or 3), i channels in, o channels out, p channels between, k side of the kernel, h
and w height and width of the LR image, s the scale.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.image_networks import ImageNetwork


@ARCH_REGISTRY.register()
class SESR(ImageNetwork):
    """SESR.

    Args:
        num_in_ch: 1 for luma, 3 for RGB.
        num_feat: Channels.
        num_block: Convolutions between the first and the last.
        num_expanded: Channels inside of the linear pairs; the paper has 64 for M11 and XL.
        collapsed: Whether each linear pair is one convolution; `collapse` makes such a network from a trained one.
        scale: Upscaling factor.
    """

    scales = (2, 4)
    argument_ranges: ClassVar = {'num_block': (1, 1000), 'num_expanded': (1, 4096)}

    def __init__(
        self,
        num_in_ch: int = 1,
        num_feat: int = 16,
        num_block: int = 5,
        num_expanded: int = 256,
        collapsed: bool = False,
        scale: int = 4,
    ):
        super().__init__(num_in_ch, scale)
        self.num_block = num_block

        def conv(num_in: int, num_out: int, kernel_size: int, residual: bool = False) -> nn.Module:
            if collapsed:
                return nn.Conv2d(num_in, num_out, kernel_size, 1, kernel_size // 2, bias=False)
            return LinearPair(num_in, num_out, kernel_size, num_expanded, residual)

        self.conv_first = conv(num_in_ch, num_feat, 5)
        self.body = nn.ModuleList(conv(num_feat, num_feat, 3, residual=True) for _ in range(num_block))
        self.activations = nn.ModuleList(nn.PReLU(num_feat) for _ in range(num_block))
        self.conv_last = conv(num_feat, num_in_ch * scale**2, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, c, s * h, s * w)."""
        first = feat = self.conv_first(x - 0.5)
        for conv, activation in zip(self.body, self.activations):
            feat = activation(conv(feat))
        output = self.conv_last(first + feat) + x.repeat_interleave(self.scale**2, dim=1)  # (b, c * s * s, h, w)
        for _ in range(int(math.log2(self.scale))):
            output = F.pixel_shuffle(output, 2)
        return output

    @torch.no_grad()
    def collapse(self) -> SESR:
        """The same network with one convolution in place of each linear pair, equal to rounding."""
        num_feat, num_in_ch = self.activations[0].num_parameters, self.conv_first.expand.in_channels
        small = SESR(num_in_ch, num_feat, self.num_block, collapsed=True, scale=self.scale)
        weights = {
            f'{name}.weight': pair.weight() for name, pair in self.named_modules() if isinstance(pair, LinearPair)
        }
        small.load_state_dict({**weights, **{f'activations.{k}': v for k, v in self.activations.state_dict().items()}})
        return small.to(next(self.parameters())).train(self.training)


class LinearPair(nn.Module):
    """A convolution as two, to many channels and back, without anything between them.

    Args:
        num_in: Channels in.
        num_out: Channels out.
        kernel_size: Of the first; the second is 1 x 1.
        num_expanded: Channels between them.
        residual: Whether the input is added; it has as many channels as the output then.
    """

    def __init__(self, num_in: int, num_out: int, kernel_size: int, num_expanded: int, residual: bool):
        super().__init__()
        self.residual = residual
        self.expand = nn.Conv2d(num_in, num_expanded, kernel_size, 1, kernel_size // 2, bias=False)
        self.project = nn.Conv2d(num_expanded, num_out, 1, bias=False)

    def weight(self) -> Tensor:
        """The one convolution's weight, (o, i, k, k); the added input is a one at the centre of its kernel."""
        weight = torch.einsum('op,pikl->oikl', self.project.weight[:, :, 0, 0], self.expand.weight)
        if self.residual:
            weight = weight + nn.init.dirac_(torch.empty_like(weight))
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """(b, i, h, w) -> (b, o, h, w)."""
        return F.conv2d(x, self.weight(), padding=self.expand.padding)
