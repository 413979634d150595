"""The size of upscaled frames: what is asked for, and how a network comes to it.

Shape shorthand: h and w height and width of the LR frame, H and W of the HR frame.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor, nn

from basicsr_plugins.errors import InputError
from basicsr_plugins.models.network_spec import fit_scale, own_scales, spec_of, untrained_note
from basicsr_plugins.ops.bicubic import resize_bicubic
from basicsr_plugins.scales import (
    MAX_SCALE,
    Scale,
    Size,
    is_same_shape,
    parse_scale,
    per_axis,
    scaled_size,
    whole_factor,
)
from basicsr_plugins.video.media import Source


@dataclass(frozen=True)
class OutputSize:
    """What is asked for, one of three; none of them: the network's own scale.

    Args:
        scale: A factor, or two, vertical and horizontal.
        size: (H, W).
        fit: (H, W) of a box: the largest frame that fits in, its picture in the shape in which it is shown: pixels
            of a film that are not square become so.
    """

    scale: Scale | None = None
    size: Size | None = None
    fit: Size | None = None

    def of(self, source: Source, multiples: Size = (1, 1)) -> Size:
        """H and W of the frames made of a source's.

        Args:
            source: What is upscaled.
            multiples: Of what H and W must be multiples; that of `scale` is the nearest, of `fit` the next smaller.

        Raises:
            InputError: If frames would become smaller, or over 16 times as large.
        """
        h, w = source.size
        if self.scale is not None:
            height, width = (
                (side + multiple // 2) // multiple * multiple
                for side, multiple in zip(scaled_size((h, w), self.scale), multiples)
            )
        elif self.fit is not None:
            shown = w * (getattr(source, 'aspect', None) or Fraction(1))
            factor = min(Fraction(self.fit[0], h), Fraction(self.fit[1]) / shown)
            height, width = (
                min(math.floor(side * factor + Fraction(1, 2)), limit) // multiple * multiple
                for side, limit, multiple in zip((h, shown), self.fit, multiples)
            )
        else:
            height, width = self.size
        if not (h <= height <= MAX_SCALE * h and w <= width <= MAX_SCALE * w):
            raise InputError(
                f'{source.name} has frames of {w}x{h}, of which frames up to {MAX_SCALE} times as high and as wide are '
                f'made, not smaller ones and not {width}x{height}; ask for another size.'
            )
        return height, width

    def notes_on(self, source: Source, size: Size, keeps_shape: bool) -> list[str]:
        """What a user should know of a size made of a source's frames: that it was rounded, that the shape differs.

        `keeps_shape`: whether the output says the shape of its pixels, as a film made of a film does.
        """
        (h, w), (height, width) = source.size, size
        notes = []
        if self.scale is not None and size != scaled_size((h, w), self.scale):
            rounded = scaled_size((h, w), self.scale)
            notes.append(
                f'frames are {width}x{height}, not {rounded[1]}x{rounded[0]}: the pixel format takes even sizes.'
            )
        if not is_same_shape((h, w), size):
            factors = f'{width / w:.4g} times as wide and {height / h:.4g} times as high'
            shape = 'the picture is stretched'
            if self.fit is not None:
                shape = 'so its pixels are square'
            elif keeps_shape:
                shape = 'the shape of its pixels is set so that the picture is shown in its own'
            notes.append(f'frames of {w}x{h} become {width}x{height}, {factors}: {shape}.')
        return notes


def parse_output_size(scale: str | None = None, size: str | None = None, fit: str | None = None) -> OutputSize:
    """Read `--scale 2.7`, `--size 1920x1080` or `--fit 1920x1080`; sizes are width by height.

    Raises:
        InputError: If one reads otherwise, or several are there.
    """
    given = [name for name, text in (('--scale', scale), ('--size', size), ('--fit', fit)) if text is not None]
    if len(given) > 1:
        raise InputError(f'{" and ".join(given)} each say the size; give one of them.')
    return OutputSize(
        scale=None if scale is None else parse_scale(scale, '--scale'),
        size=None if size is None else _parse_size(size, '--size'),
        fit=None if fit is None else _parse_size(fit, '--fit'),
    )


def _parse_size(text: str, where: str) -> Size:
    match = re.fullmatch(r'([1-9][0-9]{0,4})x([1-9][0-9]{0,4})', text)
    if match is None:
        raise InputError(f'{where} must read WIDTHxHEIGHT, as in 1920x1080, but is {text!r}.')
    return int(match[2]), int(match[1])


def set_scale(net: nn.Module, own: Scale, scale: Scale, lr: Size) -> list[str]:
    """Let a network make a scale, if it can; else its frames have to be resized (`resized`).

    Args:
        net: The network.
        own: Its scale as it is.
        scale: What is asked for.
        lr: (h, w) of the frames, for the notes.

    Returns:
        Sentences about what a user should know.
    """
    spec, (height, width) = spec_of(net), scaled_size(lr, scale)
    makes_any = spec.scale_range is not None and (spec.lq != 'bicubic' or whole_factor(scale) is not None)
    if not makes_any and per_axis(own) != per_axis(scale):
        made = scaled_size(lr, own)
        return [
            f'{spec.name} upscales by {own_scales(spec)}, to {made[1]}x{made[0]}; its frames are resized to '
            f'{width}x{height} by bicubic. BasicAVSR makes any size itself.'
        ]
    if makes_any:
        fit_scale(net, scale)
    return untrained_note(net, scale)


def resized(pairs: Iterator[tuple[Tensor, Tensor]], scale: Scale | None) -> Iterator[tuple[Tensor, Tensor]]:
    """LR and HR frames, the HR ones resized by bicubic where they have not the scaled size; None: as they are."""
    try:
        for lq, hr in pairs:
            size = hr.shape[-2:] if scale is None else scaled_size(lq.shape[-2:], scale)
            yield lq, hr if tuple(hr.shape[-2:]) == tuple(size) else resize_bicubic(hr, size)
    finally:
        pairs.close()
