"""Meta-SR: a small network makes the kernels of the upsampling convolution from where the pixels lie.

Paper: Hu et al., "Meta-SR: A Magnification-Arbitrary Network for Super-Resolution", CVPR 2019, arXiv:1903.00875. It
takes RDN's features. For HR pixel (I, J) at scale r, two linear layers make from (I / r - floor(I / r), J / r - floor(J
/ r), 1 / r) the weights of a 3 x 3 convolution around the LR pixel (floor(I / r), floor(J / r)). At the defaults
22,419,072 parameters.

Choices: positions are computed from integers, r being H / h and W / w, so that an integer scale has r * r kernels and
no more; where they differ, 1 / r is their geometric mean's; images enter as they are. The released code is declared
faulty by its author, so this follows the paper.

Shape shorthand: b batch, f channels of the features, h and w height and width of the LR image, H and W of what is made
of the HR image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.image_networks import AnyScaleNetwork
from basicsr_plugins.archs.residual_dense import ResidualDenseFeatures
from basicsr_plugins.scales import Place, Span

TAPS = 9
MAX_PATCHES = 2**24  # values of LR patches that are looked at at once


@ARCH_REGISTRY.register()
class MetaSR(AnyScaleNetwork):
    """Meta-RDN.

    Args:
        num_feat, num_block, num_conv, num_growth: Of RDN's features.
        num_hidden: Channels inside of the network that makes kernels.
        scale: Upscaling factor, from 1 to 16, or two, vertical and horizontal; a run may set its own.
        trained_scales: The least and the greatest factor that its weights are trained for; others are possible.

    Raises:
        InputError: If a scale is out of its range.
    """

    argument_ranges: ClassVar = {'num_block': (1, 1000), 'num_growth': (1, 1024), 'num_hidden': (1, 4096)}

    def __init__(
        self,
        num_feat: int = 64,
        num_block: int = 16,
        num_conv: int = 8,
        num_growth: int = 64,
        num_hidden: int = 256,
        scale: float | Sequence[float] = 4,
        trained_scales: Sequence[float] = (1.1, 4),
    ):
        super().__init__(scale, trained_scales)
        self.features = ResidualDenseFeatures(3, num_feat, num_block, num_conv, num_growth)
        self.kernels = nn.Sequential(
            nn.Linear(3, num_hidden), nn.ReLU(inplace=True), nn.Linear(num_hidden, 3 * TAPS * num_feat)
        )

    def enlarge(self, feat: Tensor, place: Place) -> Tensor:
        """(b, f, h, w) -> (b, 3, H, W) of the place, the rows that lie alike in their LR pixels together."""
        feat = F.pad(feat, (1, 1, 1, 1))  # (b, f, h + 2, w + 2)
        (rows, vertical), (columns, horizontal) = (positions(span, feat.device) for span in place)
        inverse = math.sqrt(math.prod(span.length / span.target for span in place))
        height, width = (span.stop - span.start for span in place)
        period, num_distinct = (
            min(span.target // math.gcd(span.length, span.target), span.stop - span.start) for span in place
        )
        output = feat.new_empty(feat.size(0), 3, height, width)
        for phase in range(period):
            kernels = self.row_kernels(vertical[phase], horizontal, num_distinct, inverse)
            at_once = max(MAX_PATCHES // (feat.size(0) * feat.size(1) * TAPS * width), 1)
            for some in torch.arange(phase, height, period, device=feat.device).split(at_once):
                output[:, :, some] = convolve(feat, rows[some], columns, kernels)
        return output

    def row_kernels(self, vertical: Tensor, horizontal: Tensor, num_distinct: int, inverse: float) -> Tensor:
        """The kernels of a row, (W, 9 * f, 3), from its place in its LR pixels, (), and the columns', (W,).

        The columns' repeat, after `num_distinct` of them.
        """
        distinct = horizontal[:num_distinct]
        places = torch.stack((vertical.expand_as(distinct), distinct, torch.full_like(distinct, inverse)), dim=1)
        return self.kernels(places.to(self.kernels[0].weight)).reshape(num_distinct, -1, 3)[
            torch.arange(len(horizontal)) % num_distinct
        ]


def positions(span: Span, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """For each of n HR pixels, the index of its LR pixel, and how far beyond that one's start it lies, in [0, 1).

    Returns:
        Two tensors (n,), of whole numbers, among the LR pixels that are given, and of floats.
    """
    starts = torch.arange(span.start, span.stop, device=device) * span.length
    return starts // span.target - span.first, (starts % span.target) / span.target


def convolve(feat: Tensor, rows: Tensor, columns: Tensor, kernels: Tensor) -> Tensor:
    """The 3 x 3 patch around each pixel times its column's kernel.

    Args:
        feat: (b, f, h + 2, w + 2), padded.
        rows, columns: (R,) and (W,), LR pixels by their index without padding.
        kernels: (W, 9 * f, 3), channel by channel, the taps of each in reading order.

    Returns:
        (b, 3, R, W).
    """
    taps = [feat[:, :, rows + i][..., columns + j] for i in range(3) for j in range(3)]
    patches = torch.stack(taps, dim=2).flatten(1, 2)  # (b, f * 9, R, W)
    return torch.einsum('bkrw,wkc->bcrw', patches, kernels)
