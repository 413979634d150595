"""Join the segments of a video without encoding again, and copy the source's other streams beside them."""

from __future__ import annotations

import bisect
import contextlib
import heapq
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from basicsr_plugins.errors import InputError
from basicsr_plugins.video.film_segment import read_times, sync
from basicsr_plugins.video.film_source import open_container
from basicsr_plugins.video.media import Source

HVC1 = 'hvc1'  # the tag of HEVC that Apple's players ask for


@dataclass
class Joining:
    """What a video is made of.

    Args:
        source: Where its frames and other streams come from.
        segments: Its pieces, in order.
        container: `mp4`, `mov` or `matroska`.
        codec: Of `film_target.ENCODERS`.
        time_base: Seconds of its unit of time.
        rate: Frames per second.
        num_written: Its frames.
        copied: Indices of the source's streams that it takes.
        time_scale: 2 where it has a frame between each two of the source's.
    """

    source: Source
    segments: list[Path]
    container: str
    codec: str
    time_base: Fraction
    rate: Fraction
    num_written: int
    copied: list[int]
    time_scale: int = 1

    def write(self, joined: Path) -> None:
        """Write the whole video, with all its streams."""
        decoded_order = array('q', (time for file in self.segments for time in read_times(file)))
        timeline = Timeline(decoded_order, self._end_of(max(decoded_order)))
        options = {'movflags': '+faststart'} if self.container in ('mp4', 'mov') else {}
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(av.open(str(self.segments[0])))
            output = stack.enter_context(
                av.open(str(joined), 'w', format=self.container, container_options=self._movie_clock(options))
            )
            video = output.add_stream_from_template(first.streams.video[0], opaque=True)
            video.time_base = self.time_base
            if self.codec.startswith('hevc') and self.container in ('mp4', 'mov'):
                video.codec_context.codec_tag = HVC1
            packets = self._video_packets(video, timeline)
            if self.source.is_video:
                container = stack.enter_context(open_container(self.source.path))
                self.source.check_unchanged()
                _copy_metadata(container, output)
                packets = heapq.merge(
                    packets, self._copied_packets(container, output, timeline), key=lambda pair: pair[0]
                )
            for _, packet in packets:
                output.mux_one(packet)
        sync(joined)

    def _movie_clock(self, options: dict) -> dict:
        """An MP4's edit lists, which hold the start of each stream, count in the movie's own unit: a fine one."""
        if self.container == 'matroska':
            return options
        return {**options, 'movie_timescale': str(_fine_clock(self.time_base))}

    def _end_of(self, last: int) -> int:
        """When the last frame, shown at `last`, ends."""
        end = None
        if self.source.is_video:
            end = self.source.time_after((self.num_written - 1) // self.time_scale)
        return end * self.time_scale if end is not None else last + max(round(1 / self.rate / self.time_base), 1)

    def _is_cut(self) -> bool:
        """Whether fewer frames are written than the file should have; then the sound ends with the last one."""
        source = self.source
        wanted = self.time_scale * (len(source.times) - 1) + 1
        return bool(source.damage) or not source.exhausted or self.num_written < wanted

    def _video_packets(self, stream, timeline: Timeline) -> Iterator[tuple[float, av.Packet]]:
        index = 0
        for file in self.segments:
            times = read_times(file)
            with av.open(str(file)) as container:
                packets = [packet for packet in container.demux(video=0) if packet.size]
                if len(packets) != len(times):
                    raise InputError(f'{file} is damaged; start over with force.')
                if container.streams.video[0].codec_context.extradata != stream.codec_context.extradata:
                    raise InputError(f'{file} was encoded otherwise than the segments before; start over with force.')
            for packet, time in zip(packets, times):
                packet.stream = stream
                packet.time_base = self.time_base
                packet.pts, packet.dts, packet.duration = time, timeline.dts(index), timeline.duration(time)
                yield float(packet.dts * self.time_base), packet
                index += 1

    def _copied_packets(self, container, output, timeline: Timeline) -> Iterator[tuple[float, av.Packet]]:
        streams = {index: add_copy(output, container.streams[index]) for index in self.copied}
        sources = [container.streams[index] for index in self.copied if container.streams[index].type != 'attachment']
        end = timeline.end * self.time_base if self._is_cut() else None
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


class Timeline:
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


def _fine_clock(time_base: Fraction) -> int:
    """A number of units per second, of about a million, in which times of `time_base` are whole."""
    return time_base.denominator * max(1_000_000 // time_base.denominator, 1)


def add_copy(output: av.container.OutputContainer, stream: av.stream.Stream) -> av.stream.Stream:
    """Add a stream like another to a container, with what describes it."""
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
