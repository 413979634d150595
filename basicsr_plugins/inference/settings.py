"""How frames are upscaled, and the count of what is done."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from basicsr_plugins.errors import InputError

MODES = ('exact', 'stream')
STATE_DTYPES = (torch.float32, torch.float16)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
AUTO_TILE = 320  # LR pixels
LARGEST_UNTILED = 640 * 480  # LR pixels; the features of larger frames at four times their size take many GB
FLOW_OVERLAP, FLOW_MULTIPLE = 128, 32  # LR pixels around tiles of flow; the pyramids' coarsest pixel


@dataclass(frozen=True)
class UpscaleSettings:
    """How a film is upscaled.

    Args:
        mode: `exact` or `stream`, see `inference.engine`.
        segment: Frames whose backward states are in memory at a time; in `stream` the frames of a block; of networks
            of sequences without steps the frames of a chunk.
        lookahead: Frames seen ahead in `stream`; of networks without steps what a chunk has more on each side.
        temp_dir: Folder for LR frames and border states; None: the system's for temporary files.
        state_dtype: Of border states: float32, or float16 for half the space, no longer bit for bit.
        dtype: Of the computation: float32, bfloat16 or float16 (by `torch.autocast`; flow stays in float32).
        tile: Side of tiles, in LR pixels; None: the frame in one piece; `auto`: tiles where frames are large.
        tile_overlap: What is worked on around a tile, in LR pixels.
        flow_tile: Side of the tiles in which optical flow is estimated, in LR pixels; None: of whole frames.
        whole_dir: Folder for what tiles are put together to (states, HR frames), on the CPU; None: in memory.
        scene_cuts: Whether cuts are looked for, and each scene upscaled by itself.
        blend: Whether chunks are faded into each other, over at most half a chunk.
        compiled: Whether PyTorch's steps are compiled, see `inference.prepared`: the first frames wait for it.

    Raises:
        InputError: If a value is out of its range.
    """

    mode: str = 'exact'
    segment: int = 10
    lookahead: int = 10
    temp_dir: Path | None = None
    state_dtype: torch.dtype = torch.float32
    dtype: torch.dtype = torch.float32
    tile: int | str | None = 'auto'
    tile_overlap: int = 32
    flow_tile: int | None = None
    whole_dir: Path | None = None
    scene_cuts: bool = True
    blend: bool = False
    compiled: bool = False

    def __post_init__(self):
        for name, choices in (('mode', MODES), ('state_dtype', STATE_DTYPES), ('dtype', DTYPES)):
            if getattr(self, name) not in choices:
                raise InputError(
                    f'{name} is {getattr(self, name)!r}, but must be one of {", ".join(map(str, choices))}.'
                )
        numbers_from = {'segment': 1, 'lookahead': 0, 'tile': 8, 'tile_overlap': 0, 'flow_tile': FLOW_MULTIPLE}
        for name, least in numbers_from.items():
            value = getattr(self, name)
            if (name, value) in (('tile', None), ('tile', 'auto'), ('flow_tile', None)):
                continue
            if not isinstance(value, numbers.Integral) or value < least:
                raise InputError(f'{name} is {value!r}, but must be a whole number from {least} on.')

    def tile_side(self, size: tuple[int, int]) -> int | None:
        """The side of tiles for frames of (h, w), in LR pixels; None: the frame in one piece."""
        if self.tile == 'auto':
            return AUTO_TILE if size[0] * size[1] > LARGEST_UNTILED else None
        return self.tile


def precision(device: torch.device | None, dtype: torch.dtype) -> AbstractContextManager:
    """A context in which networks on `device` compute in `dtype`."""
    kind = 'cpu' if device is None else device.type
    return nullcontext() if dtype == torch.float32 else torch.autocast(kind, dtype)


class Progress:
    """Counts frames that are read, gone over backward and upscaled.

    Args:
        tell: Called with the stage and its count after each change.
    """

    def __init__(self, tell: Callable[[str, int], None] | None):
        self.count = {'read': 0, 'backward': 0, 'upscale': 0}
        self._tell = tell

    def add(self, stage: str, number: int = 1) -> None:
        self.count[stage] += number
        if self._tell is not None:
            self._tell(stage, self.count[stage])
