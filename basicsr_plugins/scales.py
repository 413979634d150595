"""Upscaling factors, the sizes that they give, and parts of enlarged frames.

A factor is a number or a fraction; a scale is a factor, or two, vertical and horizontal. An LR side of n pixels becomes
round(factor * n) pixels, halves up, computed exactly from the factor's decimal digits: x2.7 makes 14 of 5. The factor
that counts for a network is then the true one, HR side / LR side. As text a scale reads `2.7`, `8/3`, or, as sizes do,
the horizontal factor first: `3x1.5`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple, Union

from basicsr_plugins.errors import InputError

MAX_SCALE = 16
Factor = Union[int, float, Fraction]
Scale = Union[Factor, 'tuple[Factor, Factor]']
Size = tuple  # (height, width), whole numbers
NUMBER = r'[+-]?[0-9]{1,99}(?:\.[0-9]{1,99}|/[1-9][0-9]{0,98})?'


def per_axis(scale: Scale | Sequence[Factor]) -> tuple[Fraction, Fraction]:
    """The vertical and the horizontal factor, exactly as their digits say."""
    both = scale if isinstance(scale, Sequence) else (scale, scale)
    return tuple(one if isinstance(one, Fraction) else Fraction(str(one)) for one in both)


def scaled_size(size: Size, scale: Scale) -> Size:
    """(h, w) -> (H, W), each round(factor * side), halves up."""
    return tuple(math.floor(factor * length + Fraction(1, 2)) for factor, length in zip(per_axis(scale), size))


def lr_size(size: Size, scale: Scale) -> Size:
    """The largest (h, w) whose scaled size fits into (H, W); of whole factors, that without its remainder."""
    return tuple(math.ceil((length + Fraction(1, 2)) / factor) - 1 for factor, length in zip(per_axis(scale), size))


def true_scale(size: Size, target: Size) -> tuple[Fraction, Fraction]:
    """The scale that makes (H, W) of (h, w), exactly."""
    return tuple(Fraction(hr, lr) for hr, lr in zip(target, size))


def is_same_shape(lr: Size, size: Size) -> bool:
    """Whether (H, W) has the shape of (h, w), but for rounding to a whole or even number of pixels."""
    vertical, horizontal = true_scale(lr, size)
    return abs(lr[1] * vertical - size[1]) <= Fraction(3, 2) or abs(lr[0] * horizontal - size[0]) <= Fraction(3, 2)


def whole_factor(scale: Scale) -> int | None:
    """The factor of both axes, where it is one and whole."""
    vertical, horizontal = per_axis(scale)
    return int(vertical) if vertical == horizontal and vertical.denominator == 1 else None


def describe_scale(scale: Scale) -> str:
    """As text: `4`, `2.7`, `3x1.5`, the horizontal factor first; ten digits, by which frames of any size differ."""
    vertical, horizontal = (f'{float(factor):.10g}' for factor in per_axis(scale))
    return vertical if vertical == horizontal else f'{horizontal}x{vertical}'


def parse_scale(text: str, where: str) -> Scale:
    """Read `4`, `2.7`, `8/3` or `3x1.5`, the horizontal factor first; checked as by `check_scale`.

    Raises:
        InputError: If it reads otherwise, or is out of range; `where` begins the message.
    """
    match = re.fullmatch(f'({NUMBER})(?:x({NUMBER}))?', text.strip())
    if match is None:
        raise InputError(f'{where} must read 2.7, 8/3 or, horizontally by vertically, 3x1.5, but is {text!r}.')
    factors = [Fraction(one) for one in reversed(match.groups()) if one]
    factors = [int(factor) if factor.denominator == 1 else factor for factor in factors]
    scale = factors[0] if len(set(factors)) == 1 else tuple(factors)
    check_scale(scale, where)
    return scale


def check_scale(scale: Scale | Sequence[Factor], where: str, high: float = MAX_SCALE) -> None:
    """Refuse what is no factor, nor two, from 1 to `high`.

    Raises:
        InputError: `where` begins the message.
    """
    both = scale if isinstance(scale, Sequence) and not isinstance(scale, str) else (scale, scale)
    if len(both) != 2 or not all(map(_is_finite, both)):
        raise InputError(f'{where} must be a factor from 1 to {high:g}, or two, but is {scale!r}.')
    shown = describe_scale(scale)
    if any(0 < one < 1 for one in both):
        raise InputError(
            f'{where} is {shown}, which would make HR frames smaller than LR ones, but must be from 1 to {high:g}; to '
            'shrink clips, use bicubic-lr with a factor above 1.'
        )
    if not all(1 <= one <= high for one in both):
        raise InputError(f'{where} is {shown}, but must be from 1 to {high:g}.')


def check_scale_range(scales: Sequence[Factor], where: str) -> None:
    """Refuse what is not two factors from 1 to 16, the least first.

    Raises:
        InputError: `where` begins the message.
    """
    if len(scales) == 2:
        check_scale(scales, where)
    if len(scales) != 2 or scales[0] > scales[1]:
        raise InputError(f'{where} must be the least and the greatest factor, as [2, 6], but is {list(scales)}.')


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float, Fraction)) and not isinstance(value, bool) and math.isfinite(value)


class Span(NamedTuple):
    """A part of one side of an enlarged frame.

    Args:
        length: LR pixels of the whole side.
        target: HR pixels of the whole side.
        first: The first LR pixel that is given.
        start, stop: The HR pixels that are made of them, `start` to `stop` - 1.
    """

    length: int
    target: int
    first: int
    start: int
    stop: int

    def part(self, outer: slice, inner: slice) -> Span:
        """What is made of the LR pixels `inner` of a whole side, given the pixels `outer`.

        Where `inner` ends between HR pixels, the nearest border of two counts, so that neighbours meet.
        """
        start, stop = ((2 * i * self.target + self.length) // (2 * self.length) for i in (inner.start, inner.stop))
        return self._replace(first=outer.start, start=start, stop=stop)


Place = tuple  # (rows, columns): a Span each


def whole_place(size: Size, target: Size) -> Place:
    """The place of a whole frame, (h, w) -> (H, W)."""
    return tuple(Span(length, hr, 0, 0, hr) for length, hr in zip(size, target))


def asked_place(size: Size, target: Size, name: str) -> Place:
    """As `whole_place`, of what a network is asked for; `name` begins the message.

    Raises:
        InputError: If `target` is no height and width, smaller than (h, w), or over 16 times as large.
    """
    if not isinstance(target, Sequence) or len(target) != 2 or not all(isinstance(one, int) for one in target):
        raise InputError(f'{name}: size must be (height, width), whole numbers, but is {target!r}.')
    (h, w), (height, width) = size, target
    if not (h <= height <= MAX_SCALE * h and w <= width <= MAX_SCALE * w):
        raise InputError(
            f'{name} makes frames of {w}x{h} up to {MAX_SCALE} times as large, not {width}x{height} of them.'
        )
    return whole_place(size, target)
