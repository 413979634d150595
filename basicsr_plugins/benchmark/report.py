"""What a benchmark shows: a table for the terminal, `results.csv`, and `report.html`.

All of it is made from one document, that of `results.json`. A row is a method: `params`, `macs`, `seconds_per_frame`,
`peak_memory` (bytes), and its metrics under `average` and `clips`; any of these may be missing or None. A row with an
`error` failed; a row that is `published` holds numbers of its `source`, not numbers measured here.

Nothing here needs torch or basicsr.
"""

from __future__ import annotations

import base64
import csv
import io
import itertools
import math
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import cv2
import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from basicsr_plugins.errors import InputError

COSTS = ('params', 'macs', 'seconds_per_frame', 'peak_memory')

# ---------------------------------------------------------------- rows and columns


class Column(NamedTuple):
    """A column of numbers; `path` leads to its value inside a row."""

    label: str
    unit: str
    path: tuple[str, ...]
    better: str
    text: Callable[[float], str]

    def value(self, row: dict) -> float | None:
        for key in self.path:
            row = (row or {}).get(key)
        return None if row is None or math.isnan(row) else row

    def cell(self, row: dict) -> str:
        value = self.value(row)
        return '' if value is None else self.text(value)


def column_groups(results: dict) -> list[tuple[str, list[Column]]]:
    """The columns under their headings: the costs, the average metrics, the metrics of each clip."""
    costs = [
        Column('params', 'M', ('params',), 'lower', lambda value: fixed(value / 1e6, 2)),
        Column('mult-adds', 'G', ('macs',), 'lower', lambda value: fixed(value / 1e9, 1)),
        Column('time', '', ('seconds_per_frame',), 'lower', duration),
        Column('memory', 'MB', ('peak_memory',), 'lower', lambda value: fixed(value / 1e6, 0)),
    ]
    groups = [('cost', costs)]
    for label, path in [('average', ('average',)), *((clip, ('clips', clip)) for clip in results['clips'])]:
        groups.append((label, [metric_column(results, key, path) for key in results['metrics']]))
    return groups


def metric_column(results: dict, key: str, path: tuple[str, ...]) -> Column:
    metric = results['metrics'][key]
    return Column(
        metric['label'], metric['unit'], (*path, key), metric['better'], lambda value: fixed(value, metric['digits'])
    )


def fixed(value: float, digits: int) -> str:
    """`value` with that many decimals; a plain 0 for zero, and never 0.00 for what is not zero."""
    text = f'{value:.{digits}f}'
    return f'{value:.1g}' if float(text) == 0 else text


def duration(seconds: float) -> str:
    return f'{seconds:.2f} s' if seconds >= 1 else f'{seconds * 1e3:.3g} ms'


def failed(row: dict) -> bool:
    return bool(row.get('error'))


def measured(results: dict) -> list[dict]:
    """The rows that stand for something measured here: neither published nor failed."""
    return [row for row in results['rows'] if not row['published'] and not failed(row)]


def may_win(row: dict, column: Column) -> bool:
    """Whether a row can be the best of a column: measured here, and for quality with trained weights."""
    trained = not row.get('random_weights') or column.path[0] in COSTS
    return trained and not row['published'] and not failed(row)


def best_text(results: dict, column: Column) -> str | None:
    """How the best value of a column reads, so that what reads alike is best alike; None without one."""
    rows = [row for row in results['rows'] if may_win(row, column)]
    values = [value for row in rows if (value := column.value(row)) is not None]
    if not values:
        return None
    return column.text(max(values) if column.better == 'higher' else min(values))


def display_name(row: dict) -> str:
    return f'{row["name"]} (random weights)' if row.get('random_weights') else row['name']


# ---------------------------------------------------------------- terminal and CSV


def terminal_table(results: dict, width: int | None = None) -> str:
    """The results as text, aligned for a fixed-width font.

    The costs and the averages come first; the clips stand beside them while they fit, else in tables below. Published
    rows stand under the sources they come from, below all that was measured; under a failed row stands its reason.

    Args:
        results: The document of `results.json`.
        width: How many characters a line may hold; default: the terminal's.

    Returns:
        The tables without a final newline.
    """
    width = width or shutil.get_terminal_size((120, 24)).columns
    rows = sorted(results['rows'], key=lambda row: (row['published'], row.get('source') or '', failed(row)))
    names = ['', 'method', *(display_name(row) for row in rows)]
    name_block = [name.ljust(max(map(len, names))) for name in names]
    blocks = [(text_block(label, columns, rows), columns) for label, columns in column_groups(results)]

    tables = []
    for chunk in fitting_chunks(blocks, width - len(name_block[0])):
        texts, groups = zip(*chunk)
        lines = ['   '.join(parts).rstrip() for parts in zip(name_block, *texts)]
        body = row_lines(rows, lines[2:], list(itertools.chain(*groups)), first=not tables)
        tables.append('\n'.join([*lines[:2], *body]))
    return '\n\n'.join([*tables, metrics_sentence(results)])


def text_block(label: str, columns: Sequence[Column], rows: Sequence[dict]) -> list[str]:
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
    """Deal the blocks, texts with their columns, out to tables; one that does not fit any more begins the next."""
    chunks, used = [], width
    for block in blocks:
        needed = 3 + len(block[0][0])
        if not chunks or used + needed > width:
            chunks.append([])
            used = 0
        chunks[-1].append(block)
        used += needed
    return chunks


def row_lines(rows: Sequence[dict], lines: Sequence[str], columns: Sequence[Column], first: bool) -> list[str]:
    """The rows' lines with what stands between them; after the `first` table, rows without a value are left out."""
    out = []
    sections = itertools.groupby(zip(rows, lines), key=lambda pair: pair[0]['published'] and (pair[0]['source'] or ''))
    for source, pairs in sections:
        pairs = [(row, line) for row, line in pairs if first or any(column.cell(row) for column in columns)]
        if pairs and source is not False:
            out.append(f'-- published, not measured here: {source or "source not named"}')
        for row, line in pairs:
            out.append(line)
            if first and failed(row):
                out.append(f'    failed: {row["error"]}')
    return out


def metrics_sentence(results: dict) -> str:
    """Which way each metric is better, and its unit."""
    metrics = results['metrics'].values()
    return ', '.join(
        f'{metric["label"]}{" in " + metric["unit"] if metric["unit"] else ""} ({metric["better"]} is better)'
        for metric in metrics
    )


def write_csv(results: dict, path: str | Path) -> None:
    """Write one line per method and clip, and one per method for the average, at full precision.

    Args:
        results: The document of `results.json`.
        path: The file to write.
    """
    described = ('published', 'source', 'random_weights', 'error', *COSTS)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(['method', 'clip', *described, *results['metrics']])
    for row in results['rows']:
        clips = [
            *((clip, (row.get('clips') or {}).get(clip)) for clip in results['clips']),
            ('average', row.get('average')),
        ]
        for clip, values in clips:
            writer.writerow(
                [row['name'], clip, *map(row.get, described), *((values or {}).get(key) for key in results['metrics'])]
            )
    write_text(Path(path), file.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    temporary = path.with_name(path.name + '.tmp')
    with open(temporary, 'w', encoding='utf-8', newline='') as file:
        file.write(text)
    temporary.replace(path)


# ---------------------------------------------------------------- report


def write_report(results: dict, folder: str | Path) -> Path:
    """Write `report.html`: one page that needs no other file and no network.

    Args:
        results: The document of `results.json`.
        folder: The folder of `results.json`, to which the paths of the pictures are relative.

    Returns:
        The path of the page.

    Raises:
        InputError: A picture is missing, damaged, or not of the size of its fellows.
    """
    folder = Path(folder)
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template('report.html').render(
        results=results,
        style=Markup((here / 'report.css').read_text(encoding='utf-8')),
        script=Markup((here / 'report.js').read_text(encoding='utf-8')),
        settings=settings_sentence(results),
        metrics=metrics_sentence(results),
        groups=column_groups(results),
        rows=table_rows(results),
        sources=published_sources(results),
        plots=scatter_plots(results),
        clips=[clip_view(results, clip, folder) for clip in results['clips'] if has_pictures(results, clip)],
    )
    path = folder / 'report.html'
    write_text(path, page)
    return path


def settings_sentence(results: dict) -> str:
    """What was measured, on what, and how."""
    settings = results['settings']
    labels = [metric['label'] for metric in results['metrics'].values()]
    listed = ' and '.join(filter(None, [', '.join(labels[:-1]), labels[-1]]))
    channel = 'in RGB' if settings['channel'] == 'RGB' else f'on the {settings["channel"]} channel'
    border = f'{settings["crop_border"]} px cut off each border' if settings['crop_border'] else 'no border cut off'
    device = 'the CPU' if settings['device'] == 'cpu' else settings['device']
    quality = f'{listed} at ×{settings["scale"]} {channel}, with {border}; frames: {settings["frames"]}.'
    if settings['profile_size'] is None:
        return f'{quality} Costs were not measured.'
    height, width = settings['profile_size']
    return f'{quality} Multiply-adds, time and memory are for an input of {width} × {height} px on {device}.'


def table_rows(results: dict) -> list[dict]:
    """The rows of the page's table, failed ones last: each a row, its groups of cells and what they sort by."""
    groups = [[(column, best_text(results, column)) for column in columns] for _, columns in column_groups(results)]
    return [
        {'row': row, 'groups': [[table_cell(row, *pair) for pair in group] for group in groups]}
        for row in sorted(results['rows'], key=lambda row: (failed(row), row['published']))
    ]


def table_cell(row: dict, column: Column, best: str | None) -> dict:
    value, text = column.value(row), column.cell(row)
    order = '' if value is None else repr(float(value)).replace('inf', 'Infinity')  # as JavaScript reads it
    return {'text': text, 'order': order, 'best': text == best and may_win(row, column)}


def published_sources(results: dict) -> dict[str, list[str]]:
    """Source -> names of its published rows."""
    sources = {}
    for row in results['rows']:
        if row['published']:
            sources.setdefault(row['source'] or 'a source not named', []).append(row['name'])
    return sources


# ---------------------------------------------------------------- pictures

LARGEST_LOSSLESS = 600_000  # pixels; a page of larger frames would be too heavy to open
LOSSLESS = 101  # OpenCV's WebP encoder takes a quality above 100 for lossless
LOSSY = 95


def clip_view(results: dict, clip: str, folder: Path) -> dict:
    """What the page shows of one clip: its pictures as data URIs, where the crop lies, how far it is enlarged."""
    pictures = results['pictures'][clip]
    top, left, height, width = pictures['window']
    files = pictures['methods']
    sizes = {kind: read_picture(folder / files['GT'][kind]).shape[:2] for kind in ('frame', 'profile')}
    sizes['crop'] = (height, width)
    frame_height, frame_width = sizes['frame']
    num_frame, profile_width = sizes['profile']
    lossy = frame_height * frame_width > LARGEST_LOSSLESS
    qualities = {'frame': LOSSY if lossy else LOSSLESS, 'crop': LOSSLESS, 'profile': LOSSLESS}

    rows = {row['name']: row for row in results['rows'] if not row['published']}
    methods = [
        {
            'name': name,
            'scores': clip_scores(results, clip, rows.get(name)),
            **{kind: data_uri(read_picture(folder / paths[kind], sizes[kind]), qualities[kind]) for kind in sizes},
        }
        for name, paths in files.items()
    ]
    before, after = default_pair(results, clip, list(files))
    return {
        'name': clip,
        'frame': pictures['frame'],
        'line': pictures['line'],
        'width': frame_width,
        'height': frame_height,
        'num_frame': num_frame,
        'profile_width': profile_width,
        'window': {
            'left': percent(left, frame_width),
            'top': percent(top, frame_height),
            'width': percent(width, frame_width),
            'height': percent(height, frame_height),
        },
        'line_at': percent(pictures['line'] + 0.5, frame_height),
        'crop_width': width,
        'crop_zoom': max(2, 256 // width),
        'crop_zoom_small': max(1, 160 // width),
        'frame_zoom': max(1, 720 // frame_width),
        'profile_zoom': max(1, min(8, round(120 / num_frame))),
        'lossy': LOSSY if lossy else None,
        'methods': methods,
        'before': before,
        'after': after,
    }


def has_pictures(results: dict, clip: str) -> bool:
    return bool(results['pictures'].get(clip, {}).get('methods'))


def percent(part: float, whole: float) -> str:
    return f'{100 * part / whole:.4f}%'


def read_picture(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a picture, which must be of that height and width, as (h, w, 3) BGR uint8."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise InputError(f'{path} cannot be read ({error.strerror}); run the benchmark again') from error
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if picture is None:
        raise InputError(f'{path} is damaged or no picture; run the benchmark again')
    if size and picture.shape[:2] != tuple(size):
        expected, got = (f'{height} x {width}' for height, width in (size, picture.shape[:2]))
        raise InputError(f'{path} should be {expected} pixels, but is {got}; run the benchmark again')
    return picture


def data_uri(picture: np.ndarray, quality: int) -> str:
    data = cv2.imencode('.webp', picture, [cv2.IMWRITE_WEBP_QUALITY, quality])[1]
    return f'data:image/webp;base64,{base64.b64encode(data).decode("ascii")}'


def clip_scores(results: dict, clip: str, row: dict | None) -> list[tuple[str, str, str]]:
    """Label, value and unit of each metric that a method has on a clip."""
    columns = [metric_column(results, key, ('clips', clip)) for key in results['metrics']]
    return [(column.label, column.cell(row), column.unit) for column in columns if column.cell(row)]


def default_pair(results: dict, clip: str, names: list[str]) -> tuple[int, int]:
    """What the slider shows at first: the first method and the best by the first metric, GT where they are one."""
    column = metric_column(results, next(iter(results['metrics'])), ('clips', clip))
    scores = {
        names.index(row['name']): column.value(row)
        for row in results['rows']
        if may_win(row, column) and row['name'] in names and column.value(row) is not None
    }
    if not scores:
        return 0, len(names) - 1
    first = min(scores)
    best = (max if column.better == 'higher' else min)(scores, key=scores.get)
    return first, best if best != first else len(names) - 1


# ---------------------------------------------------------------- plots

# Colours that matplotlib draws with, and the page's colours that take their places.
INK, MUTED, RULE, ACCENT, PAPER = (f'#0{i}0{i}0{i}' for i in range(1, 6))
PAGE_COLOURS = {
    INK: 'var(--ink)',
    MUTED: 'var(--muted)',
    RULE: 'var(--rule)',
    ACCENT: 'var(--accent)',
    PAPER: 'var(--paper)',
}
PLOT_STYLE = {
    'svg.fonttype': 'none',  # text stays text, in the page's font
    'font.family': 'DejaVu Sans',
    'font.size': 11,
    'text.color': INK,
    'axes.labelcolor': INK,
    'axes.edgecolor': MUTED,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': RULE,
    'grid.linewidth': 0.8,
    'xtick.color': MUTED,
    'ytick.color': MUTED,
    'xtick.labelcolor': INK,
    'ytick.labelcolor': INK,
    'xtick.minor.size': 0,
}
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
LABEL_SIZE = 10
DISTANCES = (8, 18, 30, 44)  # of a label from its point, in pixels


class Point(NamedTuple):
    label: str
    x: float
    y: float
    published: bool


def scatter_plots(results: dict) -> list[dict]:
    """The first metric's average against time and against parameters: a title and an SVG (None without points)."""
    metric = metric_column(results, next(iter(results['metrics'])), ('average',))
    y_label = f'{metric.label} ({metric.unit})' if metric.unit else metric.label
    plots = []
    for key, factor, title, x_label in (
        ('seconds_per_frame', 1, 'time', 'seconds per frame'),
        ('params', 1e-6, 'parameters', 'parameters (M)'),
    ):
        points = [
            Point(short_name(row), row[key] * factor, metric.value(row), row['published'])
            for row in results['rows']
            if not failed(row)
            and all(value is not None and math.isfinite(value) for value in (row.get(key), metric.value(row)))
        ]
        svg = scatter_plot(points, x_label, y_label, key) if points else None
        plots.append({'title': f'{metric.label} and {title}', 'x_label': x_label, 'svg': svg})
    return plots


def short_name(row: dict) -> str:
    return f'{row["name"]} (random)' if row.get('random_weights') else row['name']


def scatter_plot(points: Sequence[Point], x_label: str, y_label: str, name: str) -> Markup:
    """Labelled points as inline SVG; logarithmic in x where the values span more than a decade.

    A logarithmic axis has no zero: there, points at zero stand at the left end, on a tick that reads 0.
    """
    with matplotlib.rc_context({**PLOT_STYLE, 'svg.hashsalt': name}):
        figure = Figure(figsize=(6.6, 4.9), dpi=72)  # 72: a pixel is a point, as in the SVG
        axes = figure.add_axes((0.11, 0.13, 0.86, 0.78))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label, parse_math=False)
        positions = scale_x(axes, [point.x for point in points])
        axes.margins(0.08, 0.1)
        for published, label, face in ((False, 'measured here', ACCENT), (True, 'published', PAPER)):
            chosen = [(x, point.y) for x, point in zip(positions, points) if point.published == published]
            if chosen:
                style = {'s': 42, 'c': face, 'edgecolors': ACCENT, 'linewidths': 1.4, 'zorder': 3}
                axes.scatter(*zip(*chosen), label=label, gid='published-points' if published else None, **style)
        if any(point.published for point in points):
            place = {'loc': 'lower right', 'bbox_to_anchor': (1, 1), 'ncols': 2}
            axes.legend(**place, frameon=False, handletextpad=0, columnspacing=1)
        place_labels(axes, [(point, x, point.y) for x, point in zip(positions, points)])
        return inline_svg(figure, name, f'Scatter plot: {y_label} against {x_label}')


def scale_x(axes, values: Sequence[float]) -> list[float]:
    """Choose the x axis; returns where on it the values stand."""
    positive = [value for value in values if value > 0]
    if not positive or max(positive) <= 10 * min(positive):
        return list(values)
    low, high = min(positive), max(positive)
    ticks = log_ticks(low / 1.5, high * 1.5)
    labels = [f'{tick:g}' for tick in ticks]
    if len(positive) < len(values):
        low = min(low, ticks[0]) / 3
        ticks, labels = [low, *ticks], ['0', *labels]
    axes.set_xscale('log')
    axes.set_xticks(ticks, labels)
    axes.set_xticks([], minor=True)
    return [value or low for value in values]


def log_ticks(low: float, high: float) -> list[float]:
    """At most seven round numbers between `low` and `high`, evenly spread on a logarithmic axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) <= 7:
            break
    return ticks[:: math.ceil(len(ticks) / 7)]


def place_labels(axes, placed: Sequence[tuple[Point, float, float]]) -> None:
    """Label each point; a label that stands off gets a line to its point.

    Args:
        axes: Whose scales are final.
        placed: Each point with its x and y on the axes.
    """
    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    axes.autoscale_view()
    axes.autoscale(False)
    font = FontProperties(size=LABEL_SIZE)
    sizes = [renderer.get_text_width_height_descent(point.label, font, ismath=False)[:2] for point, *_ in placed]
    centres = [tuple(axes.transData.transform(position)) for _, *position in placed]
    places = arrange_labels(centres, sizes, tuple(axes.get_window_extent(renderer).extents))
    line = {'arrowstyle': '-', 'color': MUTED, 'linewidth': 0.8, 'shrinkA': 1, 'shrinkB': 5}
    for number, ((point, *position), (direction, distance)) in enumerate(zip(placed, places)):
        axes.annotate(
            point.label,
            position,
            offset(direction, distance),
            textcoords='offset points',
            ha=('center', 'left', 'right')[direction[0]],
            va=('center', 'bottom', 'top')[direction[1]],
            fontproperties=font,
            color=MUTED if point.published else INK,
            gid=f'published-{number}' if point.published else None,
            parse_math=False,
            arrowprops=line if distance > DISTANCES[0] else None,
        )


def arrange_labels(centres, sizes, area) -> list[tuple[tuple[int, int], int]]:
    """Where labels of these sizes, around points at `centres`, are least in the way of each other and of the points.

    Each label in turn takes the best place beside the others', three times over, since those after it move too.

    Returns:
        Direction and distance of each label from its point.
    """
    markers = [(x - 6, y - 6, x + 6, y + 6) for x, y in centres]
    places, boxes = {}, {}  # the boxes of a label: its text and its line
    for _ in range(3):
        for i, (centre, size) in enumerate(zip(centres, sizes)):
            taken = markers + [box for j in boxes if j != i for box in boxes[j]]
            places[i], boxes[i] = best_place(centre, size, centres, taken, area)
    return list(places.values())


def best_place(centre, size, centres, taken, area) -> tuple[tuple[tuple[int, int], int], list]:
    """The best place of one label, as direction and distance from its point, and the boxes that it fills there."""
    places = {
        (direction, distance): label_boxes(centre, size, direction, distance)
        for distance in DISTANCES
        for direction in DIRECTIONS
    }
    return min(places.items(), key=lambda item: badness(item[1], centre, centres, taken, area) + 20 * item[0][1])


def offset(direction: tuple[int, int], distance: float) -> tuple[float, float]:
    return tuple(distance * part / math.hypot(*direction) for part in direction)


def label_boxes(centre, size, direction, distance) -> list[tuple[float, float, float, float]]:
    """Left, bottom, right and top of what a label fills: its text, 2 pixels around it, and pieces of its line."""
    shift = offset(direction, distance)
    left, bottom = (c + s - length * (1 - d) / 2 for c, s, length, d in zip(centre, shift, size, direction))
    boxes = [(left - 2, bottom - 2, left + size[0] + 2, bottom + size[1] + 2)]
    for part in range(DISTANCES[0], distance, 4):
        x, y = (c + s for c, s in zip(centre, offset(direction, part)))
        boxes.append((x - 2, y - 2, x + 2, y + 2))
    return boxes


def badness(boxes, centre, centres, taken, area) -> float:
    """How bad a place for the label of the point at `centre` is.

    It counts the square pixels that others have taken and, far more, those outside the area; and the points that are
    nearer to the text than its own, whose label it would seem to be.
    """
    text = boxes[0]
    outside = (text[2] - text[0]) * (text[3] - text[1]) - overlap(text, area)
    misleading = sum(gap(text, other) < gap(text, centre) for other in centres)
    covered = sum(overlap(box, other) for box in boxes for other in taken)
    return 10 * covered + 100 * outside + 500 * misleading


def gap(box, point) -> float:
    """Distance from a point to a box."""
    return math.hypot(*(max(box[i] - point[i], 0, point[i] - box[i + 2]) for i in (0, 1)))


def overlap(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def inline_svg(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an element of a page: in the page's colours, its ids apart from those of other figures."""
    file = io.StringIO()
    figure.savefig(file, format='svg', transparent=True, metadata=dict.fromkeys(('Creator', 'Date', 'Format', 'Type')))
    svg = ElementTree.fromstring(file.getvalue())
    for element in svg.iter():
        element.tag = element.tag.split('}')[-1]
        attributes = {key.split('}')[-1]: value for key, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({key: page_attribute(key, value, name) for key, value in attributes.items()})
    for parent in list(svg.iter()):
        for child in [child for child in parent if child.tag in ('metadata', 'style')]:  # its style is for any element
            parent.remove(child)
    for key in ('width', 'height', 'version'):
        svg.attrib.pop(key, None)
    svg.attrib.update({'role': 'img', 'aria-label': description})
    return Markup(ElementTree.tostring(svg, encoding='unicode'))


def page_attribute(key: str, value: str, name: str) -> str:
    if key == 'id':
        return f'{name}-{value}'
    if key == 'href':
        return value.replace('#', f'#{name}-')
    if key in ('style', 'clip-path', 'fill', 'stroke'):
        value = value.replace('url(#', f'url(#{name}-')
        return re.sub('|'.join(PAGE_COLOURS), lambda match: PAGE_COLOURS[match[0]], value)
    return value
