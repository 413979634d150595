"""From the files of single results to the document of the whole benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from basicsr_plugins.benchmark import cache
from basicsr_plugins.benchmark.cache import Cache
from basicsr_plugins.benchmark.clips import BenchmarkClip
from basicsr_plugins.benchmark.evaluation import choose_view
from basicsr_plugins.benchmark.machine import describe_machine, describe_versions, this_commit
from basicsr_plugins.benchmark.methods import Method
from basicsr_plugins.benchmark.profile import MACS_METHOD, MEMORY_METHOD, TIME_METHOD
from basicsr_plugins.benchmark.results import Results, Row, Values
from basicsr_plugins.benchmark.settings import Benchmark
from basicsr_plugins.benchmark.tables import COSTS
from basicsr_plugins.scales import describe_scale


def collect(files: Cache, methods: Sequence[Method], clips: Sequence[BenchmarkClip], published: list[Row]) -> Results:
    """The document of a benchmark whose results are on file."""
    benchmark = files.benchmark
    rows = [_row(files, method, clips) for method in methods]
    return Results(
        title=benchmark.title,
        command=benchmark.command,
        commit=this_commit(),
        versions=describe_versions(),
        machine=describe_machine(benchmark.device),
        settings=_settings(benchmark),
        methods_note=_notes(benchmark, rows),
        clips=[clip.name for clip in clips],
        rows=rows + published,
        pictures={clip.name: _pictures(files, methods, clip) for clip in clips},
        metrics=benchmark.protocol.metrics,
    )


def failures(files: Cache, method: Method, clips: Sequence[BenchmarkClip]) -> dict[str, str]:
    """Clip -> the reason why the method failed on it."""
    found = {clip.name: cache.read(files.clip_failure(method, clip)) for clip in clips}
    return {name: content['error'] for name, content in found.items() if content}


def _row(files: Cache, method: Method, clips: Sequence[BenchmarkClip]) -> Row:
    found = {clip.name: cache.read(files.clip(method, clip)) for clip in clips}
    metrics = list(files.benchmark.protocol.metrics)
    values = {name: {metric: one.get(metric) for metric in metrics} for name, one in found.items() if one}
    cost, cost_failure = {}, {}
    if files.benchmark.profile is not None:
        cost = {**cache.read(files.counts(method)), **cache.read(files.profile(method))}
        cost_failure = cache.read(files.profile_failure(method))
    error = _error(failures(files, method, clips), cost_failure.get('error'), len(clips))
    return Row(
        name=method.name,
        **method.describe(),
        error=error,
        note=None if error else method.note(files.benchmark.protocol),
        **{name: cost.get(name) for name in (*COSTS, 'macs_failure')},
        clips=values,
        average=_average(metrics, list(values.values())) if len(values) == len(clips) else {},
        commits=sorted({str(one.get('commit')) for one in found.values() if one}),
    )


def _error(clip_failures: Mapping[str, str], cost_failure: str | None, num_clip: int) -> str | None:
    """Why a method failed, in one line; each reason stands once, with the clips that it holds for unless all."""
    names = {}  # reason -> clips
    for name, text in clip_failures.items():
        names.setdefault(text.rstrip('.'), []).append(name)
    reasons = [text if len(some) == num_clip else f'{", ".join(some)}: {text}' for text, some in names.items()]
    if cost_failure is not None and not reasons:
        reasons.append(f'cost: {cost_failure}')
    return '; '.join(reasons) or None


def _average(metrics: Sequence[str], clips: list[Values]) -> Values:
    """The mean of the clips' values: each clip counts alike, however long."""
    columns = {name: [clip[name] for clip in clips] for name in metrics}
    return {name: None if None in column else sum(column) / len(column) for name, column in columns.items()}


def _settings(benchmark: Benchmark) -> dict:
    protocol, profile = benchmark.protocol, benchmark.profile
    frames = 'without the first and last two' if protocol.inner_frames else 'all'
    if protocol.max_frames is not None:
        frames += f' of the first {protocol.max_frames}'
    return {
        'lq': str(benchmark.lq_root) if protocol.degradation is None else f'{protocol.degradation}, made of the GT',
        'gt': str(benchmark.gt_root),
        'scale': describe_scale(protocol.scale),
        'channel': 'Y' if protocol.y_channel else 'RGB',
        'crop_border': protocol.crop_border,
        'frames': frames,
        'padding': protocol.padding,
        'device': benchmark.device,
        'profile_size': profile and list(profile.size),
        'profile_frames': profile and profile.num_frame,
        'profile_repeat': profile and profile.repeat,
    }


def _notes(benchmark: Benchmark, rows: Sequence[Row]) -> list[str]:
    """How it was measured; which multiply-adds are not known; which rows were measured with another commit than now."""
    notes = ['Networks with random weights are measured in cost only.'] if benchmark.untrained_in_cost_only else []
    if benchmark.profile is not None:
        settings = asdict(benchmark.profile)
        notes += [MACS_METHOD, TIME_METHOD.format(**settings), MEMORY_METHOD.format(**settings)]
        notes += [f'{row.name}: {row.macs_failure}' for row in rows if row.macs_failure]
    notes += [f'{row.name}: {row.note}' for row in rows if row.note]
    others = [row for row in rows if row.commits not in ([], [str(this_commit())])]
    return notes + [f'{row.name} was measured with commit {", ".join(row.commits)}.' for row in others]


def _pictures(files: Cache, methods: Sequence[Method], clip: BenchmarkClip) -> dict:
    out = files.benchmark.out
    view = choose_view(clip, files.benchmark.protocol)
    pictures = {**{method.name: files.pictures(clip, method) for method in methods}, 'GT': files.pictures(clip, None)}
    shown = {
        name: {kind: path.relative_to(out).as_posix() for kind, path in paths.items()}
        for name, paths in pictures.items()
        if cache.all_there(paths)
    }
    return {'frame': clip.frames[view.index], 'window': list(view.window), 'line': view.line, 'methods': shown}
