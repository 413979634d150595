"""`report.html`: one page with table, plots, pictures and the way it was measured.

Nothing here needs torch or basicsr.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from basicsr_plugins.benchmark.figures import scatter_plots
from basicsr_plugins.benchmark.results import Results, Row
from basicsr_plugins.benchmark.tables import (
    Column,
    best_text,
    column_groups,
    may_win,
    metric_column,
    metrics_sentence,
    notes_on_averages,
)
from basicsr_plugins.errors import InputError
from basicsr_plugins.files import write_atomically

HERE = Path(__file__).parent

LARGEST_LOSSLESS = 600_000  # pixels; a page of larger frames would be too heavy to open
LOSSLESS = 101  # OpenCV's WebP encoder takes a quality above 100 for lossless
LOSSY = 95


def write_report(results: Results, folder: str | Path) -> Path:
    """Write `report.html`: one page that needs no other file and no network.

    Args:
        results: What was found.
        folder: Where the page is written, to which the paths of the pictures are relative.

    Returns:
        The path of the page.

    Raises:
        InputError: A picture is missing, damaged, or not of the size of its fellows.
    """
    folder = Path(folder)
    page = render(
        'report.html',
        results=results,
        script=Markup((HERE / 'report.js').read_text(encoding='utf-8')),
        settings=settings_sentence(results),
        metrics=metrics_sentence(results),
        notes_on_averages=notes_on_averages(results),
        groups=column_groups(results),
        rows=table_rows(results),
        sources=published_sources(results),
        plots=scatter_plots(results),
        clips=[clip_view(results, clip, folder) for clip in results.clips if has_pictures(results, clip)],
    )
    path = folder / 'report.html'
    write_atomically(path, page)
    return path


def render(template: str, **values: Any) -> str:
    """The page that a template beside this file makes of values, in the reports' style."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup((HERE / 'report.css').read_text(encoding='utf-8'))
    return environment.get_template(template).render(style=style, **values)


def settings_sentence(results: Results) -> str:
    """What was measured, on what, and how."""
    settings = results.settings
    labels = [metric['label'] for metric in results.metrics.values()]
    listed = ' and '.join(filter(None, [', '.join(labels[:-1]), labels[-1]]))
    channel = 'in RGB' if settings['channel'] == 'RGB' else f'on the {settings["channel"]} channel'
    if 'lpips' in results.metrics and settings['channel'] != 'RGB':
        channel += ' (LPIPS in RGB)'
    border = f'{settings["crop_border"]} px cut off each border' if settings['crop_border'] else 'no border cut off'
    device = 'the CPU' if settings['device'] == 'cpu' else settings['device']
    quality = f'{listed} at ×{settings["scale"]} {channel}, with {border}; frames: {settings["frames"]}.'
    if settings['profile_size'] is None:
        return f'{quality} Costs were not measured.'
    height, width = settings['profile_size']
    return f'{quality} Multiply-adds, time and memory are for an input of {width} × {height} px on {device}.'


def table_rows(results: Results) -> list[dict]:
    """The rows of the page's table, failed ones last: each a row, its groups of cells and what they sort by."""
    groups = [[(column, best_text(results, column)) for column in columns] for _, columns in column_groups(results)]
    return [
        {'row': row, 'groups': [[table_cell(row, *pair) for pair in group] for group in groups]}
        for row in sorted(results.rows, key=lambda row: (bool(row.error), row.published))
    ]


def table_cell(row: Row, column: Column, best: str | None) -> dict:
    value, text = column.value(row), column.cell(row)
    order = '' if value is None else repr(float(value)).replace('inf', 'Infinity')  # as JavaScript reads it
    return {'text': text, 'order': order, 'best': text == best and may_win(row, column)}


def published_sources(results: Results) -> dict[str, list[str]]:
    """Source -> names of its published rows."""
    sources = {}
    for row in results.rows:
        if row.published:
            sources.setdefault(row.source, []).append(row.name)
    return sources


# ---------------------------------------------------------------- pictures


def clip_view(results: Results, clip: str, folder: Path) -> dict:
    """What the page shows of one clip: its pictures as data URIs, where the crop lies, how far it is enlarged."""
    pictures = results.pictures[clip]
    top, left, height, width = pictures['window']
    files = pictures['methods']
    sizes = {kind: read_picture(folder / files['GT'][kind]).shape[:2] for kind in ('frame', 'profile')}
    sizes['crop'] = (height, width)
    frame_height, frame_width = sizes['frame']
    num_frame, profile_width = sizes['profile']
    lossy = frame_height * frame_width > LARGEST_LOSSLESS
    qualities = {'frame': LOSSY if lossy else LOSSLESS, 'crop': LOSSLESS, 'profile': LOSSLESS}

    rows = {row.name: row for row in results.rows if not row.published}
    methods = [
        {
            'name': name,
            'scores': clip_scores(results, clip, rows.get(name, Row(name))),  # GT has none
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


def has_pictures(results: Results, clip: str) -> bool:
    return bool(results.pictures.get(clip, {}).get('methods'))


def percent(part: float, whole: float) -> str:
    return f'{100 * part / whole:.4f}%'


def read_picture(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a picture, which must be of that height and width, as (h, w, 3) BGR uint8."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise InputError(f'{path} cannot be read ({error.strerror}); run the benchmark again.') from error
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if picture is None:
        raise InputError(f'{path} is damaged or no picture; run the benchmark again.')
    if size and picture.shape[:2] != tuple(size):
        expected, got = (f'{height} x {width}' for height, width in (size, picture.shape[:2]))
        raise InputError(f'{path} should be {expected} pixels, but is {got}; run the benchmark again.')
    return picture


def data_uri(picture: np.ndarray, quality: int) -> str:
    data = cv2.imencode('.webp', picture, [cv2.IMWRITE_WEBP_QUALITY, quality])[1]
    return f'data:image/webp;base64,{base64.b64encode(data).decode("ascii")}'


def clip_scores(results: Results, clip: str, row: Row) -> list[tuple[str, str, str]]:
    """Label, value and unit of each metric that a method has on a clip."""
    columns = [metric_column(results, key, ('clips', clip)) for key in results.metrics]
    return [(column.label, column.cell(row), column.unit) for column in columns if column.cell(row)]


def default_pair(results: Results, clip: str, names: list[str]) -> tuple[int, int]:
    """What the slider shows at first: the first method and the best by the first metric, GT where they are one."""
    column = metric_column(results, next(iter(results.metrics)), ('clips', clip))
    scores = {
        names.index(row.name): column.value(row)
        for row in results.rows
        if may_win(row, column) and row.name in names and column.value(row) is not None
    }
    if not scores:
        return 0, len(names) - 1
    first = min(scores)
    best = (max if column.better == 'higher' else min)(scores, key=scores.get)
    return first, best if best != first else len(names) - 1
