"""Procedural pictures for generated clips: what films are made of, as far as a few lines can say it.

Each function gives a picture (h, w, 3), RGB uint8, which is to be seen at about half its size, so that what is one
pixel here is finer than a GT pixel. `rng` decides everything.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

LETTERS = 'eeeeeeeetttttaaaaaooooiiiiinnnnsssshhhrrrddllcumwfgypbvkxjqz'
FONTS = (
    'DejaVuSans.ttf',
    'DejaVuSans-Bold.ttf',
    'DejaVuSansMono.ttf',
    'DejaVuSerif.ttf',
    'DejaVuSerif-BoldItalic.ttf',
    'STIXGeneral.ttf',
    'STIXGeneralBol.ttf',
    'STIXGeneralItalic.ttf',
    'cmtt10.ttf',
)
SHIFT = 4  # fractional bits of the coordinates that OpenCV's drawing takes


def random_colours(rng: np.random.Generator, number: int, saturation: float = 0.4) -> np.ndarray:
    """Colours (number, 3) RGB float32 in [0, 255]: any hue and brightness, `saturation` in (0, 1) on average."""
    depth = rng.beta(4 * saturation, 4 - 4 * saturation, number)
    hsv = np.stack([rng.uniform(0, 360, number), depth, rng.beta(1.4, 1.2, number)], axis=1)
    return 255 * cv2.cvtColor(hsv.astype(np.float32)[None], cv2.COLOR_HSV2RGB)[0]


def related_colours(rng: np.random.Generator, number: int, spread: float) -> np.ndarray:
    """Colours (number, 3) around one colour, in brightness more than in hue."""
    base = random_colours(rng, 1, rng.uniform(0.1, 0.6))
    colours = base * rng.uniform(1 - spread, 1 + spread, (number, 1)) + rng.normal(0, 20 * spread, (number, 3))
    return colours.clip(0, 255).astype(np.float32)


def octaves(rng: np.random.Generator, h: int, w: int, slope: float, coarsest: int = 256, finest: int = 1) -> np.ndarray:
    """Noise (h, w) float32 of mean about 0 and deviation about 1.

    Its amplitude falls by 2 ** -slope per octave, from a period of about `coarsest` pixels to one of `finest`; both are
    powers of 2.
    """
    step, total, power = coarsest, None, 0.0
    while step >= finest:
        size = (h // step + 4, w // step + 4)
        layer = rng.standard_normal(size, dtype=np.float32)
        amplitude = (step / coarsest) ** slope
        if total is None:
            total = layer
        else:
            total = cv2.resize(total, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
            top, left = rng.integers(0, [total.shape[0] - size[0] + 1, total.shape[1] - size[1] + 1])
            total = total[top : top + size[0], left : left + size[1]] + np.float32(amplitude) * layer
        power += amplitude**2 * (1 if step == finest else 0.6)  # interpolation takes some
        step //= 2
    if finest > 1:
        total = cv2.resize(total, None, fx=finest, fy=finest, interpolation=cv2.INTER_CUBIC)
    return total[:h, :w] * np.float32(1 / np.sqrt(power))


def coloured(rng: np.random.Generator, values: np.ndarray, colours: np.ndarray | None = None) -> np.ndarray:
    """Colours for (h, w) values of deviation 1: a ramp over three colours."""
    if colours is None:
        colours = random_colours(rng, 3, 0.35)
    table = np.stack([np.interp(np.linspace(-3, 3, 256), [-2.5, 0, 2.5], channel) for channel in colours.T], axis=1)
    index = cv2.convertScaleAbs(values.clip(-3, 3) + 3, alpha=42.5)
    return cv2.LUT(cv2.merge([index, index, index]), table.round().astype(np.uint8)[:, None])


def noise(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Clouds, stone, earth: noise whose spectrum is steep or flat."""
    return coloured(rng, octaves(rng, h, w, rng.uniform(0.3, 1.2), int(rng.choice([32, 64, 256]))))


def gradient(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Smooth shades, as of sky and walls, with a little grain."""
    return lit(rng, coloured(rng, octaves(rng, h, w, 1.5, 256, 32)), 0.0)


def lit(rng: np.random.Generator, picture: np.ndarray, strength: float = 0.25) -> np.ndarray:
    """Uneven light and a little grain over a flat picture."""
    h, w = picture.shape[:2]
    light = 1 + 0.02 * rng.standard_normal((h, w), dtype=np.float32)
    if strength:
        light += np.float32(strength / 2) * octaves(rng, h, w, 1.5, 256, 8).clip(-2, 2)
    return cv2.multiply(picture, cv2.merge([light, light, light]), dtype=cv2.CV_8U)


def dead_leaves(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Discs, ellipses and boxes that hide each other; their sizes follow a power law, as in natural pictures."""
    picture = gradient(rng, h, w).copy()
    smallest = rng.uniform(4, 12)
    number = int(min(1200, 0.35 * h * w / smallest**2))
    radius = smallest / np.sqrt(rng.uniform(0.004, 1, number))  # density r ** -3, over a range of 1 to 16
    order = np.argsort(-radius + rng.uniform(0, 6 * smallest, number))  # most of the large ones behind
    colours = random_colours(rng, number, rng.uniform(0.1, 0.6))
    angle, thin = rng.uniform(0, 180, number), rng.uniform(0.3, 1, number)
    centre = rng.uniform(0, [w, h], (number, 2))
    boxes = rng.random() < 0.5
    for i in order:
        colour, axes = colours[i].tolist(), np.array([radius[i], thin[i] * radius[i]])
        if boxes and i % 2:
            corners = cv2.boxPoints((centre[i].tolist(), (2 * axes).tolist(), float(angle[i])))
            _fill(picture, corners, colour)
        else:
            middle, axes = (tuple(np.int32(values * 2**SHIFT).tolist()) for values in (centre[i], axes))
            cv2.ellipse(picture, middle, axes, float(angle[i]), 0, 360, colour, -1, cv2.LINE_AA, SHIFT)
    return lit(rng, picture)


def foliage(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Leaves or grass: many like shapes, the ones behind darker."""
    length = rng.uniform(10, 40)
    number = int(min(1500, 5.0 * h * w / length**2))
    outline = np.array([(0, 0), (0.2, 0.6), (0.5, 1), (0.8, 0.6), (1, 0), (0.8, -0.6), (0.5, -1), (0.2, -0.6)])
    outline = (outline - [0.5, 0]) * [1, rng.uniform(0.06, 0.35)]
    angle = rng.normal(rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 2.0), number)
    turn = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], 1).reshape(number, 2, 2)
    leaves = (length * rng.uniform(0.6, 1.4, (number, 1, 1))) * (outline @ turn)
    leaves += rng.uniform(0, [w, h], (number, 1, 2))
    base = random_colours(rng, 1, 0.5) if rng.random() < 0.3 else np.array([[90, 140, 50]]) * rng.uniform(0.6, 1.4)
    depth = np.linspace(0.3, 1.2, number)[:, None]
    colours = (base * depth * rng.uniform(0.7, 1.3, (number, 1)) + rng.normal(0, 10, (number, 3))).clip(0, 255)
    picture = np.empty((h, w, 3), np.uint8)
    picture[:] = colours[0]
    points = np.int32(leaves * 2**SHIFT)
    for leaf, colour in zip(points, colours.tolist()):
        cv2.fillConvexPoly(picture, leaf, colour, cv2.LINE_AA, SHIFT)
    return lit(rng, picture, 0.4)


def _fill(picture, points, colour):
    cv2.fillConvexPoly(picture, np.int32(points * 2**SHIFT), colour, cv2.LINE_AA, SHIFT)


def stripes(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """One to three sets of lines, straight or round, hard or soft, of periods down to the finest that GT can show."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    values = np.zeros((h, w), np.float32)
    for _ in range(rng.integers(1, 4)):
        period = 5 * 2 ** rng.uniform(0, 3.5)
        if rng.random() < 0.25:
            along = np.hypot(x - rng.uniform(0, w), y - rng.uniform(0, h))
        else:
            angle = rng.uniform(0, np.pi) if rng.random() < 0.6 else rng.choice([0, np.pi / 2]) + rng.normal(0, 0.03)
            along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
        wave = np.sin(along * np.float32(2 * np.pi / period) + np.float32(rng.uniform(0, 6)))
        hardness = np.float32(min(rng.uniform(1, 8), period / np.pi))
        values += (hardness * (wave - np.float32(rng.uniform(-0.6, 0.6)))).clip(-1, 1)
    return lit(rng, coloured(rng, values), 0.3)


def facade(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Walls with windows in rows and columns: one wall, or houses of several heights before the sky."""
    if rng.random() < 0.4:
        return lit(rng, _wall(rng, h, w), 0.2)
    picture = gradient(rng, h, w).copy()
    top = 0.0
    while top < 0.7:
        left = 0
        while left < w:
            width = int(rng.uniform(40, 240))
            roof = int(h * np.clip(rng.normal(top, 0.15), 0, 0.95))
            house = _wall(rng, h - roof, min(width, w - left))
            picture[roof:, left : left + house.shape[1]] = house
            left += width
        top += rng.uniform(0.25, 0.5)
    return lit(rng, picture, 0.2)


def _wall(rng, h, w):
    """Windows repeat along x and y; each has its own brightness, a frame and perhaps a cross."""
    floor, bay = 6 * 2 ** rng.uniform(0.2, 3, 2)
    y, x = np.arange(h) / floor, np.arange(w) / bay
    tall, wide = rng.uniform(0.35, 0.8, 2)
    if rng.random() < 0.2:  # bands of glass
        wide = 1.2
    inside = _bump(y % 1 - 0.5, tall / 2, floor)[:, None] * _bump(x % 1 - 0.5, wide / 2, bay)
    number = (int(y[-1]) + 1, int(x[-1]) + 1)
    panes = related_colours(rng, number[0] * number[1], rng.uniform(0.05, 0.6)).reshape(*number, 3)
    panes = panes[np.int32(y)[:, None], np.int32(x)]
    picture = related_colours(rng, 1, 0.3) + inside[..., None] * (panes - related_colours(rng, 1, 0.3))
    if min(floor, bay) > 14:  # a cross in the window and a sill below it
        cross = np.maximum(_bump(y % 1 - 0.5, 0.7 / floor, floor)[:, None], _bump(x % 1 - 0.5, 0.7 / bay, bay)[None])
        picture += (cross * inside)[..., None] * rng.uniform(-80, 80)
        sill = _bump(y % 1 - 0.5 - tall / 2, 1.2 / floor, floor)[:, None] * _bump(x % 1 - 0.5, wide / 2 + 0.04, bay)
        picture += sill[..., None] * rng.uniform(-90, 90)
    return picture.clip(0, 255).astype(np.uint8)


def _bump(distance, half, period):
    """1 within `half` of 0, 0 beyond, with an edge one pixel wide; distances in periods."""
    return np.clip((half - np.abs(distance)) * period + 0.5, 0, 1).astype(np.float32)


def bricks(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Bricks or tiles in courses, each of its own shade."""
    course = rng.uniform(8, 40)
    length = course * rng.uniform(1, 3)
    y = np.arange(h) / course
    row = np.int32(y)
    x = (np.arange(w) / length)[None] + (row * rng.choice([0, 0.5, 0.31]))[:, None]
    joint = rng.uniform(1, 0.2 * course + 1)
    inside = _bump(y % 1 - 0.5, 0.5 - joint / 2 / course, course)[:, None]
    inside = inside * _bump(x % 1 - 0.5, 0.5 - joint / 2 / length, length)
    columns = np.int32(x)
    shades = related_colours(rng, (row[-1] + 1) * (columns.max() + 1), rng.uniform(0.05, 0.4))
    stones = shades[row[:, None] * (columns.max() + 1) + columns]
    mortar = related_colours(rng, 1, 0.3)
    rough = 1 + rng.uniform(0, 0.15) * octaves(rng, h, w, 0.3, 16)
    picture = (mortar + inside[..., None] * (stones - mortar)) * rough[..., None]
    return lit(rng, picture.clip(0, 255).astype(np.uint8), 0.3)


def weave(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """Cloth or wickerwork: threads over and under each other, with a check of colours."""
    period = 4 * 2 ** rng.uniform(0.3, 2.5)
    y, x = np.arange(h) / period, np.arange(w) / period
    float_length = int(rng.integers(1, 4))  # 1 is plain, more is twill
    over = ((np.int32(x)[None] + np.int32(y)[:, None]) % (2 * float_length) < float_length).astype(np.float32)
    across, along = np.abs(np.sin(np.pi * y))[:, None], np.abs(np.sin(np.pi * x))[None]
    height = (over * across + (1 - over) * along).astype(np.float32)
    colours = related_colours(rng, 2, 0.4) if rng.random() < 0.5 else random_colours(rng, 2, 0.4)
    check = int(rng.integers(2, 12))
    warp, weft = (colours[np.int32(place / check) % 2] for place in (x, y))
    threads = np.where(over[..., None] > 0, weft[:, None], warp[None])
    picture = threads * (0.35 + 0.65 * height[..., None])
    return lit(rng, picture.clip(0, 255).astype(np.uint8), 0.3)


@lru_cache(maxsize=64)
def _font(name, size):
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf', name), size)


def random_words(rng: np.random.Generator, number: int) -> str:
    """Words and numbers of random letters, as often as English has them."""
    lengths = rng.integers(1, 11, number)
    letters = rng.integers(0, len(LETTERS), int(lengths.sum()))
    words, start = [], 0
    for length, kind in zip(lengths.tolist(), rng.random(number).tolist()):
        word = ''.join(LETTERS[i] for i in letters[start : start + length].tolist())
        start += length
        digits = ''.join(str(ord(letter) % 10) for letter in word)
        words.append(digits if kind < 0.15 else word.capitalize() if kind < 0.35 else word)
    return ' '.join(words)


def text(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """A page or a sign: lines of one or two fonts, on paper of one colour or over something else."""
    from PIL import Image, ImageDraw

    paper = gradient(rng, h, w) if rng.random() < 0.5 else noise(rng, h, w)
    if rng.random() < 0.6:  # nearly one colour
        paper = (0.15 * paper + 0.85 * random_colours(rng, 1, 0.2)).astype(np.uint8)
    dark = paper.mean() > 128
    page = Image.fromarray(paper)
    draw = ImageDraw.Draw(page)
    fonts = [_font(FONTS[i], int(16 * 2 ** rng.uniform(0, 2))) for i in rng.integers(0, len(FONTS), 2)]
    ink = related_colours(rng, 2, 0.2) * 0.4 if dark else 255 - 0.4 * related_colours(rng, 2, 0.2)
    top = int(rng.integers(0, 20))
    while top < h:
        which = int(rng.random() < 0.3)
        font, colour = fonts[which], tuple(int(value) for value in ink[which])
        line = random_words(rng, w // (2 * font.size) + 2)
        draw.text((int(rng.integers(-60, 20)), top), line, fill=colour, font=font)
        top += int(font.size * rng.uniform(1.1, 1.5))
    return np.asarray(page)


def text_mask(rng: np.random.Generator, h: int, w: int, words: str) -> np.ndarray:
    """Words as large as fit into (h, w): uint8, 255 where the letters are."""
    from PIL import Image, ImageDraw

    size = int(np.clip(min(0.7 * h, 1.8 * w / len(words)), 10, 200))
    mask = Image.new('L', (w, h))
    font = _font(FONTS[rng.integers(len(FONTS))], size)
    ImageDraw.Draw(mask).text((w / 2, h / 2), words, fill=255, font=font, anchor='mm')
    return np.array(mask)


PICTURES: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    'dead_leaves': dead_leaves,
    'foliage': foliage,
    'stripes': stripes,
    'facade': facade,
    'bricks': bricks,
    'weave': weave,
    'text': text,
    'noise': noise,
    'gradient': gradient,
}
