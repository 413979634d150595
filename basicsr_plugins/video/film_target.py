"""A video file as a target: written in segments, joined without encoding again, with the source's other streams.

Each segment is a file of its own, begun by a key frame and a fresh encoder, so that what is encoded does not depend on
where a run was interrupted. The number of encoder threads is fixed too, for x264's result depends on it.

Shape shorthand: h and w height and width of a frame, s the scale.
"""

from __future__ import annotations

import bisect
import contextlib
import heapq
import io
import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import av
from torch import Tensor

from basicsr_plugins.errors import InputError, one_line
from basicsr_plugins.video.colour import BT709, FULL, LIMITED, Colour, choose_format, rgb_to_frame, yuv_format
from basicsr_plugins.video.media import COMPARED, Target, write_json
from basicsr_plugins.video.film_source import open_container

CONTAINERS = {'.mp4': 'mp4', '.m4v': 'mp4', '.mov': 'mov', '.mkv': 'matroska'}
ENCODERS = {'h264': 'libx264', 'hevc': 'libx265'}
ENCODER_OPTIONS = {
    'h264': {'threads': '8'},
    'hevc': {'x265-params': 'frame-threads=2:log-level=error'},
}
COPIED_TYPES = ('audio', 'subtitle', 'attachment')
MAX_REORDER = 16  # frames that x264 and x265 can hold back
HVC1 = 'hvc1'  # the tag of HEVC that Apple's players ask for


class VideoTarget(Target):
    """A video file, .mp4, .mov or .mkv; see `Target`.

    Times, pixel shape, colour tags and, as packets, the sound and subtitle streams are the source's. A matrix or range
    that the source does not tag is tagged as it was read, for players guess by the size, and the size is another one.

    Matroska (.mkv) rounds times to 1 ms and has none below zero: where the sound starts ahead of zero, as AAC in an MP4
    does by 21 to 23 ms, all streams come later by that much.
    """

    def _state_of_settings(self) -> dict:
        settings = asdict(self.settings)
        del settings['bit_depth']
        return {**settings, 'frame size': self.size, 'libavcodec': av.library_versions['libavcodec']}

    # ---------------------------------------------------------------------------------------------- before writing

    def _check_output(self) -> None:
        suffix = self.path.suffix.lower()
        if suffix not in CONTAINERS:
            raise InputError(f'{self.path}: {suffix} is not written; use {", ".join(CONTAINERS)} or a folder of PNGs.')
        self._container = CONTAINERS[suffix]
        encoder = self._find_encoder()
        self._describe_source()
        formats = [fmt.name for fmt in encoder.video_formats or ()]
        if self.settings.pix_fmt is None:
            source_format = getattr(self.source, 'format', None)
            depth = min(self.source.bit_depth, 12 if source_format else 10)
            self.format = choose_format(self.settings.codec, formats, source_format, depth)
        else:
            self.format = yuv_format(self.settings.pix_fmt)
            if self.format.name not in formats:
                raise InputError(
                    f'pix_fmt: {encoder.name} does not take {self.format.name}; it takes {", ".join(formats)}.'
                )
        self._check_size()
        with av.open(io.BytesIO(), 'w', format=self._container) as output:
            self._add_encoder(output)
            try:
                output.start_encoding()
            except av.error.FFmpegError as error:
                h, w = self.size
                raise InputError(
                    f'{self.path}: {encoder.name} refuses frames of {w}x{h} as {self.format.name} ({one_line(error)}).'
                ) from error
        self._copied = self._find_copied()

    def _find_encoder(self) -> av.Codec:
        codec = self.settings.codec
        if codec not in ENCODERS:
            raise InputError(f'codec is {codec!r}, but must be one of {", ".join(ENCODERS)}.')
        try:
            return av.Codec(ENCODERS[codec], 'w')
        except ValueError:
            others = ', '.join(name for name in ENCODERS if ENCODERS[name] in av.codecs_available)
            raise InputError(
                f'codec: this PyAV has no encoder {ENCODERS[codec]} for {codec}; '
                f'install PyAV from PyPI (pip install av){" or use " + others if others else ""}.'
            ) from None

    def _describe_source(self) -> None:
        if self.source.is_video:
            self._time_base, self._rate = self.source.time_base, self.source.rate
            self._aspect = self.source.aspect
            self.colour = replace(self.source.colour, centred=False)
            if self.source.format.rgb:
                self.colour = replace(self.colour, full_range=False)
        else:
            self._rate = self.settings.frame_rate()
            self._time_base, self._aspect = 1 / self._rate, None
            self.colour = Colour(BT709, full_range=False, primaries=BT709, transfer=BT709)

    def _check_size(self) -> None:
        h, w = self.size
        if (self.format.log2_w and w % 2) or (self.format.log2_h and h % 2):
            raise InputError(
                f'{self.path}: frames of {w}x{h} cannot be {self.format.name}, which takes even sizes only; '
                'set pix_fmt to yuv444p, or write a folder of PNGs.'
            )

    def _find_copied(self) -> list[int]:
        """Indices of the source's streams that the container takes; the others are refused (sound) or noted."""
        copied = []
        if not self.source.is_video:
            return copied
        with open_container(self.source.path) as container:
            for stream in container.streams:
                if stream.type not in COPIED_TYPES:
                    if stream.type != 'video':
                        self.notes.append(f'stream {stream.index} of {self.source.name} ({stream.type}) is not copied.')
                    continue
                if self._takes(stream):
                    copied.append(stream.index)
                    continue
                message = (
                    f'{self.path.suffix} does not take stream {stream.index} of {self.source.name} ({_kind(stream)})'
                )
                if stream.type == 'audio':
                    raise InputError(f'{self.path}: {message}; write an .mkv file, which takes nearly everything.')
                self.notes.append(f'{message}; it is not copied, an .mkv file would take it.')
        return copied

    def _takes(self, stream) -> bool:
        """Whether the container can hold a stream: its header is written, into memory."""
        try:
            output = av.open(io.BytesIO(), 'w', format=self._container)
            self._add_encoder(output)
            _add_copy(output, stream)
            output.start_encoding()
            output.close()
        except (av.error.FFmpegError, ValueError, NotImplementedError):
            return False
        return True

    # ----------------------------------------------------------------------------------------------------- writing

    def _add_encoder(self, output):
        """Add the video stream to a container, its encoder set."""
        stream = output.add_stream(ENCODERS[self.settings.codec], rate=self._rate)
        h, w = self.size
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = w, h, self.format.name
        context.time_base = stream.time_base = self._time_base
        context.colorspace = self.colour.matrix
        context.color_range = FULL if self.colour.full_range else LIMITED
        context.color_primaries, context.color_trc = self.colour.primaries, self.colour.transfer
        if self._aspect:
            context.sample_aspect_ratio = self._aspect
        context.options = {
            'crf': f'{self.settings.crf:g}',
            'preset': self.settings.preset,
            **ENCODER_OPTIONS[self.settings.codec],
        }
        return stream

    def _find_done(self) -> int:
        self._segments: list[Path] = []
        self._segment: _Segment | None = None
        done = 0
        while self._segment_file(len(self._segments)).with_suffix('.json').is_file():
            file = self._segment_file(len(self._segments))
            if not file.is_file():
                raise InputError(f'{file} is missing; start over with --force.')
            self._segments.append(file)
            done += len(_read_times(file))
        kept = {'state.json', COMPARED, *(name for file in self._segments for name in (file.name, file.stem + '.json'))}
        for file in self.parts.iterdir():
            if file.name not in kept:
                file.unlink()
        return done

    def _segment_file(self, index: int) -> Path:
        return self.parts / f'seg_{index:05d}.mkv'

    def _time(self, index: int) -> int:
        if not self.source.is_video:
            return index
        if index >= len(self.source.times):
            raise IndexError(
                f'frame {index} is written, but only {len(self.source.times)} of {self.source.name} were read'
            )
        return self.source.times[index]

    def _write(self, index: int, frame: Tensor) -> None:
        time = self._time(index)
        picture = rgb_to_frame(frame, self.colour, self.format)
        picture.pts, picture.time_base = time, self._time_base
        if self._segment is None:
            self._segment = _Segment(self._segment_file(len(self._segments)), self._add_encoder)
        with self._disk_errors(self._segment.file):
            self._segment.write(picture)
            if self._segment.num_frame == self.settings.segment_frames:
                self._close_segment()

    def _close_segment(self) -> None:
        self._segment.close()
        self._segments.append(self._segment.file)
        self._segment = None

    def _discard(self) -> None:
        segment, self._segment = getattr(self, '_segment', None), None
        if segment is not None:
            segment.abort()

    # ----------------------------------------------------------------------------------------------------- joining

    def _finish(self) -> Path:
        if self._segment is not None:
            with self._disk_errors(self._segment.file):
                self._close_segment()
        joined = self.parts / f'joined{self.path.suffix}'
        with contextlib.suppress(FileNotFoundError):
            joined.unlink()
        try:
            self._join(joined)
        except av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise InputError(f'{self.path} cannot be put together: {one_line(error)}.') from error
        return joined

    def _join(self, joined: Path) -> None:
        decoded_order = array('q', (time for file in self._segments for time in _read_times(file)))
        timeline = _Timeline(decoded_order, self._end_of(max(decoded_order)))
        options = {'movflags': '+faststart'} if self._container in ('mp4', 'mov') else {}
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(av.open(str(self._segments[0])))
            output = stack.enter_context(
                av.open(str(joined), 'w', format=self._container, container_options=self._movie_clock(options))
            )
            video = output.add_stream_from_template(first.streams.video[0], opaque=True)
            video.time_base = self._time_base
            if self.settings.codec == 'hevc' and self._container in ('mp4', 'mov'):
                video.codec_context.codec_tag = HVC1
            packets = self._video_packets(video, timeline)
            if self.source.is_video:
                container = stack.enter_context(open_container(self.source.path))
                _copy_metadata(container, output)
                packets = heapq.merge(
                    packets, self._copied_packets(container, output, timeline), key=lambda pair: pair[0]
                )
            for _, packet in packets:
                output.mux_one(packet)
        _sync(joined)

    def _movie_clock(self, options: dict) -> dict:
        """An MP4's edit lists, which hold the start of each stream, count in the movie's own unit: a fine one."""
        if self._container == 'matroska':
            return options
        return {**options, 'movie_timescale': str(_fine_clock(self._time_base))}

    def _end_of(self, last: int) -> int:
        """When the last frame, shown at `last`, ends."""
        end = None
        if self.source.is_video:
            end = self.source.time_after(self.num_written - 1)
        return end if end is not None else last + max(round(1 / self._rate / self._time_base), 1)

    def _is_cut(self) -> bool:
        """Whether fewer frames are written than the file should have; then the sound ends with the last one."""
        source = self.source
        return bool(source.damage) or not source.exhausted or self.num_written < len(source.times)

    def _video_packets(self, stream, timeline: _Timeline) -> Iterator[tuple[float, av.Packet]]:
        index = 0
        for file in self._segments:
            times = _read_times(file)
            with av.open(str(file)) as container:
                packets = [packet for packet in container.demux(video=0) if packet.size]
                if len(packets) != len(times):
                    raise InputError(f'{file} is damaged; start over with --force.')
                if container.streams.video[0].codec_context.extradata != stream.codec_context.extradata:
                    raise InputError(f'{file} was encoded otherwise than the segments before; start over with --force.')
            for packet, time in zip(packets, times):
                packet.stream = stream
                packet.time_base = self._time_base
                packet.pts, packet.dts, packet.duration = time, timeline.dts(index), timeline.duration(time)
                yield float(packet.dts * self._time_base), packet
                index += 1

    def _copied_packets(self, container, output, timeline: _Timeline) -> Iterator[tuple[float, av.Packet]]:
        streams = {index: _add_copy(output, container.streams[index]) for index in self._copied}
        sources = [container.streams[index] for index in self._copied if container.streams[index].type != 'attachment']
        end = timeline.end * self._time_base if self._is_cut() else None
        return self._demux_copied(container, sources, streams, end) if sources else iter(())

    def _demux_copied(self, container, sources, streams, end: Fraction | None) -> Iterator[tuple[float, av.Packet]]:
        packets = container.demux(sources)
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError):
                return  # the damage that ended the frames
            if packet is None:
                return
            if packet.size == 0 and packet.dts is None:
                continue  # demux's mark of a stream's end
            shift = round(self.source.origin / packet.time_base)
            packet.pts, packet.dts = (None if time is None else time - shift for time in (packet.pts, packet.dts))
            time = packet.dts if packet.dts is not None else packet.pts
            seconds = Fraction(0) if time is None else time * packet.time_base
            if end is not None and seconds >= end:
                continue
            packet.stream = streams[packet.stream_index]
            yield float(seconds), packet


class _Timeline:
    """Decoding times and durations of all packets, from when their frames are shown.

    With `delay` the most places that a frame is decoded ahead of its turn, the i-th packet is decoded when the frame
    `delay` places earlier in the order of showing is shown: the times increase, and none is after its frame's.
    """

    def __init__(self, decoded_order: array, end: int):
        self.shown = array('q', sorted(decoded_order))
        self.end = end
        self.delay = max(index - bisect.bisect_left(self.shown, time) for index, time in enumerate(decoded_order))

    def dts(self, index: int) -> int:
        if index >= self.delay:
            return self.shown[index - self.delay]
        step = self.duration(self.shown[0])
        return self.shown[0] - (self.delay - index) * step

    def duration(self, time: int) -> int:
        place = bisect.bisect_left(self.shown, time)
        after = self.shown[place + 1] if place + 1 < len(self.shown) else self.end
        return after - time


class _Segment:
    """A closed piece of the video, as Matroska; beside it the times of its packets, which Matroska rounds to 1 ms."""

    def __init__(self, file: Path, add_encoder):
        self.file = file
        self.num_frame = 0
        self._part = file.with_name(file.name + '.part')
        self._shown: list[int] = []  # times of the frames, as they came
        self._times: list[int] = []  # and of the packets
        self._output = av.open(str(self._part), 'w', format='matroska')
        self._stream = add_encoder(self._output)

    def write(self, frame) -> None:
        self.num_frame += 1
        self._shown.append(frame.pts)
        self._mux(self._stream.encode(frame))

    def _mux(self, packets) -> None:
        for packet in packets:
            packet.dts = self._decoding_time(len(self._times))
            self._times.append(packet.pts)
            self._output.mux_one(packet)

    def _decoding_time(self, index: int) -> int:
        """x265 leaves these times uninitialized in a sequence shorter than its delay; Matroska does not store them."""
        if index >= MAX_REORDER:
            return self._shown[index - MAX_REORDER]
        return self._shown[0] - (MAX_REORDER - index)

    def close(self) -> None:
        self._mux(self._stream.encode(None))
        self._output.close()
        _sync(self._part)
        os.replace(self._part, self.file)
        write_json(self.file.with_suffix('.json'), self._times)

    def abort(self) -> None:
        with contextlib.suppress(Exception):
            self._output.close()
        with contextlib.suppress(OSError):
            self._part.unlink()


def _read_times(file: Path) -> list[int]:
    try:
        return json.loads(file.with_suffix('.json').read_text(encoding='utf-8'))
    except ValueError:
        raise InputError(f'{file.with_suffix(".json")} is damaged; start over with --force.') from None


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fine_clock(time_base: Fraction) -> int:
    """A number of units per second, of about a million, in which times of `time_base` are whole."""
    return time_base.denominator * max(1_000_000 // time_base.denominator, 1)


def _add_copy(output, stream):
    copy = output.add_stream_from_template(stream, opaque=True)
    for key, value in stream.metadata.items():
        if key in ('language', 'title', 'handler_name', 'filename', 'mimetype'):
            copy.metadata[key] = _printable(value)
    with contextlib.suppress(AttributeError):
        copy.disposition = stream.disposition.value
    return copy


def _printable(text: str) -> str:
    """Without the surrogates that stand for bytes which are not UTF-8."""
    return text.encode('utf-8', 'replace').decode('utf-8')


def _copy_metadata(container, output) -> None:
    kept = ('title', 'artist', 'album', 'date', 'comment', 'description', 'copyright', 'creation_time', 'genre')
    for key, value in container.metadata.items():
        if key.lower() in kept:
            output.metadata[key] = _printable(value)
    if hasattr(container, 'chapters') and hasattr(output, 'set_chapters'):
        chapters = container.chapters()
        if chapters:
            output.set_chapters(chapters)


def _kind(stream) -> str:
    context = stream.codec_context
    return stream.type if context is None else f'{stream.type}, {context.name}'
