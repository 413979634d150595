"""One film by several processes, each on its device: `torchrun --nproc_per_node N -m basicsr_plugins upscale ...`.

Nothing is propagated across a cut, so scenes are upscaled apart: a first pass finds them, and each process gets so many
in a row that all have about as many frames. Each writes its part below the output's `.NAME.parts`, as a run of its own
with its own lock and states; when all are done, the first process joins them without encoding again. Killed, the same
command with resume goes on in every part.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta

import torch.distributed as dist
from torch import Tensor, nn

from basicsr_plugins.errors import InputError
from basicsr_plugins.inference.engine import notes_on
from basicsr_plugins.inference.pipeline import READ_AHEAD, read_ahead
from basicsr_plugins.inference.scenes import SceneDetector
from basicsr_plugins.inference.settings import UpscaleSettings
from basicsr_plugins.models.network_spec import spec_of
from basicsr_plugins.output_size import OutputSize
from basicsr_plugins.scales import Scale
from basicsr_plugins.upscaling import choose_scale, describe_job
from basicsr_plugins.upscaling_run import Notes, run
from basicsr_plugins.video.media import Source, Target, VideoSettings
from basicsr_plugins.video.opening import open_source, open_target

LONGEST_FILM = timedelta(days=365)  # that one process may wait for another


def is_shared() -> bool:
    """Whether this process is one of several that `torchrun` started."""
    return dist.is_available() and dist.is_torchelastic_launched() and int(os.environ.get('WORLD_SIZE', 1)) > 1


def upscale_shared(
    net: nn.Module,
    source: str | os.PathLike,
    output: str | os.PathLike,
    settings: UpscaleSettings | None = None,
    video: VideoSettings | None = None,
    resume: bool = False,
    force: bool = False,
    show_progress: bool = True,
    output_size: OutputSize | None = None,
) -> list[str]:
    """Upscale a film together with the other processes; each calls this alike, with the network on its device.

    Frames are those of one process, bit for bit; in a video key frames are at other places, where parts begin.

    Args:
        As of `upscaling.upscale`; a run is resumed by as many processes as it had.

    Returns:
        Sentences about what a user should know, in the first process.

    Raises:
        InputError: As `upscaling.upscale`; where another process has ended, SystemExit.
    """
    if spec_of(net).time_scale > 1:
        raise InputError(f'{spec_of(net).name} makes frames between those of the film; run it by one process.')
    settings, video = settings or UpscaleSettings(), video or VideoSettings()
    dist.init_process_group('gloo', timeout=LONGEST_FILM)
    rank, number = dist.get_rank(), dist.get_world_size()
    job = {**describe_job(net, settings), 'processes': number}
    notes = Notes(show_progress and rank == 0)
    scale = choose_scale(net, output, open_source(source), video, output_size or OutputSize(), notes)
    try:
        with contextlib.ExitStack() as stack:
            shares, target = [None] * number, None
            if rank == 0:
                reader = open_source(source)
                target = stack.enter_context(open_target(output, reader, scale, video, resume, force, job))
                reader.any_size = target.any_size
                shares = find_shares(reader, settings.scene_cuts, number)
                notes.add(*target.notes, *reader.notes, *notes_on(net, settings), *_note_idle(shares))
                shares = [(str(target.parts / f'part_{i}{target.path.suffix}'), *one) for i, one in enumerate(shares)]
            _together(dist.broadcast_object_list, shares)
            _upscale_share(
                net, Share(open_source(source), *shares[rank][1:]), shares[rank][0], settings, video, job, notes, scale
            )
            _together(dist.barrier)
            if rank == 0:
                for path, first, end in shares:
                    target.take_over(path, first, end - first)
        if rank == 0 and reader.damage:
            notes.add(reader.damage)
        return notes.texts
    finally:
        dist.destroy_process_group()


def _together(collective, *arguments) -> None:
    """Call what all processes call; where one has ended, so does this one, for that one says why."""
    try:
        collective(*arguments)
    except RuntimeError:
        sys.exit(1)


def _note_idle(shares: list[tuple[int, int]]) -> list[str]:
    idle = sum(first == end for first, end in shares)
    return [f'the film has so few scenes that {idle} of {len(shares)} processes have nothing to do.'] if idle else []


def _upscale_share(
    net, share: Share, path: str, settings: UpscaleSettings, video, job: dict, notes: Notes, scale: Scale
) -> None:
    if share.num_frame == 0:
        return
    with _left_for_another(open_target(path, share, scale, video, resume=True, job=job)) as part:
        share.any_size = part.any_size
        keep = part.states_folder(settings.temp_dir)
        settings = replace(settings, temp_dir=settings.temp_dir or part.parts)
        run(net, share, [part], settings, keep, part.scale, notes, show_progress=notes.tell)


@contextlib.contextmanager
def _left_for_another(part: Target) -> Iterator[Target]:
    """A part of an output, complete when the context is left, and not moved to its name."""
    try:
        yield part
        part.leave()
    finally:
        part.abort()


def find_shares(frames: Iterable[Tensor], scene_cuts: bool, number: int) -> list[tuple[int, int]]:
    """First frame, and the one after the last, of each process's share: whole scenes in a row.

    Args:
        frames: All LR frames, (3, h, w).
        scene_cuts: Whether the film has scenes; else all of it is the first one's.
        number: Of processes.
    """
    detector, borders, length = SceneDetector(), [0], 0
    with contextlib.closing(read_ahead(frames, READ_AHEAD)) as ahead:
        for i, frame in enumerate(ahead):
            if scene_cuts and detector.starts_scene(frame):
                borders.append(i)
            length = i + 1
    borders.append(length)
    wanted = [length * i / number for i in range(1, number)]
    ends = [min(borders, key=lambda border: (abs(border - end), -border)) for end in wanted]
    return list(zip([0, *ends], [*ends, length]))


class Share(Source):
    """Frames `first` to `end` - 1 of a source, with its times and colour."""

    def __init__(self, source: Source, first: int, end: int):
        super().__init__(source.name)
        self._source = source
        self._first, self._end = first, end
        self.size, self.bit_depth, self.is_video = source.size, source.bit_depth, source.is_video
        self.num_frame = end - first
        self.files = source.files if source.is_video else source.files[first:end]

    def __getattr__(self, name: str):
        return getattr(self._source, name)  # what films have beside frames

    def __iter__(self) -> Iterator[Tensor]:
        yield from itertools.islice(self._source, self._first, self._end)
        self.exhausted = True

    @property
    def any_size(self) -> bool:
        return self._source.any_size

    @any_size.setter
    def any_size(self, allowed: bool) -> None:
        self._source.any_size = allowed

    @property
    def times(self) -> array:
        return self._source.times[self._first : self._end]

    def identity(self) -> dict:
        return {**self._source.identity(), 'first frame': self._first, 'number of frames': self.num_frame}
