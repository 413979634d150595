"""Compare methods on the same clips: a table of their metrics, and a sheet of their pictures.

Pictures are (h, w, 3) BGR uint8.
"""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np

from basicsr_plugins.errors import InputError

MARGIN = 8
LABEL_HEIGHT = 28
FRAME_COLOUR = (0, 220, 255)


def read_metrics(path: Path) -> dict[str, dict[str, float]]:
    """Read a `metrics.csv` of `VSRModel`; of several validations in it the last counts.

    Returns:
        Clip -> metric -> value; the last clip is `average`.

    Raises:
        InputError: The file is missing or holds no average.
    """
    if not path.is_file():
        raise InputError(f'{path} is missing; the test that writes it did not finish.')
    with open(path, newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    last = [(row['dataset'], row['iter']) for row in rows[-1:]]
    rows = [row for row in rows if (row['dataset'], row['iter']) in last]
    metrics = {
        row['clip']: {name: float(row[name]) for name in row if name not in ('dataset', 'iter', 'clip')} for row in rows
    }
    if 'average' not in metrics:
        raise InputError(f'{path} holds no average; the test that writes it did not finish.')
    return metrics


def comparison_table(baseline: tuple[str, dict], ours: tuple[str, dict]) -> str:
    """PSNR and SSIM of two methods per clip, and the gain of the second.

    Args:
        baseline: Name and metrics, as `read_metrics` gives them.
        ours: Likewise, of the same clips.

    Returns:
        The table, aligned for reading, without a final newline.
    """
    (base_name, base), (our_name, our) = baseline, ours
    if set(base) != set(our):
        raise InputError(f'{base_name} has clips {sorted(base)}, but {our_name} has {sorted(our)}; test both anew.')
    lines = [f'{"clip":<10}{base_name + " PSNR/SSIM":>22}{our_name + " PSNR/SSIM":>22}{"gain":>18}']
    for clip in [*sorted(set(base) - {'average'}), 'average']:
        a, b = base[clip], our[clip]
        gain = f'{b["psnr"] - a["psnr"]:+.2f} dB {b["ssim"] - a["ssim"]:+.4f}'
        scores = (f'{value["psnr"]:.2f} / {value["ssim"]:.4f}' for value in (a, b))
        lines.append(f'{clip:<10}' + ''.join(f'{score:>22}' for score in scores) + f'{gain:>18}')
    return '\n'.join(lines)


def comparison_sheet(pictures: dict[str, np.ndarray], window: tuple[int, int, int, int], zoom: int = 4) -> np.ndarray:
    """Pictures side by side, each with its label and, below it, the same window enlarged.

    Args:
        pictures: Label -> picture, all of one size.
        window: Top, left, height and width of what is enlarged.
        zoom: How many times; pixels stay squares.
    """
    top, left, height, width = window
    columns = []
    for label, picture in pictures.items():
        marked = cv2.rectangle(picture.copy(), (left, top), (left + width - 1, top + height - 1), FRAME_COLOUR, 1)
        crop = enlarge(picture[top : top + height, left : left + width], zoom)
        column_width = max(marked.shape[1], crop.shape[1])
        rows = (label_bar(label, column_width), marked, np.zeros((MARGIN, 1, 3), np.uint8), crop)
        columns.append(np.vstack([pad_width(row, column_width) for row in rows]))
    gap = np.zeros((columns[0].shape[0], MARGIN, 3), np.uint8)
    return np.hstack([picture for column in columns for picture in (column, gap)][:-1])


def label_bar(text: str, width: int) -> np.ndarray:
    bar = np.zeros((LABEL_HEIGHT, width, 3), np.uint8)
    return cv2.putText(bar, text, (6, LABEL_HEIGHT - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)


def pad_width(picture: np.ndarray, width: int) -> np.ndarray:
    return np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)))


def enlarge(picture: np.ndarray, factor: int) -> np.ndarray:
    """Nearest-neighbour enlargement."""
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)
