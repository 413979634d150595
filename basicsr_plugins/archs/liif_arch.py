"""LIIF: an image as a function of continuous coordinates.

Paper: Chen, Liu, Wang, "Learning Continuous Image Representation with Local Implicit Image Function", CVPR 2021,
arXiv:2012.09161. An encoder's features, 3 x 3 of them at a place; a perceptron (MLP) that makes from those, from the
coordinates relative to the feature and from the size of an HR pixel a colour; and the mean of what the four nearest
features say, weighted by the area of the rectangle opposite. At the defaults (the encoder of EDSR-baseline) 1,567,299
parameters, with RDN's 22,320,835.

Choices: images enter as 2x - 1, as in the released code. The MLP's first layer is applied to the 3 x 3 features before
they are looked up, as the 3 x 3 convolution that it is on them: the same sum, at LR size.

Shape shorthand: b batch, f channels of the features, m channels of the MLP, h and w height and width of the LR image, H
and W of what is made of the HR image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from basicsr.archs.arch_util import ResidualBlockNoBN, make_layer
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.archs.image_networks import AnyScaleNetwork
from basicsr_plugins.archs.residual_dense import ResidualDenseFeatures
from basicsr_plugins.errors import InputError
from basicsr_plugins.scales import Place, Span

TAPS = 9
EDGE = 1e-6  # features are looked up a little beyond half a pixel, so that ties fall to one side
SIDES = (-1, 1)
MAX_PIXELS = 30000  # HR pixels that are computed at once, as in the released code
ENCODERS = ('edsr', 'rdn')


@ARCH_REGISTRY.register()
class LIIF(AnyScaleNetwork):
    """LIIF.

    Args:
        encoder: `edsr` or `rdn`.
        num_feat: Channels of the features.
        num_block: Blocks of the encoder, residual or residual dense.
        num_hidden: Channels of each hidden layer of the MLP.
        num_layer: Hidden layers.
        scale: Upscaling factor, from 1 to 16, or two, vertical and horizontal; a run may set its own.
        trained_scales: The least and the greatest factor that its weights are trained for; others are possible.

    Raises:
        InputError: If there is no such encoder, or a scale is out of its range.
    """

    argument_ranges: ClassVar = {'num_hidden': (1, 4096), 'num_layer': (1, 1000)}

    def __init__(
        self,
        encoder: str = 'edsr',
        num_feat: int = 64,
        num_block: int = 16,
        num_hidden: int = 256,
        num_layer: int = 4,
        scale: float | Sequence[float] = 4,
        trained_scales: Sequence[float] = (1, 4),
    ):
        super().__init__(scale, trained_scales)
        if encoder not in ENCODERS:
            raise InputError(f'LIIF: encoder must be one of {", ".join(ENCODERS)}, but is {encoder!r}.')
        self.encoder = (EDSRFeatures if encoder == 'edsr' else ResidualDenseFeatures)(3, num_feat, num_block)
        widths = [TAPS * num_feat + 4] + [num_hidden] * num_layer
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in zip(widths, widths[1:]))
        self.last = nn.Linear(num_hidden, 3)

    def features(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, m, h, w), what the first layer makes of the features."""
        feat = self.encoder(2 * x - 1)
        kernel = self.hidden[0].weight[:, : feat.size(1) * TAPS].reshape(-1, feat.size(1), 3, 3)
        return F.conv2d(feat, kernel, self.hidden[0].bias, padding=1)

    def enlarge(self, feat: Tensor, place: Place) -> Tensor:
        """(b, m, h, w) -> (b, 3, H, W) of the place, some rows at a time."""
        rows, columns = (nearest(span, feat) for span in place)
        cell = feat.new_tensor([2 * span.length / span.target for span in place])
        height, width = (span.stop - span.start for span in place)
        bands = [
            self.predict(feat, [(index[some], relative[some]) for index, relative in rows], columns, cell)
            for some in torch.arange(height, device=feat.device).split(max(MAX_PIXELS // width, 1))
        ]
        return torch.cat(bands, dim=2) / 2 + 0.5

    def predict(
        self, feat: Tensor, rows: list[tuple[Tensor, Tensor]], columns: list[tuple[Tensor, Tensor]], cell: Tensor
    ) -> Tensor:
        """Colours of some rows.

        Args:
            feat: (b, m, h, w), what the first layer makes of the features.
            rows, columns: As `nearest` gives them, of R rows and of W columns.
            cell: (2,), height and width of an HR pixel; an LR pixel's are 2.

        Returns:
            (b, 3, R, W), in [-1, 1].
        """
        weighted, total = 0, 0
        for (i, y), (_, opposite_y) in zip(rows, rows[::-1]):
            for (j, x), (_, opposite_x) in zip(columns, columns[::-1]):
                area = opposite_y.abs()[:, None] * opposite_x.abs() + 1e-9  # (R, W)
                shape = len(y), len(x)
                place = torch.stack((y[:, None].expand(shape), x.expand(shape), *cell[:, None, None].expand(2, *shape)))
                weighted = weighted + area * self.colours(feat[:, :, i][..., j], place)
                total = total + area
        return weighted / total

    def colours(self, feat: Tensor, place: Tensor) -> Tensor:
        """The MLP: (b, m, R, W), its first layer's part of the features, and (4, R, W) -> (b, 3, R, W)."""
        values = feat.permute(0, 2, 3, 1) + F.linear(place.permute(1, 2, 0), self.hidden[0].weight[:, -4:])
        for layer in self.hidden[1:]:
            values = layer(F.relu(values))
        return self.last(F.relu(values)).permute(0, 3, 1, 2)


class EDSRFeatures(nn.Module):
    """EDSR-baseline without upsampling: residual blocks, and the first features added.

    Args:
        num_in_ch: Colours.
        num_feat: Channels of the features.
        num_block: Residual blocks.
    """

    def __init__(self, num_in_ch: int = 3, num_feat: int = 64, num_block: int = 16):
        super().__init__()
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1)
        self.body = make_layer(ResidualBlockNoBN, num_block, num_feat=num_feat, pytorch_init=True)
        self.conv_body = nn.Conv2d(num_feat, num_feat, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, f, h, w)."""
        first = self.conv_first(x)
        return first + self.conv_body(self.body(first))


def nearest(span: Span, like: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each HR pixel of a span, the nearest feature on either side.

    Args:
        span: Of n HR pixels.
        like: A tensor of the device and the dtype of the coordinates.

    Returns:
        For both sides: indices (n,) among the LR pixels that are given, and the HR pixel's coordinates relative to
        those (n,), where an LR pixel's length is 2.
    """
    length = span.length
    pixels = torch.arange(span.start, span.stop, device=like.device, dtype=torch.float64)
    centres = (2 * pixels + 1) / span.target - 1
    found = []
    for side in SIDES:
        aside = (centres + side / length + EDGE).clamp(EDGE - 1, 1 - EDGE)
        index = ((aside + 1) * length / 2).long()
        found.append((index - span.first, ((centres + 1) * length - (2 * index + 1)).to(like)))
    return found
