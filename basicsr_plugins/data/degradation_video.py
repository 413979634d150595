"""What video compression does to a clip: encoded and decoded again in memory, by PyAV, without a file.

One thread each, so that the same frames and settings give the same result. Colours go through YCbCr of BT.601 with
halved chroma, averaged when written and repeated when read, as `video.colour` reads films.

Shapes: t frames, (h, w) their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import av
import cv2
import numpy as np

from basicsr_plugins.errors import InputError, suggest

FALLBACK = 'mpeg4'
DECODERS = {'libx264': 'h264', 'libx265': 'hevc', 'h264': 'h264', 'hevc': 'hevc', 'mpeg4': 'mpeg4'}
# Pixels a side. On smaller frames x264 and x265 look ahead into memory that was never written (the same frames give
# several results, seen up to 96), and x265 writes beyond its memory; from 192 on, neither was seen.
SMALLEST = {'libx264': 192, 'h264': 192, 'libx265': 192, 'hevc': 192}
SPEEDS = ('ultrafast', 'superfast', 'veryfast', 'faster', 'fast', 'medium', 'slow')
QSCALE_OF_CRF = (8, 0.45)  # mpeg4's quantiser is about 0.45 (CRF - 8): 4.5 at 18, 12 at 35
_TO_YCC = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
_OFFSET = np.array([16.0, 128.0, 128.0])
_FROM_YCC = np.linalg.inv(_TO_YCC)


@dataclass(frozen=True)
class Encoding:
    """How to compress; either `crf` or `bit_rate` counts.

    Args:
        codec: Name of an encoder: libx264, h264, libx265, hevc or mpeg4. One that this build of FFmpeg lacks is
            replaced by mpeg4, and a warning says so once.
        crf: Constant quality, 0 to 51 (x264, x265), translated to mpeg4's quantiser.
        bit_rate: Bits per second.
        frame_rate: Frames per second.
        gop: Frames from one that is coded alone to the next, at most.
        speed: x264's and x265's preset.
    """

    codec: str = 'libx264'
    crf: float | None = 23
    bit_rate: int | None = None
    frame_rate: int = 25
    gop: int = 250
    speed: str = 'medium'


def compress_clip(frames: Sequence[np.ndarray], encoding: Encoding) -> list[np.ndarray]:
    """Encode and decode a clip.

    Args:
        frames: (h, w, 3) RGB float32 in [0, 1]; those of another size than the first are resized to its size.
        encoding: How to compress.

    Returns:
        As many frames (h, w, 3), RGB float32 in [0, 1].

    Raises:
        InputError: The codec is unknown or refuses the frames.
    """
    codec = available(encoding.codec)
    height, width = frames[0].shape[:2]
    h, w = (max(side + side % 2, SMALLEST.get(codec, 2)) for side in (height, width))  # chroma is halved
    planes = [_to_planes(_fitted(frame, height, width, h, w)) for frame in frames]
    try:
        encoder = _encoder(codec, encoding, h, w)
        decoder = av.CodecContext.create(DECODERS[codec], 'r')
        decoder.thread_count = 1
        packets = []
        for number, plane in enumerate(planes):
            picture = av.VideoFrame.from_ndarray(plane, format='yuv420p')
            picture.pts, picture.time_base = number, encoder.time_base
            packets += encoder.encode(picture)
        packets += encoder.encode(None)
        decoded = [picture for packet in packets for picture in decoder.decode(packet)] + decoder.decode(None)
    except (av.FFmpegError, ValueError) as error:
        raise InputError(f'video: {codec} cannot compress {len(frames)} frames of {w}x{h} ({error}).') from error
    if len(decoded) != len(frames):
        raise InputError(f'video: {codec} gave {len(decoded)} of {len(frames)} frames of {w}x{h} back.')
    return [_to_rgb(picture.to_ndarray(), h, w)[:height, :width] for picture in decoded]


@cache
def available(codec: str) -> str:
    """The codec, or `FALLBACK` where this build of FFmpeg cannot encode it.

    Raises:
        InputError: The codec is not one of `DECODERS`.
    """
    from basicsr.utils import get_root_logger

    if codec not in DECODERS:
        raise InputError(f'video: there is no codec {codec!r}; {suggest(codec, DECODERS)}')
    try:
        av.Codec(codec, 'w')
    except ValueError:  # UnknownCodecError
        get_root_logger().warning(f'This build of FFmpeg cannot encode {codec}; {FALLBACK} takes its place.')
        return FALLBACK
    return codec


def _encoder(codec: str, encoding: Encoding, h: int, w: int) -> av.VideoCodecContext:
    encoder = av.CodecContext.create(codec, 'w')
    encoder.width, encoder.height, encoder.pix_fmt = w, h, 'yuv420p'
    encoder.framerate = Fraction(str(encoding.frame_rate)).limit_denominator(1001)
    encoder.time_base = 1 / encoder.framerate
    encoder.gop_size, encoder.thread_count = encoding.gop, 1
    options = {}
    if codec != FALLBACK:
        options['preset'] = encoding.speed
    if codec in ('libx265', 'hevc'):
        options['x265-params'] = 'pools=none:frame-threads=1:log-level=none'
    if encoding.bit_rate is not None:
        encoder.bit_rate = encoding.bit_rate
    elif codec == FALLBACK:
        quantiser = np.clip(QSCALE_OF_CRF[1] * (encoding.crf - QSCALE_OF_CRF[0]), 1, 31)
        options.update(qmin=f'{quantiser:.0f}', qmax=f'{quantiser:.0f}')
    else:
        options['crf'] = f'{encoding.crf:.1f}'
    encoder.options = options
    return encoder


def _fitted(frame, height, width, h, w):
    """Resized to (height, width) if it has another size, then extended to (h, w) by its last row and column."""
    if frame.shape[:2] != (height, width):
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
    if (height, width) != (h, w):
        frame = cv2.copyMakeBorder(frame, 0, h - height, 0, w - width, cv2.BORDER_REPLICATE)
    return frame


def _to_planes(frame):
    """(h, w, 3) RGB in [0, 1] to the planes of yuv420p below each other, (1.5 h, w) uint8."""
    h, w = frame.shape[:2]
    ycc = cv2.transform(np.ascontiguousarray(frame), np.hstack([_TO_YCC, _OFFSET[:, None]]))
    chroma = cv2.resize(ycc[..., 1:], (w // 2, h // 2), interpolation=cv2.INTER_AREA)
    planes = np.concatenate([ycc[..., 0].ravel(), chroma[..., 0].ravel(), chroma[..., 1].ravel()])
    return np.rint(planes).clip(0, 255).astype(np.uint8).reshape(h * 3 // 2, w)


def _to_rgb(planes, h, w):
    y, chroma = planes[:h], planes[h:].reshape(2, h // 2, w // 2)
    blue, red = (cv2.resize(plane, (w, h), interpolation=cv2.INTER_NEAREST) for plane in chroma)
    ycc = cv2.merge([y, blue, red]).astype(np.float32)
    matrix = np.hstack([_FROM_YCC, -_FROM_YCC @ _OFFSET[:, None]])
    return cv2.transform(ycc, matrix).clip(0, 1)
