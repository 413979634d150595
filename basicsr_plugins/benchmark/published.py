"""Published numbers, to stand beside ours: tables of papers as CSV files.

A row is a method. Columns: `source`, `method`; optional `params_m` (millions), `<clip>_psnr` and `<clip>_ssim`
(a clip whose name is a number may be written `c000`), `avg_psnr` and `avg_ssim` over all clips of the table,
`runtime_ms_per_frame`; others are details that are added to the source.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path

from basicsr_plugins.benchmark.results import Row
from basicsr_plugins.errors import InputError

METRIC_COLUMN = re.compile(r'(?P<clip>.+)_(?P<metric>psnr|ssim)')
DETAILS = {'degradation': '{}', 'train_frames': 'trained on {} frames', 'input': '{}'}


def read_published(paths: Sequence[str | Path], clips: Sequence[str]) -> list[Row]:
    """The rows of published tables that bear on these clips.

    Args:
        paths: CSV files.
        clips: The clips of the benchmark.

    Returns:
        One for each method and table; their `average` is over the very clips of the benchmark, and missing where the
        table does not give that. A published average that rounding does not explain as the mean of its clips has that
        mean in `clip_means`. Rows that say nothing of these clips and no running time are left out.

    Raises:
        InputError: If a file is missing, lacks `source` or `method`, or holds something else than a number.
    """
    rows = []
    for path in paths:
        try:
            with open(path, newline='', encoding='utf-8-sig') as file:  # spreadsheets put a byte order mark first
                reader = csv.DictReader(file, restval='')
                columns, lines = reader.fieldnames or [], list(reader)
        except OSError as error:
            raise InputError(f'published table {path}: {error.strerror}.') from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f'published table {path} is not a CSV file in UTF-8 ({error}).') from error
        for column in ('source', 'method'):
            if column not in columns:
                raise InputError(f'published table {path} has no column {column}.')
        for number, line in enumerate(lines, 2):
            row = _read_row(f'{path}, line {number}', line, clips)
            if row.clips or row.average or row.seconds_per_frame is not None:
                rows.append(row)
    return rows


def _read_row(where: str, line: dict[str, str], clips: Sequence[str]) -> Row:
    table = {}  # clip -> metric -> value
    published_average, decimals = {}, {}
    for column, text in line.items():
        match = METRIC_COLUMN.fullmatch(column or '')
        if match is None:
            continue
        clip, metric = match['clip'], match['metric']
        clip = clip[1:] if re.fullmatch(r'c\d+', clip) else clip
        values = published_average if clip == 'avg' else table.setdefault(clip, {})
        value = _number(where, column, text)
        if value is not None:
            values[metric] = value
            decimals[clip, metric] = len(text.strip().partition('.')[2])
    means = _means(table, clips)
    is_whole = set(table) == set(clips)
    runtime = _number(where, 'runtime_ms_per_frame', line.get('runtime_ms_per_frame'))
    params = _number(where, 'params_m', line.get('params_m'))
    details = [text.format(line[column]) for column, text in DETAILS.items() if line.get(column)]
    return Row(
        name=line['method'],
        published=True,
        source=', '.join([line['source'] or 'a source not named', *details]),
        params=None if params is None else round(params * 1e6),
        seconds_per_frame=None if runtime is None else runtime / 1e3,
        clips={clip: table[clip] for clip in clips if table.get(clip)},
        average=published_average if is_whole else means,
        clip_means={
            metric: means[metric]
            for metric, value in published_average.items()
            # half a unit of the last decimal by rounding the average, and as much by rounding the clips
            if is_whole and metric in means and abs(value - means[metric]) > 1.001 * 0.1 ** decimals['avg', metric]
        },
    )


def _means(table: dict, clips: Sequence[str]) -> dict[str, float]:
    """The means over the clips, of the metrics that all of them have."""
    columns = {metric: [table.get(clip, {}).get(metric) for clip in clips] for metric in ('psnr', 'ssim')}
    return {metric: sum(values) / len(values) for metric, values in columns.items() if values and None not in values}


def _number(where: str, column: str, text: str | None) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f'published table {where}: {column} is {text!r}, which is not a number.')
    return value
