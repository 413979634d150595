"""Run a benchmark: every network on every clip, what was measured kept on file, and the report made from it.

Each result is a small file below `parts/`, written when it is there; an interrupted benchmark takes them up, and the
processes of torchrun, which share the clips, meet in them. Networks run in a process of their own: one that dies for
lack of memory is a row of the table, and the others go on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import re
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
from basicsr.utils import get_root_logger
from torch import distributed as dist
from tqdm import tqdm

from basicsr_plugins.benchmark.clips import BenchmarkClip, open_clips
from basicsr_plugins.benchmark.evaluation import METRICS, Protocol, choose_view, evaluate_clip, write_gt_pictures
from basicsr_plugins.benchmark.machine import describe_machine, describe_versions, git_commit
from basicsr_plugins.benchmark.profile import (
    MACS_METHOD,
    MEMORY_METHOD,
    TIME_METHOD,
    PeakMemory,
    count_macs,
    count_parameters,
    seconds_per_frame,
)
from basicsr_plugins.benchmark.published import read_published
from basicsr_plugins.benchmark.report import write_csv, write_report, write_text
from basicsr_plugins.data.meta_info import write_file
from basicsr_plugins.errors import InputError, one_line
from basicsr_plugins.models.network_spec import fit_scale
from basicsr_plugins.models.entries import NetworkEntry, bicubic

KILLED = 'its process was killed, most likely for lack of memory'


@dataclass(frozen=True)
class ProfileSettings:
    """How cost is measured: frames of `size` (h, w), clips of `num_frame`, the median of `repeat` passes."""

    size: tuple[int, int] = (180, 320)
    num_frame: int = 5
    repeat: int = 3


@dataclass(frozen=True)
class Benchmark:
    """What is compared, and on what.

    Args:
        out: The folder of the results.
        entries: The networks; bicubic comes first by itself.
        lq_root, gt_root: Folders of clips, or LMDBs.
        clip_names: The clips to take; empty for all.
        protocol: What counts.
        device: Where networks run.
        profile: How cost is measured; None for not at all.
        published: CSV files of published numbers.
        fresh: Whether everything is measured anew; otherwise earlier results of `out` are taken where networks,
            weights, folders and settings are the same. A change of a network's code or of frames does not show there.
        title, command: For the report.
    """

    out: Path
    entries: Sequence[NetworkEntry]
    lq_root: Path
    gt_root: Path
    clip_names: Sequence[str] = ()
    protocol: Protocol = field(default_factory=Protocol)
    device: str = 'cpu'
    profile: ProfileSettings | None = field(default_factory=ProfileSettings)
    published: Sequence[str] = ()
    fresh: bool = False
    title: str = 'Benchmark'
    command: str = ''

    def rows(self) -> list[NetworkEntry]:
        """Bicubic, and the other networks.

        Raises:
            InputError: If two have the same name, one is called GT, or a checkpoint is missing.
        """
        others = [entry for entry in self.entries if entry.options['type'] != 'Bicubic']
        names = ['Bicubic', *(entry.name for entry in others)]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f'two networks are called {name}; give one another name (NAME=...).')
        if 'GT' in names:
            raise InputError('no network may be called GT, as the ground truth is; give it another name (NAME=...).')
        for entry in others:
            if entry.checkpoint is not None and not Path(entry.checkpoint).is_file():
                raise InputError(f'{entry.name}: there is no checkpoint {entry.checkpoint}.')
        return [bicubic(self.protocol.scale), *others]

    def clips(self) -> list[BenchmarkClip]:
        """The clips that are taken.

        Raises:
            InputError: If one is asked for that is not there, or no frame of one counts, or none of its pixels.
        """
        clips = open_clips(self.lq_root, self.gt_root, self.protocol.scale)
        known = [clip.name for clip in clips]
        for name in self.clip_names:
            if name not in known:
                raise InputError(f'there is no clip {name} in {self.lq_root}; there are {", ".join(known)[:200]}.')
        clips = [clip for clip in clips if not self.clip_names or clip.name in self.clip_names]
        for clip in clips:
            self.protocol.counted(clip)
            self.protocol.check_border(clip)
        return clips

    def key(self, entry: NetworkEntry) -> str:
        """A name for the results of a network, another one when anything changes that they depend on."""
        weights = None
        if entry.checkpoint is not None:
            status = os.stat(entry.checkpoint)
            weights = [os.path.abspath(entry.checkpoint), status.st_size, status.st_mtime_ns, entry.param_key]
        data = [os.path.abspath(root) for root in (self.lq_root, self.gt_root)]
        device = torch.device(self.device).type
        what = [entry.options, weights, data, asdict(self.protocol), device, describe_versions()]
        content = json.dumps(what, sort_keys=True, default=str)
        return f'{safe_name(entry.name)}-{hashlib.sha256(content.encode()).hexdigest()[:8]}'

    def data_key(self) -> str:
        """As `key`, for GT."""
        content = json.dumps([os.path.abspath(self.gt_root), asdict(self.protocol)], default=str)
        return hashlib.sha256(content.encode()).hexdigest()[:8]

    def part(self, entry: NetworkEntry, name: str) -> Path:
        return self.out / 'parts' / self.key(entry) / f'{name}.json'

    def clip_part(self, entry: NetworkEntry, clip: str) -> Path:
        return self.part(entry, f'clip_{safe_name(clip)}')

    def failure_part(self, entry: NetworkEntry, clip: str) -> Path:
        return self.part(entry, f'failure_{safe_name(clip)}')

    def profile_failure_part(self, entry: NetworkEntry) -> Path:
        return self.part(entry, 'profile_failure')

    def profile_part(self, entry: NetworkEntry) -> Path:
        content = json.dumps([asdict(self.profile), self.device, describe_machine(self.device)], sort_keys=True)
        return self.part(entry, f'profile_{hashlib.sha256(content.encode()).hexdigest()[:8]}')

    def picture_prefix(self, clip: str, name: str) -> Path:
        return self.out / 'pictures' / safe_name(clip) / name


def safe_name(name: str) -> str:
    """A file name for any name; different names stay different."""
    safe = re.sub(r'[^A-Za-z0-9._+-]+', '_', name)
    return safe if safe == name else f'{safe}_{hashlib.sha256(name.encode()).hexdigest()[:6]}'


# -------------------------------------------------------------------- the whole run


def run_benchmark(benchmark: Benchmark) -> dict | None:
    """Measure what is not measured yet, and write `results.json`, `results.csv` and `report.html` below `out`.

    Under torchrun every process takes its share of the clips, and the first one the rest.

    Returns:
        The content of `results.json`; None in all processes but the first.

    Raises:
        InputError: If the benchmark cannot be run as it is described. A network that fails is a row with its reason.
    """
    rank, world_size = _join_processes()
    entries, clips = benchmark.rows(), benchmark.clips()
    published = read_published(benchmark.published, [clip.name for clip in clips])
    _make_folder(benchmark.out / 'parts')
    _write_view_pictures(benchmark, clips[rank::world_size])
    num_taken = 0
    with _Workers() as workers:
        for entry in entries:
            for clip in clips[rank::world_size]:
                failure = benchmark.failure_part(entry, clip.name)
                failure.unlink(missing_ok=True)
                if benchmark.fresh or not _is_measured(benchmark, entry, clip.name):
                    benchmark.clip_part(entry, clip.name).unlink(missing_ok=True)
                    workers.run(failure, _evaluate, benchmark, entry, clip, rank == 0)
                else:
                    num_taken += 1
        if num_taken:
            prefix = f'process {rank}: ' if world_size > 1 else ''
            print(
                f'{prefix}took {num_taken} results of an earlier run from {benchmark.out} (--fresh measures them anew)'
            )
        _wait_for_the_others(world_size)
        if rank != 0:
            return None
        if benchmark.profile is not None:
            for entry in tqdm(entries, desc='Measure cost', unit='network'):
                failure = benchmark.profile_failure_part(entry)
                failure.unlink(missing_ok=True)
                if benchmark.fresh or not benchmark.profile_part(entry).is_file():
                    benchmark.profile_part(entry).unlink(missing_ok=True)
                    timed = not _clip_failures(benchmark, entry, clips)
                    workers.run(failure, _profile, benchmark, entry, timed)
    rows = [_row(benchmark, entry, clips) for entry in entries]
    results = _results(benchmark, clips, rows + published)
    write_text(benchmark.out / 'results.json', json.dumps(results, indent=1) + '\n')
    write_csv(results, benchmark.out / 'results.csv')
    write_report(results, benchmark.out)
    return results


def _is_measured(benchmark: Benchmark, entry: NetworkEntry, clip: str) -> bool:
    pictures = _picture_files(benchmark.picture_prefix(clip, benchmark.key(entry)))
    return benchmark.clip_part(entry, clip).is_file() and all(path.is_file() for path in pictures.values())


def _join_processes() -> tuple[int, int]:
    """Rank and number of processes of torchrun; 0 and 1 without."""
    world_size = int(os.environ.get('WORLD_SIZE', 1))
    if world_size > 1 and not dist.is_initialized():
        # one may wait for another's clips as long as they take
        dist.init_process_group('gloo', timeout=timedelta(days=7))
    return int(os.environ.get('RANK', 0)) if world_size > 1 else 0, world_size


def _wait_for_the_others(world_size: int) -> None:
    if world_size > 1:
        dist.barrier()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'the folder of the results, {path}, cannot be made: {error.strerror}.') from error


def _write_view_pictures(benchmark: Benchmark, clips: Sequence[BenchmarkClip]) -> None:
    for clip in tqdm(clips, desc='Pictures of GT', unit='clip', leave=False, disable=len(clips) < 2):
        prefix = benchmark.picture_prefix(clip.name, f'GT-{benchmark.data_key()}')
        if all(path.is_file() for path in _picture_files(prefix).values()):
            continue
        prefix.parent.mkdir(parents=True, exist_ok=True)
        write_gt_pictures(clip, benchmark.protocol, choose_view(clip, benchmark.protocol), prefix)


# -------------------------------------------------------------------- in a process of their own


class _Workers:
    """One process at a time, which runs jobs; a job that fails leaves its reason on file."""

    def __init__(self):
        self.pool = None
        self.processes = set()

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, kind, *exception) -> None:
        if kind is not None:
            for process in self.processes:  # an interruption does not wait for the job to end
                process.kill()
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def run(self, failure: Path, job: Callable, *arguments) -> None:
        """Run `job(*arguments)`; `failure` is written where it raises or its process dies."""
        if self.pool is None:
            spawn = multiprocessing.get_context('spawn')  # CUDA does not survive a fork
            self.pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_end_with_parent)
        try:
            others = set(multiprocessing.active_children())
            future = self.pool.submit(_reason_of_failure, job, *arguments)
            self.processes |= set(multiprocessing.active_children()) - others
            error = future.result()
        except BrokenProcessPool:
            error = KILLED
        if error is not None:
            write_part(failure, {'error': error})
            self.pool.shutdown()  # an error on CUDA stays with the process, and so may the memory
            self.pool = None


def _reason_of_failure(job: Callable, *arguments) -> str | None:
    """In the new process: run a job; why it failed, as text, because not every exception can be sent."""
    try:
        job(*arguments)
    except Exception as error:
        return reason(error)
    return None


def _end_with_parent() -> None:
    """In the new process: end when the one that started it ends, be it by a kill; an interruption is told there."""
    warnings.filterwarnings('ignore')
    get_root_logger().setLevel(logging.ERROR)  # that weights are random says the row

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def reason(error: Exception) -> str:
    """One sentence on why a network failed."""
    text = one_line(error)
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "can't allocate memory" in text:
        return f'out of memory ({text[:150]})'
    return text if isinstance(error, InputError) else f'{type(error).__name__}: {text[:300]}'


def _evaluate(benchmark: Benchmark, entry: NetworkEntry, clip: BenchmarkClip, show_progress: bool) -> None:
    net = entry.build().to(benchmark.device)
    fit_scale(net, benchmark.protocol.scale)
    view = choose_view(clip, benchmark.protocol)
    prefix = benchmark.picture_prefix(clip.name, benchmark.key(entry))
    total = benchmark.protocol.num_frame(clip)
    with tqdm(total=total, desc=f'{entry.name}, {clip.name}', unit='frame', disable=not show_progress) as progress:
        values = evaluate_clip(net, clip, benchmark.protocol, view, prefix, progress.update)
    write_part(benchmark.clip_part(entry, clip.name), {**values, 'commit': this_commit()})


def _profile(benchmark: Benchmark, entry: NetworkEntry, timed: bool) -> None:
    """Measure cost; parameters and multiply-adds are known even where a network cannot run, for lack of memory say."""
    settings = benchmark.profile
    net = entry.build()
    fit_scale(net, benchmark.protocol.scale)
    part = {'params': count_parameters(net)}
    try:
        part['macs'] = count_macs(net, settings.size)
    except InputError as error:
        part['macs_failure'] = str(error)
    write_part(benchmark.part(entry, 'counts'), part)
    if not timed:
        return
    net = net.to(benchmark.device)
    with PeakMemory(benchmark.device) as memory:
        part['seconds_per_frame'] = seconds_per_frame(net, settings.size, settings.num_frame, settings.repeat)
    part['peak_memory'] = memory.bytes
    write_part(benchmark.profile_part(entry), part)


def this_commit() -> str | None:
    return git_commit(Path(__file__).parent)


def write_part(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, (json.dumps(content) + '\n').encode())


def read_part(path: Path) -> dict:
    return json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}


# -------------------------------------------------------------------- from parts to results


def _clip_failures(benchmark: Benchmark, entry: NetworkEntry, clips: Sequence[BenchmarkClip]) -> dict[str, str]:
    """Clip -> the reason why the network failed on it."""
    parts = {clip.name: read_part(benchmark.failure_part(entry, clip.name)) for clip in clips}
    return {name: part['error'] for name, part in parts.items() if part}


def _error(clip_failures: Mapping[str, str], profile_failure: str | None, num_clip: int) -> str | None:
    """Why a network failed, in one line; each reason stands once, with the clips that it holds for unless all."""
    names = {}  # reason -> clips
    for name, text in clip_failures.items():
        names.setdefault(text.rstrip('.'), []).append(name)
    reasons = [text if len(some) == num_clip else f'{", ".join(some)}: {text}' for text, some in names.items()]
    if profile_failure is not None and not reasons:
        reasons.append(f'cost: {profile_failure}')
    return '; '.join(reasons) or None


def _row(benchmark: Benchmark, entry: NetworkEntry, clips: Sequence[BenchmarkClip]) -> dict:
    values = {clip.name: read_part(benchmark.clip_part(entry, clip.name)) for clip in clips}
    cost, cost_failure = {}, {}
    if benchmark.profile is not None:
        cost = {**read_part(benchmark.part(entry, 'counts')), **read_part(benchmark.profile_part(entry))}
        cost_failure = read_part(benchmark.profile_failure_part(entry))
    has_weights = entry.options['type'] != 'Bicubic'
    return {
        'name': entry.name,
        'type': entry.options['type'],
        'published': False,
        'source': None,
        'checkpoint': None if entry.checkpoint is None else str(entry.checkpoint),
        'error': _error(_clip_failures(benchmark, entry, clips), cost_failure.get('error'), len(clips)),
        **{name: cost.get(name) for name in ('params', 'macs', 'macs_failure', 'seconds_per_frame', 'peak_memory')},
        'clips': {name: {key: one.get(key) for key in METRICS} for name, one in values.items() if one},
        'commits': sorted({str(one.get('commit')) for one in values.values() if one}),
        'average': _average(list(values.values())) if all(values.values()) else {},
        'random_weights': has_weights and entry.checkpoint is None,
        'arguments': {name: value for name, value in entry.options.items() if name != 'type'},
    }


def _average(clips: list[dict[str, float | None]]) -> dict[str, float | None]:
    """The mean of the clips' values: each clip counts alike, however long."""
    columns = {name: [clip.get(name) for clip in clips] for name in METRICS}
    return {name: None if None in column else sum(column) / len(column) for name, column in columns.items()}


def _results(benchmark: Benchmark, clips: Sequence[BenchmarkClip], rows: list[dict]) -> dict:
    protocol = benchmark.protocol
    frames = 'without the first and last two' if protocol.inner_frames else 'all'
    if protocol.max_frames is not None:
        frames += f' of the first {protocol.max_frames}'
    profile_size, notes = None, []
    if benchmark.profile is not None:
        profile_size = list(benchmark.profile.size)
        settings = asdict(benchmark.profile)
        notes = [MACS_METHOD, TIME_METHOD.format(**settings), MEMORY_METHOD.format(**settings)]
        notes += [f'{row["name"]}: {row["macs_failure"]}' for row in rows if row.get('macs_failure')]
    notes += _notes_on_commits(rows)
    return {
        'title': benchmark.title,
        'command': benchmark.command,
        'commit': this_commit(),
        'versions': describe_versions(),
        'machine': describe_machine(benchmark.device),
        'settings': {
            'lq': str(benchmark.lq_root),
            'gt': str(benchmark.gt_root),
            'scale': protocol.scale,
            'channel': 'Y' if protocol.y_channel else 'RGB',
            'crop_border': protocol.crop_border,
            'frames': frames,
            'padding': protocol.padding,
            'device': benchmark.device,
            'profile_size': profile_size,
            'profile_frames': benchmark.profile and benchmark.profile.num_frame,
            'profile_repeat': benchmark.profile and benchmark.profile.repeat,
        },
        'methods_note': notes,
        'metrics': METRICS,
        'clips': [clip.name for clip in clips],
        'rows': rows,
        'pictures': {clip.name: _pictures(benchmark, clip) for clip in clips},
    }


def _notes_on_commits(rows: list[dict]) -> list[str]:
    """Which rows were measured with another commit than the one that made the report."""
    now = str(this_commit())
    others = [
        (row['name'], row['commits']) for row in rows if not row['published'] and row['commits'] not in ([], [now])
    ]
    return [f'{name} was measured with commit {", ".join(commits)}.' for name, commits in others]


def _pictures(benchmark: Benchmark, clip: BenchmarkClip) -> dict:
    view = choose_view(clip, benchmark.protocol)
    prefixes = {entry.name: benchmark.picture_prefix(clip.name, benchmark.key(entry)) for entry in benchmark.rows()}
    prefixes['GT'] = benchmark.picture_prefix(clip.name, f'GT-{benchmark.data_key()}')
    methods = {}
    for name, prefix in prefixes.items():
        paths = _picture_files(prefix)
        if all(path.is_file() for path in paths.values()):
            methods[name] = {kind: path.relative_to(benchmark.out).as_posix() for kind, path in paths.items()}
    return {'frame': clip.frames[view.index], 'window': list(view.window), 'line': view.line, 'methods': methods}


def _picture_files(prefix: Path) -> dict[str, Path]:
    return {kind: Path(f'{prefix}_{kind}.png') for kind in ('frame', 'crop', 'profile')}
