"""The numbers of a benchmark as columns, as a table for the terminal and as `results.csv`.

Nothing here needs torch or basicsr.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from basicsr_plugins.benchmark.results import Results, Row
from basicsr_plugins.files import write_atomically

COSTS = ('params', 'macs', 'seconds_per_frame', 'peak_memory')
MARK = '*'  # at a published average that is not the mean of its clips


class Column(NamedTuple):
    """A column of numbers; `path` leads to its value: an attribute of a row, then keys."""

    label: str
    unit: str
    path: tuple[str, ...]
    better: str
    text: Callable[[float], str]

    def value(self, row: Row) -> float | None:
        value = getattr(row, self.path[0])
        for key in self.path[1:]:
            value = (value or {}).get(key)
        return None if value is None or math.isnan(value) else value

    def cell(self, row: Row) -> str:
        value = self.value(row)
        marked = self.path[0] == 'average' and self.path[1] in row.clip_means
        return '' if value is None else self.text(value) + MARK * marked


def column_groups(results: Results) -> list[tuple[str, list[Column]]]:
    """The columns under their headings: the costs, the average metrics, the metrics of each clip."""
    costs = [
        Column('params', 'M', ('params',), 'lower', lambda value: fixed(value / 1e6, 2)),
        Column('mult-adds', 'G', ('macs',), 'lower', lambda value: fixed(value / 1e9, 1)),
        Column('time', '', ('seconds_per_frame',), 'lower', duration),
        Column('memory', 'MB', ('peak_memory',), 'lower', lambda value: fixed(value / 1e6, 0)),
    ]
    groups = [('cost', costs)]
    for label, path in [('average', ('average',)), *((clip, ('clips', clip)) for clip in results.clips)]:
        groups.append((label, [metric_column(results, key, path) for key in results.metrics]))
    return groups


def metric_column(results: Results, key: str, path: tuple[str, ...]) -> Column:
    metric = results.metrics[key]
    return Column(
        metric['label'], metric['unit'], (*path, key), metric['better'], lambda value: fixed(value, metric['digits'])
    )


def fixed(value: float, digits: int) -> str:
    """`value` with that many decimals; a plain 0 for zero, and never 0.00 for what is not zero."""
    text = f'{value:.{digits}f}'
    return f'{value:.1g}' if float(text) == 0 else text


def duration(seconds: float) -> str:
    return f'{seconds:.2f} s' if seconds >= 1 else f'{seconds * 1e3:.3g} ms'


def may_win(row: Row, column: Column) -> bool:
    """Whether a row can be the best of a column: measured here, and for quality with trained weights."""
    trained = not row.random_weights or column.path[0] in COSTS
    return trained and not row.published and not row.error


def best_text(results: Results, column: Column) -> str | None:
    """How the best value of a column reads, so that what reads alike is best alike; None without one."""
    rows = [row for row in results.rows if may_win(row, column)]
    values = [value for row in rows if (value := column.value(row)) is not None]
    if not values:
        return None
    return column.text(max(values) if column.better == 'higher' else min(values))


def notes_on_averages(results: Results) -> list[str]:
    """A sentence for each published average that is not the mean of its clips, with both numbers."""
    return [
        f'{MARK} {row.name} in {row.source}: the published average {metric["label"]} is '
        f'{row.average[key]:.{metric["digits"]}f}, but the mean of its clips is {mean:.{metric["digits"] + 1}f}.'
        for row in results.rows
        for key, mean in row.clip_means.items()
        for metric in [results.metrics[key]]
    ]


# ---------------------------------------------------------------- terminal


def terminal_table(results: Results, width: int | None = None) -> str:
    """The results as text, aligned for a fixed-width font.

    The costs and the averages come first; the clips stand beside them while they fit, else in tables below. Published
    rows stand under the sources they come from, below all that was measured; under a failed row stands its reason.

    Args:
        results: What was found.
        width: How many characters a line may hold; default: the terminal's.

    Returns:
        The tables without a final newline.
    """
    width = width or shutil.get_terminal_size((120, 24)).columns
    rows = sorted(results.rows, key=lambda row: (row.published, row.source or '', bool(row.error)))
    names = ['', 'method', *(row.display_name for row in rows)]
    name_block = [name.ljust(max(map(len, names))) for name in names]
    blocks = [(text_block(label, columns, rows), columns) for label, columns in column_groups(results)]

    tables = []
    for chunk in fitting_chunks(blocks, width - len(name_block[0])):
        texts, groups = zip(*chunk)
        lines = ['   '.join(cells).rstrip() for cells in zip(name_block, *texts)]
        body = row_lines(rows, lines[2:], list(itertools.chain(*groups)), first=not tables)
        tables.append('\n'.join([*lines[:2], *body]))
    said = [f'{row.name}: {row.note}' for row in rows if row.note]
    notes = '\n'.join([*notes_on_averages(results), *said, metrics_sentence(results)])
    return '\n\n'.join([*tables, notes])


def text_block(label: str, columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    """Lines of one width: the group's label, the header, and each row's cells."""
    header = [
        f'{column.label} ({column.unit})' if column.path[0] in COSTS and column.unit else column.label
        for column in columns
    ]
    grid = [header, *([column.cell(row) or '-' for column in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*grid)]
    lines = ['  '.join(cell.rjust(width) for cell, width in zip(cells, widths)) for cells in grid]
    width = max(len(lines[0]), len(label) + 4)
    return [f' {label} '.center(width, '-'), *(line.rjust(width) for line in lines)]


def fitting_chunks(blocks: Sequence[tuple], width: int) -> list[list[tuple]]:
    """Spread the blocks, texts with their columns, over tables; one that does not fit any more begins the next."""
    chunks, used = [], width
    for block in blocks:
        needed = 3 + len(block[0][0])
        if not chunks or used + needed > width:
            chunks.append([])
            used = 0
        chunks[-1].append(block)
        used += needed
    return chunks


def row_lines(rows: Sequence[Row], lines: Sequence[str], columns: Sequence[Column], first: bool) -> list[str]:
    """The rows' lines with what stands between them; after the `first` table, rows without a value are left out."""
    out = []
    for source, pairs in itertools.groupby(zip(rows, lines), key=lambda pair: pair[0].published and pair[0].source):
        pairs = [(row, line) for row, line in pairs if first or any(column.cell(row) for column in columns)]
        if pairs and source:
            out.append(f'-- published, not measured here: {source}')
        for row, line in pairs:
            out.append(line)
            if first and row.error:
                out.append(f'    failed: {row.error}')
    return out


def metrics_sentence(results: Results) -> str:
    """Which way each metric is better, and its unit."""
    return ', '.join(
        f'{metric["label"]}{" in " + metric["unit"] if metric["unit"] else ""} ({metric["better"]} is better)'
        for metric in results.metrics.values()
    )


# ---------------------------------------------------------------- CSV


def write_csv(results: Results, path: Path) -> None:
    """Write one line per method and clip, and one per method for the average, at full precision."""
    described = ('published', 'source', 'random_weights', 'error', *COSTS)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(['method', 'clip', *described, *results.metrics])
    for row in results.rows:
        for clip, values in [*((clip, row.clips.get(clip, {})) for clip in results.clips), ('average', row.average)]:
            facts = [getattr(row, name) for name in described]
            writer.writerow([row.name, clip, *facts, *(values.get(key) for key in results.metrics)])
    write_atomically(path, file.getvalue())
