"""Upsampling to any size by kernels that a small network makes of scale and sub-pixel position alone (BasicAVSR).

The neighbourhood of each LR pixel is sampled bilinearly at the centres of the HR pixels, multiplied by a kernel, and
folded on the HR grid (ST-AVSR, Shang et al., ECCV 2024). The kernels do not depend on the image. With H / h = p / q in
lowest terms they repeat every p rows, likewise in columns: one tile of p x p' HR pixels has them all. Positions are
computed from integers, so that they repeat exactly and do not depend on the size of the frame.

Shape shorthand: b batch, c channels, h and w height and width of the LR frame, H and W of the HR frame, k the nine
positions of a 3x3 neighbourhood in raster order. Channel c * 9 + k, as `F.unfold` has it, is position k of channel c.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from basicsr.archs.arch_util import ResidualBlockNoBN, make_layer
from torch import Tensor, nn
from torch.nn import functional as F

SINE_FACTOR = 30  # SIREN's omega_0
NEIGHBOURS = 9
BAND_ELEMENTS = 2**24  # of the product of samples and kernels, computed at once without gradients: 64 MiB in float32
KEPT_ELEMENTS = 2**26  # of a tile of kernels that is kept: 256 MiB


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
        self._kept = None  # (scales, weights, tile of kernels)

    def forward(self, feat: Tensor, frame: Tensor, size: tuple[int, int]) -> Tensor:
        """Upsample.

        Without gradients, in bands of HR rows: memory beyond the result does not grow with its height.

        Args:
            feat: (b, c, h, w).
            frame: (b, 3, h, w), RGB in [0, 1].
            size: H and W.

        Returns:
            (b, 3, H, W).
        """
        height, width = size
        feat = self.blocks(feat)
        rows = (
            height
            if torch.is_grad_enabled()
            else max(BAND_ELEMENTS // (NEIGHBOURS * feat[..., 0, 0].numel() * width), 4)
        )
        scales = tuple(Fraction(target, length) for target, length in zip(size, feat.shape[-2:]))
        tile = self._tile(*scales)
        starts = range(0, height, rows)
        bands = [self._band(feat, size, scales, tile, start, min(start + rows, height)) for start in starts]
        return torch.cat(bands, dim=2) + F.interpolate(frame, size=size, mode='bilinear', align_corners=False)

    def _band(self, feat, size, scales, tile, start, stop) -> Tensor:
        """HR rows `start` to `stop` - 1, without the frame.

        Computed with up to two rows more on each side: one for folding, one for the last convolution.
        """
        height, width = size
        top, bottom = max(start - 2, 0), min(stop + 2, height)
        samples = sample_neighbourhoods(feat, size, top, bottom)
        phases = (torch.arange(top, bottom) % scales[0].numerator).to(feat.device)
        kernels = self.kernel(*scales, phases) if tile is None else tile[:, phases]
        columns = (torch.arange(width) % scales[1].numerator).to(feat.device)
        product = samples * kernels[..., columns].to(samples.dtype)
        folded = F.fold(product.flatten(2), (bottom - top, width), 3, padding=1)
        folded = folded[:, :, int(top > 0) : bottom - top - int(bottom < height)]  # whose neighbours are all there
        residue = self.conv_last(F.leaky_relu(self.conv_mix(folded), 0.1))
        first = start - top - int(top > 0)
        return residue[:, :, first : first + stop - start]

    def _tile(self, alpha: Fraction, beta: Fraction) -> Tensor | None:
        """All kernels of two scales, (9 * c, p, p'), which are kept where there are no gradients; None: too many.

        Weights may change behind the module's back (an average of weights, a checkpoint), so they are compared.
        """
        rows, columns = alpha.numerator, beta.numerator
        if rows * columns * NEIGHBOURS * self.conv_mix.in_channels > KEPT_ELEMENTS:
            return None
        weights = torch.cat([parameter.flatten() for parameter in self.kernel.parameters()])
        phases = torch.arange(rows, device=weights.device)
        if torch.is_grad_enabled() or weights.is_meta:
            return self.kernel(alpha, beta, phases)
        described = (alpha, beta, weights.device, weights.dtype)
        if self._kept is None or self._kept[0] != described or not torch.equal(self._kept[1], weights):
            self._kept = described, weights, self.kernel(alpha, beta, phases)
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

    def forward(self, alpha: Fraction, beta: Fraction, rows: Tensor) -> Tensor:
        """Kernels of HR rows and of all columns that differ.

        Args:
            alpha, beta: Scales, vertical and horizontal, in lowest terms p / q and p' / q'.
            rows: (r,), which HR rows, from 0 to p - 1.

        Returns:
            (9 * c, r, p'), float32 (or the weights' dtype).
        """
        weight = self.layers[0].weight
        y, x = (relative_positions(scale).to(weight) for scale in (alpha, beta))
        y = y[rows]
        index = torch.arange(-1.0, 2.0).to(weight)
        with torch.autocast(weight.device.type if not weight.is_meta else 'cpu', enabled=False):
            codes = (
                self.encoders['cell'](weight.new_tensor([float(2 / alpha), float(2 / beta)])),
                self.encoders['index'](pairs(index, index).flatten(0, 1)),  # (9, ..)
                self.encoders['position'](pairs(y, x).unsqueeze(2)),  # (r, p', 1, ..)
            )
            parts = weight.split(weight.size(1) // len(codes), dim=1)  # so that nothing is repeated before the layer
            hidden = sum(F.linear(code, part) for code, part in zip(codes, parts)) + self.layers[0].bias
            for layer in self.layers[1:]:
                hidden = layer(torch.sin(SINE_FACTOR * hidden))
        return hidden.permute(3, 2, 0, 1).flatten(0, 1)  # (r, p', 9, c) -> (c * 9, r, p')


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


def sample_neighbourhoods(feat: Tensor, size: tuple[int, int], start: int, stop: int) -> Tensor:
    """Sample the 3x3 neighbourhoods of LR pixels bilinearly at the centres of HR pixels; zeros outside.

    Args:
        feat: (b, c, h, w).
        size: H and W.
        start, stop: HR rows `start` to `stop` - 1.

    Returns:
        (b, 9 * c, `stop` - `start`, W).
    """
    b, c, h, w = feat.shape
    row, row_weight = bilinear_taps(h, size[0])
    column, column_weight = bilinear_taps(w, size[1])
    row, row_weight = row[start:stop], row_weight[start:stop]
    above, below = int(row[0]), int(row[-1]) + 1  # the LR rows that are read, -1 and h being outside
    first, last = max(above, 0), min(below, h - 1)
    around = F.unfold(F.pad(feat, (1, 1, 1, 1))[:, :, first : last + 3], 3)
    around = F.pad(around.view(b, NEIGHBOURS * c, -1, w), (1, 1, first - above, below - last))
    around = interpolate(around, 3, column + 1, column_weight)
    return interpolate(around, 2, row - above, row_weight)


def bilinear_taps(length: int, target: int) -> tuple[Tensor, Tensor]:
    """For the centres of `target` pixels over `length` ones: the pixel before, from -1 on, and the next's weight."""
    centre = (2 * torch.arange(target) + 1) * length - target  # in a unit in which an LR pixel is 2 * target wide
    before = torch.div(centre, 2 * target, rounding_mode='floor')
    return before, (centre - before * 2 * target).double() / (2 * target)


def interpolate(x: Tensor, dim: int, index: Tensor, weight: Tensor) -> Tensor:
    """Between the slices `index` and `index` + 1 of `dim`, (1 - weight) of the one and `weight` of the other."""
    index = index.to(x.device)
    weight = weight.to(x).view(-1, *[1] * (x.dim() - 1 - dim))
    return torch.lerp(x.index_select(dim, index), x.index_select(dim, index + 1), weight)
