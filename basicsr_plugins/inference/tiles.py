"""Work on a large frame tile by tile, for less working memory.

A tile comes out as it is, and is worked on with a border of `overlap` pixels of the frame around it, which is cut off
afterwards. States of a recurrent network stay whole between its steps, so that a tile's border always comes from its
neighbours' own result: the difference to a frame in one piece is what one single step sees beyond the border, and does
not grow with the length of the film.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from basicsr_plugins.archs.recurrent import State
from basicsr_plugins.errors import InputError
from basicsr_plugins.inference.buffers import tensor_on_disk
from basicsr_plugins.scales import Place


class Tile(NamedTuple):
    """Rows and columns, in LR pixels: `inner` comes out, `outer` is worked on."""

    inner: tuple[slice, slice]
    outer: tuple[slice, slice]

    def grown(self, by: int, size: tuple[int, int]) -> Tile:
        """The tile with so many pixels more around, as far as the frame of `size` has them."""
        outer = (slice(max(o.start - by, 0), min(o.stop + by, length)) for o, length in zip(self.outer, size))
        return Tile(self.inner, tuple(outer))

    def crop(self, value: State | None) -> State | None:
        """(..., h, w), or several of these -> the outer part of it."""
        if isinstance(value, tuple):
            return tuple(self.crop(tensor) for tensor in value)
        return None if value is None else value[(..., *self.outer)]

    def place(self, place: Place) -> Place:
        """What the tile makes of a whole frame's place."""
        return tuple(span.part(outer, inner) for span, outer, inner in zip(place, self.outer, self.inner))

    def paste(self, result: Tensor, whole: Tensor, scale: int) -> None:
        """Put the inner part of the tile's result, (..., scale * outer h, scale * outer w), into the whole."""
        source = tuple(
            slice(scale * (i.start - o.start), scale * (i.stop - o.start)) for i, o in zip(self.inner, self.outer)
        )
        target = tuple(slice(scale * i.start, scale * i.stop) for i in self.inner)
        whole[(..., *target)] = result[(..., *source)]


def split_into_tiles(size: tuple[int, int], tile: int, overlap: int, multiple: int = 1) -> list[Tile]:
    """Cover a frame (h, w) by tiles of at most `tile` pixels a side, all about as large, and `overlap` around.

    They begin at multiples of `multiple` and, but for the frame's end, end there: what a network does on a coarser grid
    than the frame's it does on the same one in a tile.
    """
    rows, columns = (_split(length, tile, overlap, multiple) for length in size)
    return [
        Tile((inner_row, inner_column), (outer_row, outer_column))
        for inner_row, outer_row in rows
        for inner_column, outer_column in columns
    ]


def _split(length: int, tile: int, overlap: int, multiple: int) -> list[tuple[slice, slice]]:
    overlap += -overlap % multiple
    cells = -(-length // multiple)
    number = -(-cells // max(tile // multiple, 1))
    ends = [min(cells * i // number * multiple, length) for i in range(number + 1)]
    return [
        (slice(start, end), slice(max(start - overlap, 0), min(end + overlap, length)))
        for start, end in zip(ends, ends[1:])
    ]


class TiledRunner:
    """Calls a step of a recurrent network tile by tile.

    Its result may be larger by a whole factor; by any, where the step takes `places`, and makes the part of them that
    belongs to a tile.

    Args:
        tile: Side of the tiles, in LR pixels.
        overlap: Border around each, in LR pixels.
        multiple: Where tiles may begin and end, as in `split_into_tiles`.
        folder: Where results lie, which are whole; None: in memory.
    """

    def __init__(self, tile: int, overlap: int, multiple: int = 1, folder: Path | None = None):
        self.tile = tile
        self.overlap = overlap
        self.multiple = multiple
        self.folder = folder

    def __call__(self, step: Callable[..., State], **inputs: State | None) -> State:
        """As `step(**inputs)`: (b, c, h, w), tuples of these or None -> (b, c', s * h, s * w), or a tuple of these.

        Raises:
            InputError: If the step enlarges by no whole factor.

        The border around a tile grows by the largest flow in it, in pixels: so far beyond the tile they reach.
        """
        places = inputs.pop('places', None)
        if places is not None:
            return self._call_at_places(step, inputs, places)
        h, w = _size(inputs)
        wholes = None
        for tile in self._tiles(inputs):
            cropped = {name: tile.crop(value) for name, value in inputs.items()}
            result = step(**cropped)
            parts = result if isinstance(result, tuple) else (result,)
            taken, given = _size(cropped), parts[0].shape[-2:]
            scale = given[1] // taken[1]
            if tuple(given) != (scale * taken[0], scale * taken[1]):
                raise InputError(
                    f'in tiles a step must enlarge by a whole factor, but one makes {given[1]}x{given[0]} of '
                    f'{taken[1]}x{taken[0]}; run it without tiles.'
                )
            if wholes is None:
                wholes = tuple(new_whole(part, (scale * h, scale * w), self.folder) for part in parts)
            for part, whole in zip(parts, wholes):
                tile.paste(part, whole, scale)
        return wholes if isinstance(result, tuple) else wholes[0]

    def _tiles(self, inputs: Mapping[str, State | None]) -> Iterator[Tile]:
        size = _size(inputs)
        found = [value for name, value in inputs.items() if name.startswith('flow') and value is not None]
        flows = [flow for value in found for flow in (value if isinstance(value, tuple) else (value,))]
        for tile in split_into_tiles(size, self.tile, self.overlap, self.multiple):
            reach = max((math.ceil(float(tile.crop(flow).abs().max())) for flow in flows), default=0)
            yield tile.grown(reach + -reach % self.multiple, size)

    def _call_at_places(self, step, inputs, places: tuple[Place, ...]) -> Tensor:
        (place,) = places  # of a whole frame
        whole = None
        for tile in self._tiles(inputs):
            part = tile.place(place)
            result = step(**{name: tile.crop(value) for name, value in inputs.items()}, places=(part,))
            if whole is None:
                whole = new_whole(result, tuple(span.target for span in place), self.folder)
            whole[(..., *(slice(span.start, span.stop) for span in part))] = result
        return whole


def new_whole(part: Tensor, size: tuple[int, int], folder: Path | None) -> Tensor:
    """An empty tensor like a tile's, with the height and width of a frame; on the CPU in `folder`, if there is one."""
    shape = (*part.shape[:-2], *size)
    if folder is None or part.device.type != 'cpu':
        return part.new_empty(shape)
    return tensor_on_disk(shape, part.dtype, folder)


def _size(inputs: dict[str, State | None]) -> tuple[int, int]:
    """Height and width of a step's inputs, which is one."""
    value = next(value for value in inputs.values() if value is not None)
    return (value[0] if isinstance(value, tuple) else value).shape[-2:]


class CroppedFrames:
    """A tile's view of frames (3, h, w) that are read by index."""

    def __init__(self, frames: Sequence[Tensor], tile: Tile):
        self.frames = frames
        self.tile = tile

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, i: int) -> Tensor:
        return self.tile.crop(self.frames[i])


def restore_tiled(
    restore: Callable[..., Iterator[Tensor]],
    frames: Sequence[Tensor],
    tile: int,
    overlap: int,
    multiple: int = 1,
    folder: Path | None = None,
) -> Iterator[Tensor]:
    """As `restore(frames)`, which yields (3, s * h, s * w) for each frame, with all tiles side by side."""
    h, w = frames[0].shape[-2:]
    tiles = split_into_tiles((h, w), tile, overlap, multiple)
    for results in zip(*(restore(CroppedFrames(frames, one)) for one in tiles)):
        taken = [outer.stop - outer.start for outer in tiles[0].outer]
        scale = results[0].size(-1) // taken[1]
        if tuple(results[0].shape[-2:]) != (scale * taken[0], scale * taken[1]):
            raise InputError('in tiles a network without steps must enlarge by a whole factor; run it without tiles.')
        whole = new_whole(results[0], (scale * h, scale * w), folder)
        for one, result in zip(tiles, results):
            one.paste(result, whole, scale)
        yield whole
