"""Keep LR frames and states of a network on disk, so that memory does not grow with the film.

Frames come back as they went in, bit for bit: those of 8 or 16 bits are kept as such, all others as float32.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import zlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from basicsr_plugins.archs.recurrent import State
from basicsr_plugins.errors import InputError
from basicsr_plugins.files import disk_error
from basicsr_plugins.memory import to_device

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
        return self.load(i, None)

    def load(self, i: int, device: torch.device | None) -> Tensor:
        """(3, h, w), float32, on a device, None for the CPU; of 8 bits, it goes there as such."""
        start, end = self._offsets[i], self._offsets[i + 1]
        data = self._file.read(start, end - start)
        itemsize = (end - start) // math.prod(self._shape)
        peak, dtype = next((level for level in LEVELS if level[1].itemsize == itemsize), (None, RAW))
        values = np.frombuffer(data, dtype).reshape(self._shape)
        if dtype == np.uint8:
            values = to_device(torch.from_numpy(values), device).float()
            return values.div_(values.new_full((), peak))  # CUDA would multiply by the inverse of a number
        return to_device(torch.from_numpy(values if peak is None else _from_integers(values, peak)), device)

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

    def load(self, i: int, device: torch.device | None) -> Tensor:
        """As `DiskFrames.load`."""
        return to_device(self._frames[i].float(), device)

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


@dataclass(frozen=True)
class StateLayout:
    """How a state is rebuilt from bytes: shapes and dtypes of its tensors, whether it is a tuple, its device.

    Also which tensors are in the layout `channels_last`, for operations round otherwise in one than in the other.
    """

    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    is_tuple: bool
    device: torch.device
    channels_last: tuple[bool, ...]

    @classmethod
    def of(cls, state: State) -> StateLayout:
        tensors = _as_tuple(state)
        shapes, dtypes = (tuple(getattr(tensor, name) for tensor in tensors) for name in ('shape', 'dtype'))
        return cls(shapes, dtypes, isinstance(state, tuple), tensors[0].device, tuple(map(_is_channels_last, tensors)))

    def unpack(self, data: bytearray, kept_as: torch.dtype) -> State:
        """The state, of the dtypes and on the device that it had."""
        values = torch.frombuffer(data, dtype=kept_as).split([shape.numel() for shape in self.shapes])
        state = tuple(
            part.view(shape)
            .to(self.device, dtype)
            .contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
            for part, shape, dtype, last in zip(values, self.shapes, self.dtypes, self.channels_last)
        )
        return state if self.is_tuple else state[0]


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.dim() == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def _pack(state: State, kept_as: torch.dtype) -> bytes:
    return b''.join(tensor.detach().to(kept_as).cpu().contiguous().numpy().tobytes() for tensor in _as_tuple(state))


def _as_tuple(state: State) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


class DiskStates:
    """States of a network on disk, all of one shape, in numbered places; a context, as `DiskFrames`.

    Args:
        folder: As of `DiskFrames`.
        dtype: How they are kept: float32, or float16 for half the space.
    """

    def __init__(self, folder: Path | None = None, dtype: torch.dtype = torch.float32):
        self._file = _Scratch(folder)
        self.dtype = dtype
        self._places = {}  # place -> position in the file
        self._layout = None

    def __enter__(self) -> DiskStates:
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()

    def save(self, place: int, state: State) -> State:
        """Keep a state; what `load` will give."""
        data = _pack(state, self.dtype)
        self._layout = StateLayout.of(state)
        self._file.write(self._places.setdefault(place, len(self._places) * len(data)), data)
        return state if self.dtype == torch.float32 else self._layout.unpack(bytearray(data), self.dtype)

    def load(self, place: int) -> State | None:
        """The state, of the dtype and on the device that it was saved from; None where none was saved."""
        if place not in self._places:
            return None
        itemsize = torch.empty(0, dtype=self.dtype).element_size()
        size = sum(shape.numel() for shape in self._layout.shapes) * itemsize
        return self._layout.unpack(self._file.read(self._places[place], size), self.dtype)


def tensor_on_disk(shape: Sequence[int], dtype: torch.dtype, folder: Path) -> Tensor:
    """An empty tensor in a nameless file, which the system keeps in memory as far as it is free.

    Raises:
        InputError: If the folder is full.
    """
    number = math.prod(shape)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            if hasattr(os, 'posix_fallocate'):  # else a full disk would end the process, later
                os.posix_fallocate(file.fileno(), 0, number * torch.empty(0, dtype=dtype).element_size())
            return torch.from_file(file.name, shared=True, size=number, dtype=dtype).view(*shape)
    except OSError as error:
        raise InputError(
            f'cannot write temporary files to {folder} ({error.strerror}); give a folder with more space as temp_dir.'
        ) from error


class KeptStates:
    """As `DiskStates`, each in a file of its own with a checksum: another process can go on from them.

    Args:
        folder: Where the files are; made when it is needed, removed by the caller.
        kind: The beginning of their names; of all kinds `forward` and `scene` tell where a run can go on.
        first: The film's number of the frame in place 0.
        dtype: As of `DiskStates`.
        device: Where loaded states go.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        first: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ):
        self._folder = folder
        self._kind = kind
        self._first = first
        self.dtype = dtype
        self._device = device or torch.device('cpu')

    def __enter__(self) -> KeptStates:
        return self

    def __exit__(self, *exception) -> None:
        """Nothing: the files outlast the run."""

    def save(self, place: int, state: State) -> State:
        """Keep a state; what `load` will give."""
        layout, data = StateLayout.of(state), _pack(state, self.dtype)
        header = {
            'shapes': layout.shapes,
            'dtypes': [str(dtype).rpartition('.')[2] for dtype in layout.dtypes],
            'is_tuple': layout.is_tuple,
            'channels_last': layout.channels_last,
        }
        header = json.dumps(header).encode()
        self._write(place, b'%d\n' % zlib.crc32(data, zlib.crc32(header)), header, b'\n', data)
        return state if self.dtype == torch.float32 else layout.unpack(bytearray(data), self.dtype)

    def mark(self) -> None:
        """Note that a run can go on from place 0 without a state, as one can from the film's first frame."""
        if self._first > 0:
            self._write(0)

    def load(self, place: int) -> State | None:
        """The state; None where none was saved, or it is damaged."""
        try:
            with open(self._file(place), 'rb') as file:
                checksum, header = file.readline(), file.readline()[:-1]
                data = bytearray(os.fstat(file.fileno()).st_size - file.tell())
                file.readinto(data)
        except OSError:
            return None
        if checksum != b'%d\n' % zlib.crc32(data, zlib.crc32(header)):
            return None
        header = json.loads(header)
        shapes = tuple(map(torch.Size, header['shapes']))
        dtypes = tuple(getattr(torch, name) for name in header['dtypes'])
        last = tuple(header.get('channels_last', (False,) * len(shapes)))
        return StateLayout(shapes, dtypes, header['is_tuple'], self._device, last).unpack(data, self.dtype)

    def latest(self, last: int) -> tuple[int, State | None]:
        """The last whole state up to place `last`, after its place; (0, None) where there is none."""
        frames = (frame for kind, frame, _ in _kept_files(self._folder) if kind == self._kind)
        for frame in sorted(frames, reverse=True):
            if self._first < frame <= self._first + last:
                state = self.load(frame - self._first)
                if state is not None:
                    return frame - self._first, state
        return 0, None

    def _file(self, place: int) -> Path:
        return self._folder / f'{self._kind}_{self._first + place:08d}'

    def _write(self, place: int, *data: bytes) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with open(self._file(place), 'wb') as file:
                file.writelines(data)
        except OSError as error:
            message = disk_error(self._file(place), error, sum(map(len, data)))
            raise InputError(f'{message}; give a folder with more space as temp_dir.') from error


def forget_states(folder: Path, finished: int) -> None:
    """Remove the kept states that a run going on from frame `finished` of the film does not need."""
    files = _kept_files(folder)
    start = max((frame for kind, frame, _ in files if kind != 'backward' and frame <= finished), default=0)
    for kind, frame, file in files:
        if frame < start or (frame == start and kind == 'backward'):
            file.unlink(missing_ok=True)


def _kept_files(folder: Path) -> list[tuple[str, int, Path]]:
    """Kind, frame and path of each file."""
    names = [file.name.partition('_') for file in folder.glob('*_*')]
    return [(kind, int(frame), folder / f'{kind}_{frame}') for kind, _, frame in names if frame.isdecimal()]


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
