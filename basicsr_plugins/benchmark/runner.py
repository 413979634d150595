"""Run a benchmark: every method on every clip, and the documents made from what was measured."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta

from torch import distributed as dist
from tqdm import tqdm

from basicsr_plugins.benchmark import cache
from basicsr_plugins.benchmark.cache import Cache
from basicsr_plugins.benchmark.clips import BenchmarkClip
from basicsr_plugins.benchmark.collect import collect, failures
from basicsr_plugins.benchmark.evaluation import choose_view, evaluate_clip, write_gt_pictures
from basicsr_plugins.benchmark.machine import this_commit
from basicsr_plugins.benchmark.methods import Method, NetworkMethod
from basicsr_plugins.benchmark.page import write_report
from basicsr_plugins.benchmark.profile import count_macs, count_parameters, seconds_per_frame
from basicsr_plugins.benchmark.published import read_published
from basicsr_plugins.benchmark.results import Results
from basicsr_plugins.benchmark.settings import Benchmark
from basicsr_plugins.benchmark.tables import write_csv
from basicsr_plugins.benchmark.workers import Workers
from basicsr_plugins.errors import InputError
from basicsr_plugins.files import DISK_FULL, disk_error, lock_file, write_atomically
from basicsr_plugins.memory import PeakMemory


def run_benchmark(benchmark: Benchmark) -> Results | None:
    """Measure what is not measured yet, and write `results.json`, `results.csv` and `report.html` below `out`.

    Under torchrun every process takes its share of the clips, and the first one the rest.

    Returns:
        What was found; None in all processes but the first.

    Raises:
        InputError: If the benchmark cannot be run as it is described, another run writes to `out`, or the disk is full.
            A method that fails is a row with its reason.
    """
    rank, world_size = _join_processes()
    methods, clips = benchmark.methods(), benchmark.clips()
    published = read_published(benchmark.published, [clip.name for clip in clips])
    files = Cache(benchmark)
    share = clips[rank::world_size]
    with _output(files, rank), Workers() as workers:
        _write_gt(files, share)
        restoring = [method for method in methods if benchmark.restores(method)]
        num_taken = sum([_measure(workers, files, method, clip, rank) for method in restoring for clip in share])
        if num_taken:
            prefix = f'process {rank}: ' if world_size > 1 else ''
            print(f'{prefix}took {num_taken} results of an earlier run from {benchmark.out}')
        if world_size > 1:
            dist.barrier()
        if rank != 0:
            return None
        if benchmark.profile is not None:
            networks = [method for method in methods if isinstance(method, NetworkMethod)]
            for method in tqdm(networks, desc='Measure cost', unit='network'):
                _measure_cost(workers, files, method, timed=not failures(files, method, clips))
        results = collect(files, methods, clips, published)
        write_atomically(benchmark.out / 'results.json', results.to_json())
        write_csv(results, benchmark.out / 'results.csv')
        write_report(results, benchmark.out)
        return results


@contextmanager
def _output(files: Cache, rank: int) -> Iterator[None]:
    """Make the folder of the results and hold it: another run would remove what this one is about to collect."""
    out = files.benchmark.out
    try:
        files.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'the folder of the results, {files.folder}, cannot be made: {error.strerror}.') from error
    try:
        with lock_file(files.folder / '.lock', f'the results in {out}') if rank == 0 else nullcontext():
            yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise InputError(f'{disk_error(out, error)}; make room, and run again to go on.') from error


def _join_processes() -> tuple[int, int]:
    """Rank and number of processes of torchrun; 0 and 1 without."""
    world_size = int(os.environ.get('WORLD_SIZE', 1))
    if world_size > 1 and not dist.is_initialized():
        # one may wait for another's clips as long as they take
        dist.init_process_group('gloo', timeout=timedelta(days=7))
    return int(os.environ.get('RANK', 0)) if world_size > 1 else 0, world_size


def _write_gt(files: Cache, clips: Sequence[BenchmarkClip]) -> None:
    for clip in tqdm(clips, desc='Pictures of GT', unit='clip', leave=False, disable=len(clips) < 2):
        pictures = files.pictures(clip, None)
        if not cache.all_there(pictures):
            write_gt_pictures(clip, files.benchmark.protocol, pictures)


def _measure(workers: Workers, files: Cache, method: Method, clip: BenchmarkClip, rank: int) -> bool:
    """Measure a method on a clip; returns whether the results of an earlier run were taken."""
    failure = files.clip_failure(method, clip)
    failure.unlink(missing_ok=True)
    if not files.benchmark.fresh and files.is_measured(method, clip):
        return True
    files.clip(method, clip).unlink(missing_ok=True)
    error = workers.run(evaluate, files, method, clip, rank == 0)
    if error is not None:
        cache.write(failure, {'error': error})
    return False


def _measure_cost(workers: Workers, files: Cache, method: NetworkMethod, timed: bool) -> None:
    failure = files.profile_failure(method)
    failure.unlink(missing_ok=True)
    if not files.benchmark.fresh and cache.read(files.profile(method)):
        return
    files.profile(method).unlink(missing_ok=True)
    error = workers.run(profile, files, method, timed)
    if error is not None:
        cache.write(failure, {'error': error})


# -------------------------------------------------------------------- in a process of their own


def evaluate(files: Cache, method: Method, clip: BenchmarkClip, show_progress: bool) -> None:
    """Measure a method on a clip, and keep the metrics and the pictures."""
    protocol = files.benchmark.protocol
    view, pictures = choose_view(clip, protocol), files.pictures(clip, method)
    restored = method.restore(clip, protocol, files.benchmark.device)
    total = protocol.num_frame(clip)
    with tqdm(total=total, desc=f'{method.name}, {clip.name}', unit='frame', disable=not show_progress) as progress:
        values = evaluate_clip(restored, clip, protocol, view, pictures, progress.update)
    cache.write(files.clip(method, clip), {**values, 'commit': this_commit()})


def profile(files: Cache, method: NetworkMethod, timed: bool) -> None:
    """Measure cost; parameters and multiply-adds are known even where a network cannot run, for lack of memory say."""
    settings, device = files.benchmark.profile, files.benchmark.device
    net = method.build(files.benchmark.protocol)
    cost = {'params': count_parameters(net)}
    try:
        cost['macs'] = count_macs(net, settings.size)
    except InputError as error:
        cost['macs_failure'] = str(error)
    cache.write(files.counts(method), cost)
    if not timed:
        return
    net = method.on_runtime(net.to(device))
    with PeakMemory(device) as memory:
        cost['seconds_per_frame'] = seconds_per_frame(net, settings.size, settings.num_frame, settings.repeat)
    cost['peak_memory'] = memory.bytes
    cache.write(files.profile(method), cost)
