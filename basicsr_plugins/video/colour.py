"""Video's YCbCr planes to RGB and back, in float32 and at the depth of the planes.

swscale, which PyAV calls, rounds RGB to 8 bits on the way; here nothing is rounded before the encoder.

Halved chroma is repeated when read and averaged when written, as most software does: what is constant over its 2x2
pixels comes back exactly, sharp colour edges too. It can be interpolated linearly instead (`chroma='linear'`), at the
place where the standard puts it: smoother slanted edges, and straight ones that lose up to half a chroma sample.

Equations: ITU-R BT.601-7, BT.709-6 and BT.2020-2: Y = Kr R + Kg G + Kb B, Cb = (B - Y) / (2 (1 - Kb)),
Cr = (R - Y) / (2 (1 - Kr)); limited range puts Y on 16..235 and chroma on 16..240 of 8 bits, times 2 ** (depth - 8).
Numbers of matrices, primaries and transfers are those of ITU-T H.273, which files and FFmpeg use.

Shape shorthand: h and w height and width of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from basicsr_plugins.errors import InputError
from basicsr_plugins.memory import to_host

UNSPECIFIED = 2
BT709, BT601, BT2020 = 1, 6, 9
MATRICES = {  # H.273 matrix coefficients -> (Kr, Kb)
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
LIMITED, FULL = 1, 2  # AVColorRange
SD_HEIGHT = 576
CHROMA = ('nearest', 'linear')
STRIPE = 1024  # rows that are converted at a time: memory stays small for any frame


@dataclass(frozen=True)
class Colour:
    """How the numbers of a video mean colours.

    Args:
        matrix: H.273 number of the matrix: 1 is BT.709, 5 and 6 are BT.601, 9 is BT.2020.
        full_range: Whether Y goes over all values (JPEG's range), not 16..235.
        primaries, transfer: H.273 numbers, kept and not used; 2 is unspecified.
        centred: Whether halved chroma lies between two columns (JPEG), not on the left one (MPEG-2 and later).
    """

    matrix: int = BT709
    full_range: bool = False
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    centred: bool = False


@dataclass(frozen=True)
class PlanarFormat:
    """A planar pixel format: `depth` bits, chroma smaller by 2 ** `log2_w` and 2 ** `log2_h`; `rgb`: planes G, B, R."""

    name: str
    depth: int
    log2_w: int = 0
    log2_h: int = 0
    rgb: bool = False
    grey: bool = False

    @property
    def subsampling(self) -> str:
        return {(1, 1): '420', (1, 0): '422', (0, 0): '444'}.get((self.log2_w, self.log2_h), 'other')

    @property
    def dtype(self) -> type:
        return np.uint8 if self.depth == 8 else np.uint16


def guess_matrix(height: int) -> int:
    """The matrix of an untagged video, as players guess it: BT.601 up to 576 lines, BT.709 above."""
    return BT601 if height <= SD_HEIGHT else BT709


def yuv_format(name: str) -> PlanarFormat:
    """Describe an encoder's format: yuv4xxp of 8 bits or more.

    Raises:
        InputError: If it is none.
    """
    try:
        described = av.VideoFormat(name, 16, 16)
    except ValueError:
        raise InputError(f'pix_fmt: there is no pixel format {name!r}; yuv420p is the usual one.') from None
    planar = planar_format(described)
    if planar.name != name or planar.rgb or planar.grey:
        raise InputError(f'pix_fmt: {name} is not a planar YUV format; use one like yuv420p, yuv444p or yuv420p10le.')
    return planar


def planar_format(fmt: av.VideoFormat) -> PlanarFormat:
    """The planar format that holds all of another's colour: itself, or what swscale makes of it without a loss.

    Alpha is dropped. Of packed and palette formats, the samples are only put into planes of their own.
    """
    depth = max(component.bits for component in fmt.components)
    suffix = '' if depth == 8 else f'{depth}le'
    if fmt.has_palette:
        return PlanarFormat('gbrp', 8, rgb=True)
    if fmt.is_rgb:
        depth = next(known for known in (8, 9, 10, 12, 14, 16) if known >= depth)
        return PlanarFormat('gbrp' if depth == 8 else f'gbrp{depth}le', depth, rgb=True)
    if all(component.is_luma or component.is_alpha for component in fmt.components):
        return PlanarFormat('gray' + suffix, depth, grey=True)
    log2_w, log2_h = (int(16 // size(16)).bit_length() - 1 for size in (fmt.chroma_width, fmt.chroma_height))
    if fmt.name.startswith('yuvj'):
        return PlanarFormat(fmt.name, depth, log2_w, log2_h)
    sampling = {(1, 1): '420', (1, 0): '422', (0, 0): '444', (0, 1): '440', (2, 0): '411', (2, 2): '410'}
    name = f'yuv{sampling[log2_w, log2_h]}p{suffix}'
    return PlanarFormat(name, depth, log2_w, log2_h)


# ------------------------------------------------------------------------------------------------------------- reading


def frame_to_rgb(frame: av.VideoFrame, colour: Colour, chroma: str = 'nearest') -> Tensor:
    """A decoded frame as RGB.

    Args:
        frame: The frame, of any format.
        colour: What its numbers mean.
        chroma: How chroma of fewer samples than luma is spread: `nearest` or `linear`.

    Returns:
        (3, h, w), float32 in [0, 1]; what lies outside, as video may, is clamped.
    """
    fmt = planar_format(frame.format)
    if frame.format.name != fmt.name:
        frame = frame.reformat(format=fmt.name)
    planes = [_read_plane(plane, fmt.dtype) for plane in frame.planes]
    if fmt.rgb:
        green, blue, red = planes[:3]
        return torch.stack([red, green, blue]) / (2**fmt.depth - 1)
    luma_offset, luma_range, chroma_offset, chroma_range = _levels(fmt.depth, colour.full_range)
    y = (planes[0] - luma_offset) / luma_range
    if fmt.grey:
        return y.clamp(0, 1).expand(3, -1, -1).clone()
    cb_cr = (torch.stack(planes[1:3]) - chroma_offset) / chroma_range  # (2, h / 2, w / 2)
    cb_cr = _upsample(cb_cr, 2, fmt.log2_w, frame.width, chroma, centred=colour.centred)
    cb, cr = _upsample(cb_cr, 1, fmt.log2_h, frame.height, chroma, centred=True)
    kr, kb = MATRICES[colour.matrix]
    red = y + 2 * (1 - kr) * cr
    blue = y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return torch.stack([red, green, blue]).clamp_(0, 1)


def _read_plane(plane, dtype) -> Tensor:
    rows = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // np.dtype(dtype).itemsize)
    return torch.from_numpy(rows[: plane.height, : plane.width].astype(np.float32))


def _levels(depth: int, full_range: bool) -> tuple[float, float, float, float]:
    """Offset and range of luma, offset and range of chroma (for Cb, Cr in [-0.5, 0.5])."""
    if full_range:
        return 0, 2**depth - 1, 2 ** (depth - 1), 2**depth - 1
    unit = 2 ** (depth - 8)
    return 16 * unit, 219 * unit, 128 * unit, 224 * unit


def _upsample(x: Tensor, dim: int, log2: int, size: int, chroma: str, centred: bool) -> Tensor:
    """Spread chroma along a dimension; its samples lie on every 2 ** log2-th pixel, or centred between them."""
    if log2 == 0:
        return x
    factor = 2**log2
    if chroma == 'nearest':
        return x.repeat_interleave(factor, dim).narrow(dim, 0, size)
    shift = (factor - 1) / 2 if centred else 0
    position = ((torch.arange(size, dtype=torch.float32) - shift) / factor).clamp(0, x.size(dim) - 1)
    below = position.floor().long()
    above = (below + 1).clamp(max=x.size(dim) - 1)
    shape = [1] * x.dim()
    shape[dim] = size
    return torch.lerp(x.index_select(dim, below), x.index_select(dim, above), (position - below).view(shape))


# ------------------------------------------------------------------------------------------------------------- writing


def rgb_to_frame(rgb: Tensor, colour: Colour, fmt: PlanarFormat) -> av.VideoFrame:
    """RGB as a frame for the encoder, each sample rounded once.

    Args:
        rgb: (3, h, w), float; clamped to [0, 1]; on any device. h and w are even where chroma is halved.
        colour: What the numbers shall mean.
        fmt: A YUV format, as of `yuv_format`.
    """
    frame = av.VideoFrame(rgb.size(2), rgb.size(1), fmt.name)
    planes = [_rows_of(plane, fmt.dtype) for plane in frame.planes]
    for top in range(0, rgb.size(1), STRIPE):
        stripe = rgb[:, top : top + STRIPE].detach().float().clamp(0, 1)
        for rows, samples in zip(planes, _samples(stripe, colour, fmt)):
            first = top * len(rows) // len(planes[0])
            rows[first : first + len(samples), : samples.size(1)] = to_host(samples).numpy().view(fmt.dtype)
    frame.colorspace = colour.matrix
    frame.color_range = FULL if colour.full_range else LIMITED
    return frame


def _samples(rgb: Tensor, colour: Colour, fmt: PlanarFormat) -> list[Tensor]:
    """The samples of a frame's planes, (h, w) each, on the device of (3, h, w) in [0, 1]."""
    red, green, blue = rgb
    kr, kb = MATRICES[colour.matrix]
    y = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = torch.stack([(blue - y) / (2 * (1 - kb)), (red - y) / (2 * (1 - kr))])
    if fmt.log2_w or fmt.log2_h:
        chroma = F.avg_pool2d(chroma, (2**fmt.log2_h, 2**fmt.log2_w))
    luma_offset, luma_range, chroma_offset, chroma_range = _levels(fmt.depth, colour.full_range)
    dtype = torch.uint8 if fmt.depth == 8 else torch.int16  # encoders take 12 bits at most
    planes = y * luma_range + luma_offset, *(chroma * chroma_range + chroma_offset)
    return [values.round_().clamp_(0, 2**fmt.depth - 1).to(dtype) for values in planes]


def _rows_of(plane, dtype: type) -> np.ndarray:
    """A plane's own memory, (rows, samples of a row with what is added to it), that to be zero."""
    rows = np.frombuffer(plane, dtype)[: plane.height * plane.line_size // np.dtype(dtype).itemsize]
    rows = rows.reshape(plane.height, -1)
    rows[:, plane.width :] = 0
    return rows


def choose_format(codec: str, encoder_formats: Sequence[str], source: PlanarFormat | None, depth: int) -> PlanarFormat:
    """The encoder's format nearest to the source's: its chroma where the encoder has it, its depth or the next below.

    Args:
        codec: For messages.
        encoder_formats: Names that the encoder takes.
        source: The source's format; None, RGB or grey: 4:2:0, which every player shows.
        depth: Bits that the source has.
    """
    sampling = '420' if source is None or source.rgb or source.grey else source.subsampling
    for chroma in (sampling, '444', '420') if sampling == 'other' else (sampling, '420'):
        for bits in (12, 10, 8):
            name = f'yuv{chroma}p' + ('' if bits == 8 else f'{bits}le')
            if bits <= max(depth, 8) and name in encoder_formats:
                return yuv_format(name)
    raise InputError(f'codec: the encoder of {codec} takes none of the planar YUV formats.')
