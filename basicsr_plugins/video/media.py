"""What reading and writing of videos and of images have in common.

Shape shorthand: h and w height and width of a frame, s the scale.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from basicsr_plugins.errors import InputError
from basicsr_plugins.files import disk_error
from basicsr_plugins.scales import Scale, per_axis, scaled_size
from basicsr_plugins.video.work_folder import WorkFolder

LARGEST_DENOMINATOR = 100_000  # of a frame rate: its numerator too stays below the 31 bits of a container's clock
PRESETS = ['ultrafast', 'superfast', 'veryfast', 'faster', 'fast', 'medium', 'slow', 'slower', 'veryslow', 'placebo']


@dataclass(frozen=True)
class VideoSettings:
    """How an output is written.

    Args:
        codec: `h264` (plays everywhere) or `hevc` (smaller files; .mp4, .mkv, .mov), by x264 and x265 on the CPU;
            `h264_nvenc` and `hevc_nvenc` by an NVIDIA GPU, 8 bits, faster, and larger for the same quality.
        crf: Constant quality, lower is better: at 18 the loss is not seen, 0 to 2 is near lossless.
        preset: The encoder's speed, `ultrafast` to `veryslow`; slower makes smaller files of the same quality.
        pix_fmt: The encoder's pixel format, as yuv420p or yuv444p10le; None: the source's chroma and depth, where the
            encoder has them, and yuv420p for images (yuv420p10le for those of 16 bits).
        segment_frames: A video is written in segments of so many frames, each with a key frame first; an interrupted
            run loses less than one of them. Shorter ones lose less and make larger files.
        bit_depth: Of PNGs, 8 or 16; None: 16 where the source has more than 8.
        fps: Frames per second of images that a video is made from, as 25, 29.97 or '30000/1001', from 0.001 to 1000.
    """

    codec: str = 'h264'
    crf: float = 18
    preset: str = 'medium'
    pix_fmt: str | None = None
    segment_frames: int = 50
    bit_depth: int | None = None
    fps: float | str = 25

    def __post_init__(self):
        if self.segment_frames < 1:
            raise InputError(f'segment_frames is {self.segment_frames}, but must be 1 or more.')
        if self.bit_depth not in (None, 8, 16):
            raise InputError(f'bit_depth is {self.bit_depth}, but a PNG has 8 or 16.')
        if not 0 <= self.crf <= 51:
            raise InputError(f'crf is {self.crf}, but must be from 0 (best) to 51.')
        if self.preset not in PRESETS:
            raise InputError(f'preset is {self.preset!r}, but must be one of {", ".join(PRESETS)}.')
        self.frame_rate()

    def frame_rate(self) -> Fraction:
        """`fps` as the nearest fraction that containers hold: 24000/1001 of 23.976023976023978.

        Raises:
            InputError: If it is no number from 0.001 to 1000.
        """
        try:
            if re.search(r'[eE][-+]?[0-9_]{3}', str(self.fps)):  # which would take for ever
                raise ValueError
            rate = Fraction(str(self.fps)).limit_denominator(LARGEST_DENOMINATOR)
        except (ValueError, ZeroDivisionError):
            rate = Fraction(0)
        if not Fraction(1, 1000) <= rate <= 1000:
            raise InputError(f'fps is {self.fps!r}, but must be a number from 0.001 to 1000, as 25 or 30000/1001.')
        return rate


def file_status(file: Path) -> tuple[int, int]:
    """Size and time of change of a file, which tell it from what replaces it.

    Raises:
        InputError: If it is no file, or is not there.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise InputError(f'{file} cannot be read: {error.strerror}.') from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f'{file} cannot be read: it is no file.')
    return status.st_size, status.st_mtime_ns


class Source:
    """Frames in order. Iterating yields (3, h, w) float32 tensors, RGB in [0, 1]; iterating again starts anew.

    Attributes:
        name: Its path, for messages.
        size: (h, w) of the frames as they are yielded.
        num_frame: How many there are; an estimate for a video, None where the file does not say.
        bit_depth: Bits of a sample.
        notes: Sentences about what a user should know (alpha dropped, interlaced...).
        damage: Where and why the frames ended early, one sentence, known after iterating; None while nothing is wrong.
        exhausted: Whether an iteration has come to the end.
        files: The files that it reads.
        is_video: Whether it has times, colour and other streams, as `VideoSource` has.
        any_size: Whether a video's frames may change their size on the way, which else is refused; `size` is then that
            of the first.
    """

    name: str
    size: tuple[int, int]
    num_frame: int | None = None
    bit_depth: int = 8
    files: list[Path]
    is_video: bool = False
    any_size: bool = False

    def __init__(self, name: str):
        self.name = name
        self.notes: list[str] = []
        self.damage: str | None = None
        self.exhausted = False

    def __iter__(self) -> Iterator[Tensor]:
        raise NotImplementedError

    def identity(self) -> dict:
        """What tells this source from another one, as JSON takes it; taken when it was opened."""
        raise NotImplementedError


class Target:
    """Where upscaled frames go; a context manager.

    Everything is written below `.NAME.parts` beside the output until `close` moves it to its name. Leaving the `with`
    block by an exception or Ctrl-C keeps what is finished there, and opening with `resume` goes on from it.

    Args:
        path: The output.
        source: Where the frames come from.
        scale: s, a factor, or two, vertical and horizontal; frames are (3, s * h, s * w), rounded.
        settings: How to write.
        resume: Go on from what an interrupted run left, if it left anything.
        force: Overwrite an output that is there, and without `resume` also what an interrupted run left.
        job: What made the frames (network, checkpoint, mode), as JSON takes it: a run is not resumed with another one.
        size: (h, w) of the frames, where it is not `scale` times the source's (two pictures side by side).
        time_scale: 2 where a frame is written between each two of the source's, at the time between theirs.

    Attributes:
        any_size: Whether it holds frames of several sizes.
        num_done: Frames that are there already; the first one to be written has this index.
        num_kept: Frames that an interruption now would leave.
        work: The folder that it is made in.
        notes: Sentences about what a user should know (streams that are not copied...).

    Raises:
        InputError: If the output is there, or parts of it and neither `resume` nor `force` is given, or they were made
            with other settings or from another source, or another process is writing it, or it cannot be written.
    """

    any_size = False

    def __init__(
        self,
        path: str | os.PathLike,
        source: Source,
        scale: Scale,
        settings: VideoSettings,
        resume: bool = False,
        force: bool = False,
        job: Mapping | None = None,
        size: tuple[int, int] | None = None,
        time_scale: int = 1,
    ):
        self.path = Path(os.path.abspath(path))  # resolves '..', and keeps links
        self.source = source
        self.scale, self.time_scale = scale, time_scale
        self.settings = settings
        self.force = force
        self.size = tuple(size) if size else scaled_size(source.size, scale)
        self.work = WorkFolder(self.path)
        self.parts = self.work.path
        self.notes: list[str] = []
        self.num_done = 0
        self.num_written = 0  # including those that were there
        self.closed = False
        self._check_free()
        self._check_output()
        factors = 'x'.join(dict.fromkeys(map(str, per_axis(scale))))  # exactly; one, where both are the same
        state = {'source': source.identity(), 'scale': factors, 'job': dict(job or {}), **self._state_of_settings()}
        with self._disk_errors(self.parts):
            self.work.open(state, resume, force)
            try:
                self.num_done = self.num_kept = self.num_written = self._find_done()
            except BaseException:
                self.work.release()
                raise

    # what kinds of targets differ in

    def _state_of_settings(self) -> dict:
        return asdict(self.settings)

    def _check_output(self) -> None:
        """Refuse what cannot be written, before anything is."""

    def _find_done(self) -> int:
        """Number of frames finished below `parts`; removes what is unfinished."""
        raise NotImplementedError

    def _write(self, index: int, frame: Tensor) -> None:
        raise NotImplementedError

    def _complete(self) -> None:
        """Complete what is unfinished, so that all that is written is kept."""

    def _take(self, folder: Path, first: int) -> int:
        """Take the finished frames of another target's folder, the first of them as `first`; their number."""
        raise NotImplementedError

    def _finish(self) -> Path:
        """Complete the output below `parts` and return its path there."""
        raise NotImplementedError

    def _discard(self) -> None:
        """Drop what is unfinished."""

    def _size_of_output(self) -> int | None:
        """Bytes that completing the output takes on the disk, beside what is there."""
        return None

    # what they share

    def write(self, frame: Tensor) -> None:
        """Write the next frame.

        Args:
            frame: (3, s * h, s * w), RGB, float, on any device; clamped to [0, 1].

        Raises:
            InputError: If it has another size than the source's frames allow, or the disk refuses it.
        """
        if self.closed:
            raise ValueError(f'{self.path} is closed.')
        if tuple(frame.shape) != (3, *self.size) and not self.source.any_size:
            h, w = self.size
            raise InputError(f'{self.path}: a frame has the shape {tuple(frame.shape)}, but (3, {h}, {w}) is expected.')
        self._write(self.num_written, frame)
        self.num_written += 1

    def close(self) -> None:
        """Complete the output and move it to its name. Does nothing the second time.

        Raises:
            InputError: If there are no frames, or the disk refuses the output.
        """
        if self.closed:
            return
        if self.num_written == 0:
            self.abort()
            raise InputError(f'{self.path}: nothing was written, for there were no frames.')
        self.closed = True
        try:
            with self._disk_errors(self.path, self._size_of_output):
                finished = self._finish()
                self._check_free()
                self._move(finished)
        except BaseException:
            self._discard()
            self.work.release()
            raise
        self.work.remove()

    def leave(self) -> None:
        """Stop, with all that is written complete below `parts`, for another target to take over.

        Raises:
            InputError: If the disk refuses it.
        """
        with self._disk_errors(self.parts):
            self._complete()
        self.closed = True
        self.work.release()

    def take_over(self, path: Path, first: int, number: int) -> None:
        """Take the frames that another target for `path` left: `number` of them, from this one's frame `first` on.

        Raises:
            InputError: If they are not all there, or the disk refuses it.
        """
        with self._disk_errors(self.parts):
            taken = self._take(WorkFolder(Path(path)).path, first) if number else 0
        if taken != number:
            raise InputError(f'{path}: {taken} of {number} frames are there; start over with force.')
        self.num_written = first + number

    def pair_with(self, other: Path | None) -> None:
        """See `WorkFolder.pair_with`."""
        with self._disk_errors(self.parts):
            self.work.pair_with(None if other is None else Path(os.path.abspath(other)))

    def states_folder(self, temp_dir: Path | None) -> Path:
        """See `WorkFolder.states_folder`."""
        with self._disk_errors(self.parts):
            return self.work.states_folder(temp_dir)

    def abort(self) -> None:
        """Stop without completing the output; what is finished stays below `parts`."""
        if self.closed:
            return
        self.closed = True
        self._discard()
        if self.num_written == 0 and not self.work.is_needed():
            self.work.remove()
        self.work.release()

    def __enter__(self) -> Target:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _check_free(self) -> None:
        if os.path.lexists(self.path) and not self.force:
            raise InputError(f'{self.path} is there already; pass force to overwrite it, or give another name.')
        if not self.path.parent.is_dir():
            raise InputError(f'{self.path}: there is no folder {self.path.parent}.')
        output = os.path.realpath(self.path)
        if any(output in (file, os.path.dirname(file)) for file in map(os.path.realpath, self.source.files)):
            raise InputError(f'{self.path} is where the frames come from; give the output another name.')
        self._check_replaceable()

    def _check_replaceable(self) -> None:
        """Refuse to overwrite what this kind of output cannot have made."""
        if self.path.is_dir():
            raise InputError(f'{self.path} is a folder; give the output another name.')
        if self.path.exists() and not self.path.is_file():
            raise InputError(f'{self.path} is no file; give the output another name.')

    def _move(self, finished: Path) -> None:
        """Put the output to its name; a folder there, which cannot be replaced, is moved aside for the moment."""
        if not self.path.is_dir() or self.path.is_symlink():
            os.replace(finished, self.path)
            return
        aside = self.parts / 'replaced'
        os.replace(self.path, aside)
        try:
            os.replace(finished, self.path)
        except OSError:
            os.replace(aside, self.path)
            raise

    @contextlib.contextmanager
    def _disk_errors(self, path: Path, size: Callable[[], int | None] | None = None):
        """Report what the system refuses as one sentence. PyAV's errors with the system's numbers are OSErrors too.

        Args:
            path: What is written.
            size: Counts the bytes that it takes, where they can be known.
        """
        try:
            yield
        except OSError as error:
            self._discard()
            left = f'; what is finished stays in {self.parts}, go on with resume' if self.num_written else ''
            raise InputError(f'{disk_error(path, error, size and size())}{left}.') from error
