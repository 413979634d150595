"""Compare methods on the same clips: a table of their metrics, and a sheet of their pictures.

Pictures are (h, w, 3) BGR uint8.
"""

import csv
from pathlib import Path

import cv2
import numpy as np

from basicsr_plugins.errors import InputError

MARGIN = 8
LABEL_HEIGHT = 28
FRAME_COLOUR = (0, 220, 255)


def read_metrics(path):
    """Read a `metrics.csv` of `VSRModel`; of several validations in it the last counts.

    Returns:
        dict[str, dict[str, float]]: Clip -> metric -> value; the last clip is `average`.

    Raises:
        InputError: The file is missing or holds no average.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'{path} is missing; the test that writes it did not finish')
    with open(path, newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    last = [(row['dataset'], row['iter']) for row in rows[-1:]]
    rows = [row for row in rows if (row['dataset'], row['iter']) in last]
    metrics = {
        row['clip']: {name: float(row[name]) for name in row if name not in ('dataset', 'iter', 'clip')} for row in rows
    }
    if 'average' not in metrics:
        raise InputError(f'{path} holds no average; the test that writes it did not finish')
    return metrics


def comparison_table(baseline, ours):
    """PSNR and SSIM of two methods per clip, and the gain of the second.

    Args:
        baseline (tuple[str, dict]): Name and metrics, as `read_metrics` gives them.
        ours (tuple[str, dict]): Likewise, of the same clips.

    Returns:
        str: The table, aligned for reading, without a final newline.
    """
    (base_name, base), (our_name, our) = baseline, ours
    if set(base) != set(our):
        raise InputError(f'{base_name} has clips {sorted(base)}, but {our_name} has {sorted(our)}; test both anew')
    lines = [f'{"clip":<10}{base_name + " PSNR/SSIM":>22}{our_name + " PSNR/SSIM":>22}{"gain":>18}']
    for clip in [*sorted(set(base) - {'average'}), 'average']:
        a, b = base[clip], our[clip]
        gain = f'{b["psnr"] - a["psnr"]:+.2f} dB {b["ssim"] - a["ssim"]:+.4f}'
        scores = (f'{value["psnr"]:.2f} / {value["ssim"]:.4f}' for value in (a, b))
        lines.append(f'{clip:<10}' + ''.join(f'{score:>22}' for score in scores) + f'{gain:>18}')
    return '\n'.join(lines)


def most_different(first, second, size):
    """The window in which two pictures differ the most, by mean absolute difference.

    Args:
        size (tuple[int, int]): Height and width of the window.

    Returns:
        tuple[int, int]: Its top and left.
    """
    height, width = size
    difference = np.abs(first.astype(np.float32) - second).mean(2)
    summed = cv2.integral(difference, sdepth=cv2.CV_64F)
    window = summed[height:, width:] - summed[:-height, width:] - summed[height:, :-width] + summed[:-height, :-width]
    return tuple(int(i) for i in np.unravel_index(window.argmax(), window.shape))


def comparison_sheet(pictures, window, zoom=4):
    """Pictures side by side, each with its label and, below it, the same window enlarged.

    Args:
        pictures (dict[str, ndarray]): Label -> picture, all of one size.
        window (tuple[int, int, int, int]): Top, left, height and width of what is enlarged.
        zoom (int): How many times; pixels stay squares.

    Returns:
        ndarray: The sheet.
    """
    top, left, height, width = window
    columns = []
    for label, picture in pictures.items():
        marked = cv2.rectangle(picture.copy(), (left, top), (left + width - 1, top + height - 1), FRAME_COLOUR, 1)
        crop = enlarge(picture[top : top + height, left : left + width], zoom)
        column_width = max(marked.shape[1], crop.shape[1])
        parts = (label_bar(label, column_width), marked, np.zeros((MARGIN, 1, 3), np.uint8), crop)
        columns.append(np.vstack([pad_width(part, column_width) for part in parts]))
    gap = np.zeros((columns[0].shape[0], MARGIN, 3), np.uint8)
    spaced = [part for column in columns for part in (column, gap)][:-1]
    return np.hstack(spaced)


def label_bar(text, width):
    bar = np.zeros((LABEL_HEIGHT, width, 3), np.uint8)
    return cv2.putText(bar, text, (6, LABEL_HEIGHT - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)


def pad_width(picture, width):
    return np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)))


def enlarge(picture, factor):
    """Nearest-neighbour enlargement."""
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)
