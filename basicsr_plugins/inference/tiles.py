"""Work on a large frame tile by tile, for less working memory.

A tile is put out as it is, and worked on with a border of `overlap` pixels of the frame around it, which is cut off
afterwards. States of a recurrent network stay whole between its steps, so that a tile's border always comes from its
neighbours' own result: the difference to a frame in one piece is what one single step sees beyond the border, and does
not grow with the length of the film.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor


class Tile(NamedTuple):
    """Rows and columns, in LR pixels: `inner` is put out, `outer` is worked on."""

    inner: tuple[slice, slice]
    outer: tuple[slice, slice]

    def crop(self, tensor: Tensor | None) -> Tensor | None:
        """(..., h, w) -> the outer part of it."""
        return None if tensor is None else tensor[(..., *self.outer)]

    def paste(self, result: Tensor, whole: Tensor, scale: int) -> None:
        """Put the inner part of the tile's result, (..., scale * outer h, scale * outer w), into the whole."""
        source = tuple(
            slice(scale * (i.start - o.start), scale * (i.stop - o.start)) for i, o in zip(self.inner, self.outer)
        )
        target = tuple(slice(scale * i.start, scale * i.stop) for i in self.inner)
        whole[(..., *target)] = result[(..., *source)]


def split_into_tiles(size: tuple[int, int], tile: int, overlap: int) -> list[Tile]:
    """Cover a frame (h, w) by tiles of at most `tile` pixels a side, of even sizes, and `overlap` around."""
    rows, columns = (_split(length, tile, overlap) for length in size)
    return [
        Tile((inner_row, inner_column), (outer_row, outer_column))
        for inner_row, outer_row in rows
        for inner_column, outer_column in columns
    ]


def _split(length: int, tile: int, overlap: int) -> list[tuple[slice, slice]]:
    number = -(-length // tile)
    ends = [length * i // number for i in range(number + 1)]
    return [
        (slice(start, end), slice(max(start - overlap, 0), min(end + overlap, length)))
        for start, end in zip(ends, ends[1:])
    ]


class TiledRunner:
    """Calls a function of frames, features, states and flows tile by tile; its result may be larger by a whole factor.

    Args:
        tile: Side of the tiles, in LR pixels.
        overlap: Border around each, in LR pixels.
    """

    def __init__(self, tile: int, overlap: int):
        self.tile = tile
        self.overlap = overlap

    def __call__(self, function: Callable[..., Tensor], *tensors: Tensor | None, flows: tuple = ()) -> Tensor:
        """As `function(*tensors, *flows)`, all (1, c, h, w) or None; result (1, c', s * h, s * w).

        The border around a tile grows by the largest of the flows, in pixels: so far beyond the tile they reach.
        """
        h, w = tensors[0].shape[-2:]
        reach = max((math.ceil(float(flow.abs().max())) for flow in flows if flow is not None), default=0)
        tensors = (*tensors, *flows)
        whole = None
        for tile in split_into_tiles((h, w), self.tile, self.overlap + reach):
            cropped = [tile.crop(tensor) for tensor in tensors]
            result = function(*cropped)
            scale = result.size(-1) // cropped[0].size(-1)
            if whole is None:
                whole = result.new_empty(*result.shape[:-2], scale * h, scale * w)
            tile.paste(result, whole, scale)
        return whole


def run_whole(function: Callable[..., Tensor], *tensors: Tensor | None, flows: tuple = ()) -> Tensor:
    """As `TiledRunner`, with the frame in one piece."""
    return function(*tensors, *flows)


class CroppedFrames:
    """A tile's view of frames (3, h, w) that are read by index."""

    def __init__(self, frames, tile: Tile):
        self.frames = frames
        self.tile = tile

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, i: int) -> Tensor:
        return self.tile.crop(self.frames[i])


def restore_tiled(restore: Callable[..., Iterator[Tensor]], frames, tile: int, overlap: int) -> Iterator[Tensor]:
    """As `restore(frames)`, which yields (3, s * h, s * w) for each frame, with all tiles side by side."""
    h, w = frames[0].shape[-2:]
    tiles = split_into_tiles((h, w), tile, overlap)
    for results in zip(*(restore(CroppedFrames(frames, one)) for one in tiles)):
        scale = results[0].size(-1) // (tiles[0].outer[1].stop - tiles[0].outer[1].start)
        whole = results[0].new_empty(3, scale * h, scale * w)
        for one, result in zip(tiles, results):
            one.paste(result, whole, scale)
        yield whole
