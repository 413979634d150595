"""A video file as a target: written in segments, joined without encoding again, with the source's other streams.

Each segment is a file of its own, begun by a key frame and a fresh encoder, so that what is encoded does not depend on
where a run was interrupted. The number of encoder threads is fixed too, for x264's result depends on it.

Shape shorthand: h and w height and width of a frame, s the scale.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

import av
from torch import Tensor

from basicsr_plugins.errors import InputError, one_line
from basicsr_plugins.scales import is_same_shape, per_axis, scaled_size
from basicsr_plugins.video.colour import (
    BT709,
    FULL,
    LIMITED,
    Colour,
    PlanarFormat,
    choose_format,
    rgb_to_frame,
    yuv_format,
)
from basicsr_plugins.video.film_join import Joining, add_copy
from basicsr_plugins.video.film_segment import Segment, is_whole, read_times
from basicsr_plugins.video.film_source import open_container
from basicsr_plugins.video.media import PRESETS, Source, Target, VideoSettings
from basicsr_plugins.video.work_folder import OWN

CONTAINERS = {'.mp4': 'mp4', '.m4v': 'mp4', '.mov': 'mov', '.mkv': 'matroska'}
ENCODERS = {'h264': 'libx264', 'hevc': 'libx265', 'h264_nvenc': 'h264_nvenc', 'hevc_nvenc': 'hevc_nvenc'}
ENCODER_OPTIONS = {
    'h264': {'threads': '8'},
    'hevc': {'x265-params': 'frame-threads=2:log-level=error'},
}
NVENC_PRESETS = dict(zip(PRESETS, ('p1', 'p1', 'p2', 'p3', 'p3', 'p4', 'p5', 'p6', 'p7', 'p7')))
LARGEST_TERM = 1000  # of the fraction that says the shape of a pixel
COPIED_TYPES = ('audio', 'subtitle', 'attachment')


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
        encoder = _find_encoder(self.settings.codec)
        self._describe_source()
        self.format = _output_format(encoder, self.source, self.settings)
        self._check_size()
        with av.open(io.BytesIO(), 'w', format=self._container) as output:
            self._add_encoder(output)
            try:
                output.start_encoding()
            except av.error.FFmpegError as error:
                h, w = self.size
                needs = '; it needs an NVIDIA GPU and its driver' if _is_nvenc(self.settings.codec) else ''
                raise InputError(
                    f'{self.path}: {encoder.name} refuses frames of {w}x{h} as {self.format.name} '
                    f'({one_line(error)}){needs}.'
                ) from error
        self._copied = self._find_copied()

    @staticmethod
    def size_multiples(source: Source, settings: VideoSettings) -> tuple[int, int]:
        """Of what height and width of the frames must be multiples."""
        chosen = _output_format(_find_encoder(settings.codec), source, settings)
        return 1 << chosen.log2_h, 1 << chosen.log2_w

    def _describe_source(self) -> None:
        if self.source.is_video:
            self._time_base = self.source.time_base / self.time_scale
            self._rate = self.source.rate * self.time_scale
            self._aspect = self._pixel_shape()
            self.colour = replace(self.source.colour, centred=False)
            if self.source.format.rgb:
                self.colour = replace(self.colour, full_range=False)
        else:
            self._rate = self.settings.frame_rate() * self.time_scale
            self._time_base, self._aspect = 1 / self._rate, None
            self.colour = Colour(BT709, full_range=False, primaries=BT709, transfer=BT709)

    def _pixel_shape(self) -> Fraction | None:
        """Of the output, by which the picture is shown in its own shape, however it is enlarged; None: not said."""
        (h, w), size = self.source.size, scaled_size(self.source.size, self.scale)
        if is_same_shape((h, w), size):
            return self.source.aspect
        if is_same_shape((h, w * (self.source.aspect or 1)), size):  # but for rounding, pixels are square
            return Fraction(1)
        vertical, horizontal = per_axis(self.scale)
        return ((self.source.aspect or 1) * vertical / horizontal).limit_denominator(LARGEST_TERM)

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
            add_copy(output, stream)
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
        context.options = _encoder_options(self.settings)
        return stream

    def _find_done(self) -> int:
        self._segments: list[Path] = []
        self._segment: Segment | None = None
        done = 0
        while self._segment_file(len(self._segments)).with_suffix('.json').is_file():
            file = self._segment_file(len(self._segments))
            if not is_whole(file):
                self.notes.append(f'{file} is damaged; it is made again, and what follows it.')
                break
            self._segments.append(file)
            done += len(read_times(file))
        kept = {*OWN, *(name for file in self._segments for name in (file.name, file.stem + '.json'))}
        for file in self.parts.iterdir():
            if file.name not in kept and not file.is_dir():  # folders are other processes' parts
                file.unlink()
        return done

    @property
    def _joined(self) -> Path:
        return self.parts / f'joined{self.path.suffix}'

    def _size_of_output(self) -> int:
        return sum(file.stat().st_size for file in self._segments)

    def _segment_file(self, index: int) -> Path:
        return self.parts / f'seg_{index:05d}.mkv'

    def _time(self, index: int) -> int:
        if not self.source.is_video:
            return index
        number, between = divmod(index, self.time_scale)
        times = self.source.times[number : number + 2]
        if len(times) <= (between > 0):
            raise InputError(f'frame {index} is written, but {self.source.name} has only {len(self.source.times)}.')
        return self.time_scale * times[0] + (between and between * (times[1] - times[0]))

    def _write(self, index: int, frame: Tensor) -> None:
        time = self._time(index)
        picture = rgb_to_frame(frame, self.colour, self.format)
        picture.pts, picture.time_base = time, self._time_base
        if self._segment is None:
            self._segment = Segment(self._segment_file(len(self._segments)), self._add_encoder)
        with self._disk_errors(self._segment.file):
            self._segment.write(picture)
            if self._segment.num_frame == self.settings.segment_frames:
                self._close_segment()

    def _close_segment(self) -> None:
        self._segment.close()
        self._segments.append(self._segment.file)
        self.num_kept += self._segment.num_frame
        self._segment = None

    def _complete(self) -> None:
        if self._segment is not None:
            self._close_segment()

    def _take(self, folder: Path, first: int) -> int:
        files = sorted(folder.glob('seg_*.mkv'))
        self._segments += files
        return sum(len(read_times(file)) for file in files if is_whole(file))

    def _discard(self) -> None:
        segment, self._segment = getattr(self, '_segment', None), None
        if segment is not None:
            segment.abort()
        with contextlib.suppress(OSError):
            self._joined.unlink()

    # ----------------------------------------------------------------------------------------------------- joining

    def _finish(self) -> Path:
        if self._segment is not None:
            with self._disk_errors(self._segment.file):
                self._complete()
        joined = self._joined
        joined.unlink(missing_ok=True)
        try:
            Joining(
                self.source,
                self._segments,
                self._container,
                self.settings.codec,
                self._time_base,
                self._rate,
                self.num_written,
                self._copied,
                self.time_scale,
            ).write(joined)
        except av.error.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise InputError(f'{self.path} cannot be put together: {one_line(error)}.') from error
        return joined


def _find_encoder(codec: str) -> av.Codec:
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


def _is_nvenc(codec: str) -> bool:
    return codec.endswith('_nvenc')


def _encoder_options(settings: VideoSettings) -> dict[str, str]:
    if _is_nvenc(settings.codec):  # constant quality by `cq`, whose 0 leaves the choice to the encoder
        return {'rc': 'vbr', 'cq': f'{max(settings.crf, 1):g}', 'b': '0', 'preset': NVENC_PRESETS[settings.preset]}
    return {'crf': f'{settings.crf:g}', 'preset': settings.preset, **ENCODER_OPTIONS[settings.codec]}


def _output_format(encoder: av.Codec, source: Source, settings: VideoSettings) -> PlanarFormat:
    """What is asked for, or what keeps the source's chroma and depth."""
    formats = [fmt.name for fmt in encoder.video_formats or ()]
    if settings.pix_fmt is None:
        if source.bit_depth > 8 and _is_nvenc(settings.codec):
            raise InputError(
                f'codec: {settings.codec} writes 8 bits here, but {source.name} has {source.bit_depth}; take '
                f'{settings.codec.split("_")[0]}, or set pix_fmt to yuv420p.'
            )
        source_format = getattr(source, 'format', None)
        return choose_format(settings.codec, formats, source_format, min(source.bit_depth, 12 if source_format else 10))
    chosen = yuv_format(settings.pix_fmt)
    if chosen.name not in formats:
        raise InputError(f'pix_fmt: {encoder.name} does not take {chosen.name}; it takes {", ".join(formats)}.')
    return chosen


def _kind(stream) -> str:
    context = stream.codec_context
    return stream.type if context is None else f'{stream.type}, {context.name}'
