"""Frames from a video file, with what a writer needs to keep: times, colour, the other streams.

Shape shorthand: h and w height and width of a frame.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from array import array
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from torch import Tensor

from basicsr_plugins.errors import InputError, one_line
from basicsr_plugins.video.colour import (
    BT709,
    CHROMA,
    FULL,
    MATRICES,
    UNSPECIFIED,
    Colour,
    frame_to_rgb,
    guess_matrix,
    planar_format,
)
from basicsr_plugins.video.media import Source, file_status

HDR_TRANSFERS = {16: 'PQ', 18: 'HLG'}
UNTAGGED_MATRICES = (0, 2, 3)  # 0 is RGB: on YCbCr planes a wrong tag
# formats that name other files to be read, which a film from somewhere must not
LISTING_FORMATS = ('concat', 'dash', 'hls', 'imf', 'image2', 'image2pipe', 'rtp', 'rtsp', 'sap', 'sdp')
LISTING_FORMATS += ('vapoursynth', 'avisynth', 'webm_dash_manifest')
CLOCK_FORMATS = ('mpegts', 'mpeg')  # their times count from anywhere, those of other formats from the start


def open_container(path: Path) -> av.container.InputContainer:
    """A video file, which may name no other files to be read; a title that is not UTF-8 does not matter."""
    # PyAV 19 has dropped the argument: it gives such bytes as surrogates
    options = {'metadata_errors': 'replace'} if int(av.__version__.split('.')[0]) < 19 else {}
    formats = ','.join(sorted(av.formats_available.difference(LISTING_FORMATS)))
    return av.open(
        f'file:{path}', options={'format_whitelist': formats, 'protocol_whitelist': 'file'}, mode='r', **options
    )


class VideoSource(Source):
    """The first video stream of a file.

    Frames are yielded upright: a rotation or mirroring in the file's display matrix is applied to them, and the output
    needs none. Colours follow the stream's tags; an untagged matrix is guessed by the height of the coded frame
    (`guess_matrix`), an untagged range is limited. The decoder is told to report errors, not to conceal them: the
    frames end before the first damaged one, and `damage` says where.

    Args:
        path: The file.
        chroma: How chroma of fewer samples than luma is spread, `nearest` or `linear`; see `colour`.

    Attributes:
        time_base: Unit of `times`, in seconds.
        times: When each frame is shown, strictly increasing; known as far as the frames have been read.
        last_duration: How long the last frame read is shown, in units of `time_base`.
        rate: Frames per second on the average.
        colour: How the samples mean colours.
        format: The planar format of the frames.
        aspect: Shape of a pixel, width over height, or None.
        origin: Seconds that are taken off all times, in formats whose clock starts anywhere.
        interlaced: Whether the frames consist of two fields.

    Raises:
        InputError: If the file is missing, is no video, has no video stream or not one frame; while iterating too, if
            the size of its frames changes and `any_size` is not set, or the file changes.
    """

    is_video = True

    def __init__(self, path: str | os.PathLike, chroma: str = 'nearest'):
        super().__init__(str(path))
        if chroma not in CHROMA:
            raise InputError(f'chroma is {chroma!r}, but must be one of {", ".join(CHROMA)}.')
        self.chroma = chroma
        self.path = Path(path)
        self.files = [self.path]
        self._status = file_status(self.path)
        self.times = array('q')
        with self._open() as container:
            stream = self._find_stream(container)
            self._stream_index = stream.index
            self.time_base: Fraction = stream.time_base
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            self.origin = Fraction(0)
            if container.format.name in CLOCK_FORMATS and container.start_time:
                self.origin = Fraction(container.start_time, av.time_base)
            self._tagged_end = _tagged_end(stream)
            self._end = self._tagged_end
            if self._end is None and stream.duration:
                self._end = ((stream.start_time or 0) + stream.duration) * stream.time_base - self.origin
            self.num_frame = _count_frames(container, stream, self.rate)
            self.aspect = stream.codec_context.sample_aspect_ratio or None
            self._describe(container, stream)
        self.last_duration = 0

    def _open(self):
        try:
            return open_container(self.path)
        except av.error.ArgumentError as error:  # what FFmpeg says of a format that is not among those allowed
            raise InputError(
                f'{self.path} is not a video that can be read; a list of other files is not followed.'
            ) from error
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(f'{self.path} is not a video that can be read ({_reason(error)}).') from error

    def _find_stream(self, container):
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not streams:
            kinds = sorted({stream.type for stream in container.streams})
            raise InputError(f'{self.path} has no video stream (only {", ".join(kinds) or "nothing"}).')
        if streams[0].codec_context is None:
            raise InputError(f'{self.path}: there is no decoder for its video stream.')
        if len(streams) > 1:
            self.notes.append(f'{self.path} has {len(streams)} video streams; only the first is taken.')
        return streams[0]

    def _describe(self, container, stream) -> None:
        with contextlib.closing(self._decode(container)) as frames:
            frame = next(frames, None)
        if frame is None:
            raise InputError(f'{self.path} has no frame that can be decoded.')
        self._coded_size = (frame.height, frame.width)
        self.format = planar_format(frame.format)
        self.bit_depth = self.format.depth
        self.colour = self._read_colour(frame, stream.codec_context)
        self._matrix = _display_matrix(frame)
        self.interlaced = frame.interlaced_frame
        a, b, c, d = self._matrix
        if abs(a * b) + abs(c * d) > 0:
            self.notes.append(f'{self.path} is turned by an angle that is not a multiple of 90 degrees; it is left so.')
            self._matrix = (1, 0, 0, 1)
        if self._matrix[0] == 0:
            self.size = (frame.width, frame.height)
            self.aspect = 1 / self.aspect if self.aspect else None
        else:
            self.size = (frame.height, frame.width)
        if self.interlaced:
            self.notes.append(
                f'{self.path} is interlaced: each frame shows two moments, line by line, and comes out combed; '
                'deinterlace it first.'
            )
        tags = {key.lower(): value for key, value in stream.metadata.items()}  # of VP8 and VP9, whose alpha is aside
        if any(one.is_alpha for one in frame.format.components) or tags.get('alpha_mode') == '1':
            self.notes.append(f'{self.path} has an alpha channel, which is dropped.')
        if self.colour.transfer in HDR_TRANSFERS:
            self.notes.append(
                f'{self.path} is HDR ({HDR_TRANSFERS[self.colour.transfer]}): its values are upscaled as they are; '
                'the tags are kept, the mastering metadata is not.'
            )

    def _read_colour(self, frame, context) -> Colour:
        matrix, color_range = (
            of_frame if of_frame not in untagged else of_stream
            for of_frame, of_stream, untagged in (
                (int(frame.colorspace), int(context.colorspace), UNTAGGED_MATRICES),
                (int(frame.color_range), int(context.color_range), (0,)),
            )
        )
        if self.format.rgb:
            matrix = BT709
        elif matrix in UNTAGGED_MATRICES:
            matrix = guess_matrix(frame.height)
        if matrix not in MATRICES:
            raise InputError(
                f'{self.path} has the colour matrix {matrix} of ITU-T H.273, which is not supported; '
                'convert it to BT.709 first.'
            )
        full_range = color_range == FULL or self.format.name.startswith('yuvj')
        if self.format.grey and color_range == 0 and context.name not in ('h264', 'hevc'):
            full_range = True  # grey of image codecs
        return Colour(
            matrix=matrix,
            full_range=full_range,
            primaries=int(context.color_primaries) or UNSPECIFIED,
            transfer=int(context.color_trc) or UNSPECIFIED,
            centred=context.name == 'mjpeg',
        )

    # ----------------------------------------------------------------------------------------------------- reading

    def __iter__(self) -> Iterator[Tensor]:
        self.damage, self.exhausted, self._failure = None, False, None
        count, size, colour = 0, self._coded_size, self.colour
        with self._open() as container, contextlib.closing(self._decode(container)) as frames:
            self.check_unchanged()
            for frame in frames:
                if (frame.height, frame.width) != size:
                    self._note_size(count, frame, size)
                    size = (frame.height, frame.width)
                    colour = self._read_colour(frame, container.streams[self._stream_index].codec_context)
                self._note_time(count, frame)
                count += 1
                yield self._upright(frame_to_rgb(frame, colour, self.chroma))
        self.check_unchanged()
        failure = self._failure or self._cut_off()
        if failure:
            last = float(self.times[count - 1] * self.time_base)
            self.damage = f'{self.path} is damaged: its frames end after {count}, the last at {last:.3f} s ({failure}).'
        else:
            self._end_last_frame()
        self.exhausted = True

    def check_unchanged(self) -> None:
        """Refuse a file that is not the one that was opened first.

        Raises:
            InputError: If it has changed since, or is gone.
        """
        if file_status(self.path) != self._status:
            raise InputError(f'{self.path} has changed since it was opened; start over with force once it is complete.')

    def _note_size(self, index: int, frame, before: tuple[int, int]) -> None:
        """A frame is of another size than those before it: a note, or an error where all must have one."""
        h, w = before
        when = '' if frame.time is None else f' (at {frame.time - float(self.origin):.3f} s)'
        change = f'{self.path}: frame {index}{when} is {frame.width}x{frame.height}, but those before it {w}x{h}'
        if not self.any_size:
            raise InputError(f'{change}; write a folder of PNGs, or cut the film there and upscale its parts apart.')
        self.notes.append(f'{change}; each part is upscaled at its size.')

    def _decode(self, container, num_packet: int | None = None) -> Iterator[av.VideoFrame]:
        """The decoder's frames up to the first damaged one; damage at the start is skipped up to a key frame.

        With `num_packet` those of the first packets only.
        """
        stream = container.streams[self._stream_index]
        stream.thread_type = 'SLICE'  # frame threads report an error late, and lose whole frames with it
        stream.codec_context.options = {'err_detect': 'explode'}
        packets = enumerate(itertools.islice(container.demux(stream), num_packet))
        number, num_frame = -1, 0
        while True:
            packet = None
            try:
                number, packet = next(packets, (number, None))
                if packet is None:
                    yield from _flush(stream)
                    return
                frames = stream.decode(packet)
            except (av.error.FFmpegError, OSError) as error:
                before = list(self._decode_before(packet, number + (packet is None), num_frame))
                if packet is not None and num_frame == 0 and not before:
                    self._note_start()
                    stream.codec_context.flush_buffers()
                    packets = itertools.dropwhile(lambda pair: not pair[1].is_keyframe, packets)
                    continue
                self._failure = _reason(error)
                yield from before
                return
            for frame in frames:
                if not frame.is_corrupt:
                    num_frame += 1
                    yield frame
                elif num_frame:
                    self._failure = 'a frame is incomplete'
                    return
                else:
                    self._note_start()

    def _decode_before(self, damaged: av.Packet | None, num_packet: int, num_frame: int) -> Iterator[av.VideoFrame]:
        """The frames after the first `num_frame` that are shown before what a damaged packet, after others, holds.

        The decoder loses one that it holds when it meets the packet; so the others are decoded once more without it.
        """
        with self._open() as container, contextlib.closing(self._decode(container, num_packet)) as frames:
            for frame in itertools.islice(frames, num_frame, None):
                if _is_before(frame, damaged):
                    yield frame

    def _note_start(self) -> None:
        note = f'{self.path} is damaged at its start, or starts with no key frame; it is left out up to a whole frame.'
        if note not in self.notes:
            self.notes.append(note)

    def _note_time(self, index: int, frame) -> None:
        """Keep when a frame is shown. Times that are missing or do not increase are set after the one before."""
        if index < len(self.times):
            return
        step = max(round(1 / self.rate / self.time_base), 1)
        time = frame.pts if frame.pts is not None else frame.dts
        if time is None:
            time = self.times[-1] + step if self.times else 0
        else:
            time -= round(self.origin / self.time_base)
        if self.times and time <= self.times[-1]:
            time = self.times[-1] + 1
        self.times.append(time)
        self.last_duration = frame.duration or step

    def _end_last_frame(self) -> None:
        """Let the last frame end with the stream: its own duration is of little worth where frames are reordered."""
        if self._end is not None and self.times:
            left = round(self._end / self.time_base) - self.times[-1]
            if 0 < left < 1 / self.time_base:
                self.last_duration = left

    def _upright(self, rgb: Tensor) -> Tensor:
        """Apply the display matrix: (x, y) of the coded frame is shown at (a x + c y, b x + d y)."""
        a, b, c, d = self._matrix
        if a == 0:
            rgb = rgb.transpose(1, 2)
        flipped = [dim for dim, sign in ((1, b + d), (2, a + c)) if sign < 0]
        return rgb.flip(flipped).contiguous() if flipped or a == 0 else rgb

    def _cut_off(self) -> str | None:
        """Whether the file ends before the end that it declares, which a demuxer may take for a regular end."""
        if self._tagged_end is None or not self.times:
            return None
        end = (self.times[-1] + 2.5 * self.last_duration) * self.time_base
        return None if end >= self._tagged_end else f'it should go on to {float(self._tagged_end):.3f} s'

    def time_after(self, index: int) -> int | None:
        """When the frame after the `index`-th is shown or the last one ends; None where that has not been read."""
        if index + 1 < len(self.times):
            return self.times[index + 1]
        if index + 1 == len(self.times):
            return self.times[index] + self.last_duration
        return None

    def identity(self) -> dict:
        size, changed = self._status
        return {'film': self.path.name, 'bytes': size, 'modified': changed, 'chroma': self.chroma}


def _flush(stream) -> list:
    try:
        return stream.codec_context.decode(None)
    except av.error.FFmpegError:
        return []


def _is_before(frame, packet) -> bool:
    """Whether a frame is shown before what a damaged packet holds."""
    if frame.is_corrupt:
        return False
    return packet is None or None in (frame.pts, packet.pts) or frame.pts < packet.pts


def _is_cover(stream) -> bool:
    return stream.disposition.value & 0x400 != 0  # AV_DISPOSITION_ATTACHED_PIC


def _display_matrix(frame) -> tuple[int, int, int, int]:
    """Signs of (a, b, c, d) of the frame's display matrix."""
    data = frame.side_data.get('DISPLAYMATRIX')
    if data is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5] / 2**16
    return tuple(0 if abs(value) < 1e-3 else int(np.sign(value)) for value in (a, b, c, d))


def _tagged_end(stream) -> Fraction | None:
    """Seconds at which the stream ends by Matroska's DURATION tag."""
    tag = re.match(r'(\d+):(\d+):(\d+(?:\.\d+)?)', stream.metadata.get('DURATION', ''))
    if tag:
        hours, minutes, seconds = tag.groups()
        return (int(hours) * 60 + int(minutes)) * 60 + Fraction(seconds)
    return None


def _count_frames(container, stream, rate: Fraction) -> int | None:
    if stream.frames:
        return stream.frames
    if stream.duration:
        return round(stream.duration * stream.time_base * rate)
    end = _tagged_end(stream)
    if end is None and container.duration:
        end = Fraction(container.duration, av.time_base)
    return None if end is None else round(end * rate)


def _reason(error: BaseException) -> str:
    return getattr(error, 'strerror', None) or one_line(error)
