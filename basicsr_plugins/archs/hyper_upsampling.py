"""Upsampling to any size by kernels that a small network makes of scale and sub-pixel position alone (BasicAVSR).

The neighbourhood of each LR pixel is sampled bilinearly at the centres of the HR pixels, multiplied by a kernel, and
folded on the HR grid (ST-AVSR, Shang et al., ECCV 2024). The nine kernels that meet in an HR pixel sum to one in each
channel [ours], so that features of one value come out with that value, whatever the scale. The kernels do not depend on
the image. With H / h = p / q in lowest terms they repeat every p rows, likewise every p' columns: a tile of p by p' is
computed once and kept. In training, and where the tile is too large, only the kernels of what is made are computed.
Positions are computed from integers, so that they repeat exactly and do not depend on the size of the frame.

Shape shorthand: b batch, c channels, h and w height and width of the LR frame, H and W of the HR frame, k the nine
positions of a 3x3 neighbourhood in raster order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import torch
from basicsr.archs.arch_util import ResidualBlockNoBN, make_layer
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_plugins.scales import Place, Span

SINE_FACTOR = 30  # SIREN's omega_0
NEIGHBOURS = 9
MIDDLE = 4
BAND_ELEMENTS = 2**24  # of the product of samples and kernels, computed at once without gradients: 64 MiB in float32
KEPT_ELEMENTS = 2**25  # of a tile of kernels that is kept: 128 MiB


class HyperUpsampler(nn.Module):
    """Hyper-upsampling unit: features and a frame to any size.

    Args:
        num_feat: Channels of the features.
        num_block: Residual blocks before upsampling.
    """

    def __init__(self, num_feat: int, num_block: int):
        super().__init__()
        self.blocks = make_layer(ResidualBlockNoBN, num_block, num_feat=num_feat)
        self.kernel = KernelNetwork(num_feat)
        self.conv_mix = nn.Conv2d(num_feat, num_feat, 1)
        self.conv_last = nn.Conv2d(num_feat, 3, 3, 1, 1)
        self._kept = None  # (scales and what weights are on, weights, kernels)

    def forward(self, feat: Tensor, frame: Tensor, places: Sequence[Place]) -> Tensor:
        """Upsample.

        Without gradients, in bands of HR rows: memory beyond the result does not grow with its height.

        Args:
            feat: (b, c, h, w).
            frame: (b, 3, h, w), RGB in [0, 1].
            places: What is made: one place for all, or b of one size.

        Returns:
            (b, 3, H, W) of the places.
        """
        feat = self.blocks(feat)
        if len(places) == 1:
            return self._make(feat, frame, places[0])
        return torch.cat([self._make(*pair, place) for *pair, place in zip(feat.split(1), frame.split(1), places)])

    def _make(self, feat: Tensor, frame: Tensor, place: Place) -> Tensor:
        rows, columns = place
        limit = max(BAND_ELEMENTS // (NEIGHBOURS * feat[..., 0, 0].numel() * (columns.stop - columns.start)), 4)
        limit = rows.stop - rows.start if torch.is_grad_enabled() else limit
        scales = tuple(Fraction(span.target, span.length) for span in place)
        tile = self._tile(scales)
        starts = range(rows.start, rows.stop, limit)
        bands = [(rows._replace(start=i, stop=min(i + limit, rows.stop)), columns) for i in starts]
        return torch.cat([self._band(feat, band, scales, tile) for band in bands], dim=2) + resize(frame, place)

    def _band(self, feat: Tensor, place: Place, scales: tuple[Fraction, Fraction], tile: Tensor | None) -> Tensor:
        """A place without the frame.

        Computed with up to two pixels more on each side: one for folding, one for the last convolution.
        """
        wider = tuple(
            span._replace(start=max(span.start - 2, 0), stop=min(span.stop + 2, span.target)) for span in place
        )
        height, width = (span.stop - span.start for span in wider)
        phases = [torch.arange(span.start, span.stop) % scale.numerator for span, scale in zip(wider, scales)]
        if tile is None:
            needed, phases = zip(*(phase.unique(return_inverse=True) for phase in phases))
            tile = self.kernel(*scales, *needed)
        phases = [phase.to(feat.device) for phase in phases]
        folded = feat.new_zeros(*feat.shape[:2], height + 2, width + 2)
        for k, samples in enumerate(sample_neighbourhoods(feat, wider)):
            kernel = spread(tile[k], *phases)
            folded[:, :, k // 3 : k // 3 + height, k % 3 : k % 3 + width] += samples * kernel.to(samples.dtype)
        # without the rows and columns whose neighbours are not there
        inside = [slice(1 + (s.start > 0), s.stop - s.start + 1 - (s.stop < s.target)) for s in wider]
        residue = self.conv_last(F.leaky_relu(self.conv_mix(folded[(..., *inside)]), 0.1))
        firsts = [ours.start - more.start - (more.start > 0) for ours, more in zip(place, wider)]
        return residue[(..., *(slice(i, i + s.stop - s.start) for i, s in zip(firsts, place)))]

    def _tile(self, scales: tuple[Fraction, Fraction]) -> Tensor | None:
        """The kernels of all rows and columns that differ, (9, c, p, p'), kept; None: too many, or there are gradients.

        Weights may change behind the module's back (an average of weights, a checkpoint), so they are compared.
        """
        like = self.conv_mix.weight
        count = NEIGHBOURS * like.size(1) * scales[0].numerator * scales[1].numerator
        if torch.is_grad_enabled() or like.is_meta or count > KEPT_ELEMENTS:
            return None
        weights = torch.cat([parameter.flatten() for parameter in self.kernel.parameters()])
        described = (*scales, weights.device, weights.dtype)
        if self._kept is None or self._kept[0] != described or not torch.equal(self._kept[1], weights):
            tile = self.kernel(*scales, *(torch.arange(scale.numerator) for scale in scales))
            self._kept = described, weights, tile
        return self._kept[2]


class KernelNetwork(nn.Module):
    """Upsampling kernels from scale, position in the neighbourhood and sub-pixel position, by a SIREN.

    SIREN: Sitzmann et al., NeurIPS 2020; layers with sines for activations, and the initial weights that these need.

    Args:
        num_feat: c.
        num_hidden: Channels of the hidden layers.
        num_code: Channels that a pair of numbers is encoded to.
    """

    def __init__(self, num_feat: int, num_hidden: int = 16, num_code: int = 32):
        super().__init__()
        self.encoders = nn.ModuleDict({name: PairEncoder(num_code) for name in ('cell', 'index', 'position')})
        num_input = num_code * len(self.encoders)
        self.layers = nn.ModuleList(
            nn.Linear(*channels)
            for channels in ((num_input, num_hidden), *[(num_hidden, num_hidden)] * 2, (num_hidden, num_feat))
        )
        for i, layer in enumerate(self.layers):
            bound = math.sqrt(6 / layer.in_features) / SINE_FACTOR if i else 1 / layer.in_features
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, alpha: Fraction, beta: Fraction, rows: Tensor, columns: Tensor) -> Tensor:
        """Kernels of HR pixels.

        Folding adds, in an HR pixel, the product of neighbour k and kernel k of the HR pixel that lies the other way.
        The middle kernel is what the eight others leave to one there.

        Args:
            alpha, beta: Scales, vertical and horizontal, in lowest terms p / q and p' / q'.
            rows: (r,), on the CPU, which rows, from 0 to p - 1.
            columns: (s,), likewise, from 0 to p' - 1.

        Returns:
            (9, c, r, s), in the weights' dtype.
        """
        around = torch.arange(-1, 2).view(3, 1)  # of each row and column the one before, itself, the one after
        needed_rows, row = ((rows + around) % alpha.numerator).unique(return_inverse=True)
        needed_columns, column = ((columns + around) % beta.numerator).unique(return_inverse=True)
        computed = self._siren(alpha, beta, needed_rows, needed_columns)
        row, column = row.to(computed.device), column.to(computed.device)
        kernels = [spread(kernel, row[1], column[1]) for kernel in computed]
        others = (spread(computed[k], row[2 - k // 3], column[2 - k % 3]) for k in range(NEIGHBOURS) if k != MIDDLE)
        kernels[MIDDLE] = 1 - sum(others)
        return torch.stack(kernels)

    def _siren(self, alpha: Fraction, beta: Fraction, rows: Tensor, columns: Tensor) -> Tensor:
        weight = self.layers[0].weight
        y, x = (relative_positions(scale)[at].to(weight) for scale, at in ((alpha, rows), (beta, columns)))
        index = torch.arange(-1.0, 2.0).to(weight)
        with torch.autocast(weight.device.type if not weight.is_meta else 'cpu', enabled=False):
            codes = (
                self.encoders['cell'](weight.new_tensor([float(2 / alpha), float(2 / beta)])),
                self.encoders['index'](pairs(index, index).flatten(0, 1)),  # (9, ..)
                self.encoders['position'](pairs(y, x).unsqueeze(2)),  # (r, s, 1, ..)
            )
            parts = weight.split(weight.size(1) // len(codes), dim=1)  # so that nothing is repeated before the layer
            hidden = sum(F.linear(code, part) for code, part in zip(codes, parts)) + self.layers[0].bias
            for layer in self.layers[1:]:
                hidden = layer(torch.sin(SINE_FACTOR * hidden))
        return hidden.permute(2, 3, 0, 1)  # (r, s, 9, c) -> (9, c, r, s)


class PairEncoder(nn.Module):
    """Sines and cosines of two numbers at 16 frequencies from 0 to 1023, through a linear layer."""

    def __init__(self, num_code: int):
        super().__init__()
        self.register_buffer('frequencies', 2 ** (10 * torch.arange(16) / 15) - 1, persistent=False)
        self.linear = nn.Linear(4 * len(self.frequencies), num_code)

    def forward(self, pair: Tensor) -> Tensor:
        """(.., 2) -> (.., num_code)."""
        angles = (pair.unsqueeze(-1) * self.frequencies).flatten(-2)  # the first number's, then the second's
        return self.linear(torch.cat((angles.sin(), angles.cos()), dim=-1))


def pairs(first: Tensor, second: Tensor) -> Tensor:
    """(n,) and (m,) -> (n, m, 2)."""
    return torch.stack((first.unsqueeze(1).expand(-1, len(second)), second.expand(len(first), -1)), dim=-1)


def spread(kernels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The kernel of each pixel, (c, p, p') -> (c, h, w), by the rows, (h,), and columns, (w,), in the tile."""
    if kernels.size(1) > len(rows):
        return kernels.index_select(1, rows).index_select(2, columns)
    return kernels.index_select(2, columns).index_select(1, rows)


def relative_positions(scale: Fraction) -> Tensor:
    """Where the centres of HR pixels lie in the nearest LR pixel, which reaches from -1 to 1.

    Args:
        scale: p / q, of one axis.

    Returns:
        (p,), float64, in [-1, 1), after which it repeats. A centre on the border of two LR pixels belongs to the later.
    """
    p, q = scale.numerator, scale.denominator
    centre = (2 * torch.arange(p) + 1) * q  # in a unit in which an LR pixel is 2 * p wide
    nearest = torch.div(centre, 2 * p, rounding_mode='floor')
    return (centre - (2 * nearest + 1) * p).double() / p


def sample_neighbourhoods(feat: Tensor, place: Place) -> Iterator[Tensor]:
    """Sample each position of the LR pixels' 3x3 neighbourhoods bilinearly at the centres of HR pixels.

    Both a neighbour that is outside the frame and an LR pixel that is count as zero.

    Args:
        feat: (b, c, h, w), the LR pixels that the place is made of.
        place: The HR pixels, whole or a part.

    Yields:
        Nine times (b, c, H, W) of the place, in raster order.
    """
    (row, row_weights), (column, column_weights) = (bilinear_taps(span) for span in place)
    edges = []  # for columns, then rows: what is read beyond the pixels given, whose neighbours are read too
    for before, length in ((column, feat.size(3)), (row, feat.size(2))):
        edges.append((max(1 - int(before[0]), 0), max(int(before[-1]) + 3 - length, 0)))
    first, last = max(int(row[0]) - 1, 0), int(row[-1]) + 3  # the rows that are read
    around = F.pad(feat[:, :, first:last], (*edges[0], *edges[1]))
    column, row = column + edges[0][0], row + edges[1][0] - first
    across = [interpolate(around, 3, column - 1 + x, column_weights) for x in range(3)]
    for y in range(3):
        for x in range(3):
            yield interpolate(across[x], 2, row - 1 + y, row_weights)


def bilinear_taps(span: Span) -> tuple[Tensor, Tensor]:
    """Where the centres of HR pixels lie: the LR pixel before each, and the weights of it and of the next.

    The pixels, (n,), count from the first that is given, and may lie outside; weights, (2, n), of pixels outside the
    whole side are zero.
    """
    length, target = span.length, span.target
    centre = (2 * torch.arange(span.start, span.stop) + 1) * length - target  # an LR pixel is 2 * target wide
    before = torch.div(centre, 2 * target, rounding_mode='floor')
    fraction = (centre - before * 2 * target).double() / (2 * target)
    return before - span.first, torch.stack(((1 - fraction) * (before >= 0), fraction * (before + 1 < length)))


def resize(frame: Tensor, place: Place) -> Tensor:
    """A place of the bilinearly enlarged frame, (b, 3, h, w) -> (b, 3, H, W); the border is repeated."""
    for dim, span in zip((2, 3), place):
        before, weights = bilinear_taps(span)
        fraction = torch.where(weights[0] + weights[1] < 1, 0.0, weights[1])
        before = before.clamp(0, frame.size(dim) - 1)
        after = (before + 1).clamp(max=frame.size(dim) - 1)
        fraction = fraction.to(frame).view(-1, *[1] * (3 - dim))
        first, second = (frame.index_select(dim, index.to(frame.device)) for index in (before, after))
        frame = torch.lerp(first, second, fraction)
    return frame


def interpolate(x: Tensor, dim: int, index: Tensor, weights: Tensor) -> Tensor:
    """The slices `index` and `index` + 1 of `dim`, (n,), weighted by `weights`, (2, n)."""
    index = index.to(x.device)
    first, second = weights.to(x).view(2, -1, *[1] * (x.dim() - 1 - dim))
    return x.index_select(dim, index) * first + x.index_select(dim, index + 1) * second
