"""A benchmark at several scales: one after the other, and one report of all, with PSNR against scale.

Each scale is a benchmark of its own in a folder below (`x2`, `x2.7`, `x3x1.5`), with its pictures and its report.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from basicsr_plugins.benchmark.figures import PLOT_STYLE, inline_svg, short_name
from basicsr_plugins.benchmark.page import render, settings_sentence, table_rows
from basicsr_plugins.benchmark.results import Results
from basicsr_plugins.benchmark.runner import run_benchmark
from basicsr_plugins.benchmark.settings import Benchmark
from basicsr_plugins.benchmark.tables import column_groups, metric_column, metrics_sentence, terminal_table
from basicsr_plugins.files import write_atomically
from basicsr_plugins.scales import Scale, describe_scale, per_axis

MARKERS = 'osD^vPX*'
SHOWN = 2  # groups of columns: cost, average


def run_scales(benchmarks: Sequence[Benchmark], out: Path) -> dict[str, Results] | None:
    """Run benchmarks that differ in their scale, and write `results.json`, `results.csv` and `report.html` of all.

    Args:
        benchmarks: In the order of the report, of each scale the last; their `out` is replaced.
        out: The folder of the results.

    Returns:
        Scale, as text -> what was found; None in all processes of torchrun but the first.

    Raises:
        InputError: As `run_benchmark`.
    """
    named = {describe_scale(benchmark.protocol.scale): benchmark for benchmark in benchmarks}
    found = {name: run_benchmark(replace(benchmark, out=out / f'x{name}')) for name, benchmark in named.items()}
    if any(results is None for results in found.values()):
        return None
    scales = {name: benchmark.protocol.scale for name, benchmark in named.items()}
    write_atomically(
        out / 'results.json', json.dumps({name: asdict(one) for name, one in found.items()}, indent=1, default=str)
    )
    _write_csv(list(found), out)
    write_atomically(out / 'report.html', _page(found, scales))
    return found


def scales_table(found: Mapping[str, Results]) -> str:
    """A table for each scale, as text."""
    return '\n\n'.join(f'x{name}\n{terminal_table(results)}' for name, results in found.items())


def _write_csv(names: Sequence[str], out: Path) -> None:
    """The scales' files below each other, with a column `scale`."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    for number, name in enumerate(names):
        header, *rows = csv.reader((out / f'x{name}' / 'results.csv').read_text(encoding='utf-8').splitlines())
        if number == 0:
            writer.writerow(['scale', *header])
        writer.writerows([name, *row] for row in rows)
    write_atomically(out / 'results.csv', file.getvalue())


def _page(found: Mapping[str, Results], scales: Mapping[str, Scale]) -> str:
    tables = [
        {
            'name': name,
            'settings': settings_sentence(results),
            'groups': column_groups(results)[:SHOWN],
            'rows': table_rows(results),
            'metrics': metrics_sentence(results),
        }
        for name, results in found.items()
    ]
    first = next(iter(found.values()))
    return render('scales.html', first=first, tables=tables, shown=SHOWN, curve=curve(found, scales))


def curve(found: Mapping[str, Results], scales: Mapping[str, Scale]) -> Markup:
    """The first metric's average against scale, a line for each method, as inline SVG.

    Two factors stand at their geometric mean, beside the line.
    """
    first = next(iter(found.values()))
    metric = metric_column(first, next(iter(first.metrics)), ('average',))
    label = f'{metric.label} ({metric.unit})' if metric.unit else metric.label
    methods = dict.fromkeys(short_name(row) for results in found.values() for row in results.rows if not row.published)
    with matplotlib.rc_context({**PLOT_STYLE, 'svg.hashsalt': 'scales'}):
        figure = Figure(figsize=(6.6, 4.9), dpi=72)
        axes = figure.add_axes((0.11, 0.13, 0.86, 0.78))
        axes.set_xlabel('scale')
        axes.set_ylabel(label, parse_math=False)
        for number, method in enumerate(methods):
            points = sorted(_points(found, scales, method, metric))
            style = {'color': f'C{number}', 'marker': MARKERS[number % len(MARKERS)]}
            line = [point[:2] for point in points if point[2]]
            aside = [point[:2] for point in points if not point[2]]
            axes.plot(*zip(*line or [(math.nan, math.nan)]), label=method, **style)
            if aside:
                axes.plot(*zip(*aside), linestyle='', markerfacecolor='none', **style)
        axes.legend(frameon=False)
        return inline_svg(figure, 'scales', f'Plot: {label} against scale, by method')


def _points(found: Mapping, scales: Mapping, method: str, metric) -> list[tuple[float, float, bool]]:
    """Scale, value, and whether the factor is one for both axes."""
    points = []
    for name, results in found.items():
        vertical, horizontal = per_axis(scales[name])
        for row in results.rows:
            value = metric.value(row)
            if short_name(row) == method and not row.error and value is not None and math.isfinite(value):
                points.append((math.sqrt(vertical * horizontal), value, vertical == horizontal))
    return points
