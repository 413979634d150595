"""Plots of quality against cost, as inline SVG in the page's colours, whose labels keep out of each other's way.

Nothing here needs torch or basicsr.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from basicsr_plugins.benchmark.results import Results, Row
from basicsr_plugins.benchmark.tables import metric_column

# Colours of matplotlib's lines, and the page's colours that take their places.
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


Position = tuple[float, float]
Box = tuple[float, float, float, float]  # left, bottom, right, top
Place = tuple[tuple[int, int], int]  # direction and distance of a label from its point


class Point(NamedTuple):
    label: str
    x: float
    y: float
    published: bool


def scatter_plots(results: Results) -> list[dict]:
    """The first metric's average against time and against parameters: a title and an SVG (None without points)."""
    metric = metric_column(results, next(iter(results.metrics)), ('average',))
    y_label = f'{metric.label} ({metric.unit})' if metric.unit else metric.label
    plots = []
    for key, factor, title, x_label in (
        ('seconds_per_frame', 1, 'time', 'seconds per frame'),
        ('params', 1e-6, 'parameters', 'parameters (M)'),
    ):
        points = [
            Point(short_name(row), getattr(row, key) * factor, metric.value(row), row.published)
            for row in results.rows
            if not row.error
            and all(value is not None and math.isfinite(value) for value in (getattr(row, key), metric.value(row)))
        ]
        svg = scatter_plot(points, x_label, y_label, key) if points else None
        plots.append({'title': f'{metric.label} and {title}', 'x_label': x_label, 'svg': svg})
    return plots


def short_name(row: Row) -> str:
    return f'{row.name} (random)' if row.random_weights else row.name


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


def scale_x(axes: Axes, values: Sequence[float]) -> list[float]:
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


def place_labels(axes: Axes, placed: Sequence[tuple[Point, float, float]]) -> None:
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


def arrange_labels(centres: Sequence[Position], sizes: Sequence[Position], area: Box) -> list[Place]:
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


def best_place(
    centre: Position, size: Position, centres: Sequence[Position], taken: Sequence[Box], area: Box
) -> tuple[Place, list[Box]]:
    """The best place of one label, as direction and distance from its point, and the boxes that it fills there."""
    places = {
        (direction, distance): label_boxes(centre, size, direction, distance)
        for distance in DISTANCES
        for direction in DIRECTIONS
    }
    return min(places.items(), key=lambda item: badness(item[1], centre, centres, taken, area) + 20 * item[0][1])


def offset(direction: tuple[int, int], distance: float) -> tuple[float, float]:
    return tuple(distance * step / math.hypot(*direction) for step in direction)


def label_boxes(centre: Position, size: Position, direction: tuple[int, int], distance: int) -> list[Box]:
    """Left, bottom, right and top of what a label fills: its text, 2 pixels around it, and pieces of its line."""
    shift = offset(direction, distance)
    left, bottom = (c + s - length * (1 - d) / 2 for c, s, length, d in zip(centre, shift, size, direction))
    boxes = [(left - 2, bottom - 2, left + size[0] + 2, bottom + size[1] + 2)]
    for along in range(DISTANCES[0], distance, 4):
        x, y = (c + s for c, s in zip(centre, offset(direction, along)))
        boxes.append((x - 2, y - 2, x + 2, y + 2))
    return boxes


def badness(
    boxes: Sequence[Box], centre: Position, centres: Sequence[Position], taken: Sequence[Box], area: Box
) -> float:
    """How bad a place for the label of the point at `centre` is.

    It counts the square pixels that others have taken and, far more, those outside the area; and the points that are
    nearer to the text than its own, whose label it would seem to be.
    """
    text = boxes[0]
    outside = (text[2] - text[0]) * (text[3] - text[1]) - overlap(text, area)
    misleading = sum(gap(text, other) < gap(text, centre) for other in centres)
    covered = sum(overlap(box, other) for box in boxes for other in taken)
    return 10 * covered + 100 * outside + 500 * misleading


def gap(box: Box, point: Position) -> float:
    """Distance from a point to a box."""
    return math.hypot(*(max(box[i] - point[i], 0, point[i] - box[i + 2]) for i in (0, 1)))


def overlap(a: Box, b: Box) -> float:
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
