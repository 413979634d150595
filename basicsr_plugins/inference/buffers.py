"""Keep LR frames and states of a network on disk, so that memory does not grow with the film.

Frames come back as they went in, bit for bit: those of 8 or 16 bits are kept as such, all others as float32.
"""

from __future__ import annotations

import sys
import tempfile
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from basicsr_plugins.archs.recurrent import State
from basicsr_plugins.errors import InputError

LEVELS = ((255, np.dtype(np.uint8)), (65535, np.dtype(np.uint16)))  # frames of k / 255 and of k / 65535
RAW = np.dtype(np.float32)


class DiskFrames:
    """LR frames on disk, read by index; use it as a context, which removes the file at its end.

    Args:
        folder: Where the file lies while the context lasts; None: the system's folder for temporary files.

    Raises:
        InputError: If the folder cannot be written, or is full.
    """

    def __init__(self, folder: Path | None = None):
        self._file = _Scratch(folder)
        self._offsets = array('Q', [0])  # in bytes; of each frame, and of the next
        self._shape = None

    def __enter__(self) -> DiskFrames:
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def append(self, frame: Tensor) -> None:
        """Keep a frame, (3, h, w); all of one size."""
        values = np.ascontiguousarray(frame.detach().float().cpu().numpy())
        data = _as_integers(values).tobytes()
        self._shape = values.shape
        self._file.write(self._offsets[-1], data)
        self._offsets.append(self._offsets[-1] + len(data))

    def __getitem__(self, i: int) -> Tensor:
        """(3, h, w), float32, on the CPU."""
        start, end = self._offsets[i], self._offsets[i + 1]
        data = self._file.read(start, end - start)
        itemsize = (end - start) // int(np.prod(self._shape))
        for peak, dtype in LEVELS:
            if dtype.itemsize == itemsize:
                return torch.from_numpy(_from_integers(np.frombuffer(data, dtype).reshape(self._shape), peak))
        return torch.from_numpy(np.frombuffer(data, RAW).reshape(self._shape).copy())

    def forget(self, first: int) -> None:
        """Nothing: what lies on disk stays."""


def _as_integers(values: np.ndarray) -> np.ndarray:
    """float32 values as the smallest integers that give them back exactly, or as they are."""
    if values.min() >= 0 and values.max() <= 1:
        for peak, dtype in LEVELS:
            integers = np.rint(values * RAW.type(peak)).astype(dtype)
            if np.array_equal(_from_integers(integers, peak), values):
                return integers
    return values


def _from_integers(integers: np.ndarray, peak: int) -> np.ndarray:
    return integers.astype(RAW) / RAW.type(peak)


class MemoryFrames:
    """LR frames in memory, of which only the last are kept; read by index as `DiskFrames`."""

    def __init__(self):
        self._frames = {}
        self._length = 0

    def __len__(self) -> int:
        """How many frames there have been."""
        return self._length

    def append(self, frame: Tensor) -> None:
        self._frames[self._length] = frame
        self._length += 1

    def __getitem__(self, i: int) -> Tensor:
        return self._frames[i]

    def forget(self, first: int) -> None:
        """Forget the frames before `first`."""
        self._frames = {i: frame for i, frame in self._frames.items() if i >= first}


class FramesFrom:
    """Frames read by index, without the first `start`."""

    def __init__(self, frames: Sequence[Tensor], start: int):
        self.frames = frames
        self.start = start

    def __len__(self) -> int:
        return len(self.frames) - self.start

    def __getitem__(self, i: int) -> Tensor:
        return self.frames[self.start + i]


class DiskStates:
    """States of a network on disk, all of one shape, in numbered places; a context, as `DiskFrames`.

    Args:
        folder: As of `DiskFrames`.
        dtype: How they are kept: float32, or float16 for half the space.
    """

    def __init__(self, folder: Path | None = None, dtype: torch.dtype = torch.float32):
        self._file = _Scratch(folder)
        self._dtype = dtype
        self._like = self._shapes = ()  # of each tensor of a state: an empty one of its dtype and device; its shape
        self._is_tuple = False

    def __enter__(self) -> DiskStates:
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()

    def save(self, place: int, state: State) -> None:
        tensors = _as_tuple(state)
        data = b''.join(tensor.detach().to(self._dtype).cpu().contiguous().numpy().tobytes() for tensor in tensors)
        self._like = tuple(tensor.new_empty(0) for tensor in tensors)
        self._shapes = tuple(tensor.shape for tensor in tensors)
        self._is_tuple = isinstance(state, tuple)
        self._file.write(place * len(data), data)

    def load(self, place: int) -> State:
        """The state, of the dtype and on the device that it was saved from."""
        lengths = [shape.numel() for shape in self._shapes]
        size = sum(lengths) * torch.empty(0, dtype=self._dtype).element_size()
        values = torch.frombuffer(self._file.read(place * size, size), dtype=self._dtype).split(lengths)
        state = tuple(part.view(shape).to(like) for part, shape, like in zip(values, self._shapes, self._like))
        return state if self._is_tuple else state[0]


def _as_tuple(state: State) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


class _Scratch:
    """A nameless temporary file."""

    def __init__(self, folder: Path | None):
        self._folder = Path(folder) if folder is not None else Path(tempfile.gettempdir())

        def make():
            self._folder.mkdir(parents=True, exist_ok=True)
            return tempfile.TemporaryFile(dir=self._folder)  # gone with the process, whatever happens to it

        self._file = self._try(make)

    def write(self, offset: int, data: bytes) -> None:
        def work():
            self._file.seek(offset)
            self._file.write(data)
            self._file.flush()

        self._try(work)

    def read(self, offset: int, size: int) -> bytearray:
        data = bytearray(size)
        self._file.seek(offset)
        self._file.readinto(data)
        return data

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:  # what could not be written is wanted no more
            print(f'{self._folder}: {error.strerror}', file=sys.stderr)

    def _try(self, work: Callable):
        try:
            return work()
        except OSError as error:
            raise InputError(
                f'cannot write temporary files to {self._folder} ({error.strerror}); '
                'give a folder with more space as temp_dir.'
            ) from error
