"""DRCN: one convolution applied again and again, with an output after each time.

Paper: Kim, Lee, Lee, "Deeply-Recursive Convolutional Network for Image Super-Resolution", CVPR 2016, arXiv:1511.04491.
Embedding, sixteen recursions of one convolution, and a reconstruction that all of them share, on bicubically enlarged
luma. Each output has the input added; the network's is their mean by learnt weights. At the defaults 1,775,105
parameters (paper: 1.77 M), and 16 of the mean.

Choices:

- The weights of the mean are divided by their sum, so that it is a mean whatever they are; they start equal.
- The recursive convolution starts as the identity, the others as He's.
- The paper's loss is alpha * (mean loss of the sixteen) + (1 - alpha) * (loss of their mean), and alpha falls from 1 to
  0 in training. Here the first part is an own loss, `recursions`, of constant weight.

Shape shorthand: b batch, c colours (1 or 3), d recursions, H and W height and width of the HR image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.image_networks import EnlargedImageNetwork, he_init


@ARCH_REGISTRY.register()
class DRCN(EnlargedImageNetwork):
    """DRCN.

    Args:
        num_in_ch: 1 for luma, 3 for RGB.
        num_feat: Channels.
        num_recursion: How many times the convolution is applied.
        scale: Upscaling factor of the images that it gets.
    """

    auxiliary_weights: ClassVar = {'recursions': 1.0}
    argument_ranges: ClassVar = {'num_recursion': (1, 1000)}

    def __init__(self, num_in_ch: int = 1, num_feat: int = 256, num_recursion: int = 16, scale: float = 4):
        super().__init__(num_in_ch, scale)
        self.num_recursion = num_recursion
        self.embedding = nn.Sequential(
            nn.Conv2d(num_in_ch, num_feat, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(num_feat, num_feat, 3, 1, 1),
            nn.ReLU(inplace=True),
        )
        self.recursion = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.reconstruction = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_last = nn.Conv2d(num_feat, num_in_ch, 3, 1, 1)
        self.weights = nn.Parameter(torch.full((num_recursion,), 1 / num_recursion))
        he_init(self)
        nn.init.dirac_(self.recursion.weight)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(b, c, H, W), enlarged -> (b, c, H, W); in training also the outputs of all recursions, (b, d, c, H, W)."""
        feat, outputs = self.embedding(x), []
        for _ in range(self.num_recursion):
            feat = F.relu(self.recursion(feat))
            outputs.append(x + self.conv_last(F.relu(self.reconstruction(feat))))
        outputs = torch.stack(outputs, dim=1)
        mean = torch.einsum('d,bdchw->bchw', self.weights / self.weights.sum(), outputs)
        return (mean, outputs) if self.training else mean

    def auxiliary_losses(
        self, output: tuple[Tensor, Tensor], lq: Tensor, gt: Tensor, criterion: Callable[[Tensor, Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """The mean loss of the outputs of all recursions.

        Args:
            output: As `forward` gives it in training.
            lq, gt: (b, c, H, W), what the network took and what its output is compared with.
            criterion: The pixel loss.
        """
        outputs = output[1]
        return {'recursions': criterion(outputs, gt.unsqueeze(1).expand_as(outputs))}
