"""Frames from images, and to a folder of PNGs.

Shape shorthand: h and w height and width of a frame.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from basicsr_plugins.errors import InputError
from basicsr_plugins.files import IMAGE_SUFFIXES, is_cut_short
from basicsr_plugins.memory import to_host
from basicsr_plugins.video.colour import STRIPE
from basicsr_plugins.video.media import Source, Target, file_status

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
MOST_LIGHT = 16  # of floats, where 1 is white
PLAIN = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH  # without alpha, turned as EXIF says
EXIF = (b'eXIf', b'EXIF')  # of PNG and WebP; OpenCV turns TIFF, whatever it is asked for
PNG_COMPRESSION = 3  # zlib's; higher ones take several times as long for a few percent


def natural_key(name: str) -> list:
    """A sorting key that counts: frame2 comes before frame10."""
    return [(int(part), part) if part.isdecimal() else (-1, part.lower()) for part in re.split(r'(\d+)', name) if part]


def list_images(where: str | os.PathLike) -> list[Path]:
    """The images of a folder or a glob, or one image, in natural order of their names.

    Raises:
        InputError: If there are none.
    """
    path = Path(where)
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.name[0] != '.']
    elif path.is_file():
        files = [path]
    else:
        files = [Path(file) for file in glob.glob(str(where), recursive=True) if os.path.isfile(file)]
    if not files:
        raise InputError(f'{where}: there are no images ({", ".join(IMAGE_SUFFIXES)}).')
    return sorted(files, key=lambda file: natural_key(str(file)))


class ImageSource(Source):
    """Frames from image files of 8 or 16 bits, or of float values in [0, 1].

    Grey images become RGB; alpha is dropped, with a note where it is not opaque; the orientation that a camera notes is
    applied.

    Args:
        files: The images, in order.
        name: Where they come from, for messages.

    Raises:
        InputError: While iterating too: if an image cannot be read, has changed, or differs in size from the first.
    """

    def __init__(self, files: Sequence[Path], name: str):
        super().__init__(name)
        self._has_noted_alpha = False
        self.files = list(files)
        self._status = [file_status(file) for file in self.files]
        first = self._load(self.files[0])
        self.size = first.shape[:2]
        self.num_frame = len(self.files)
        self.bit_depth = 8 if first.dtype == np.uint8 else 16

    def __iter__(self) -> Iterator[Tensor]:
        for file, status in zip(self.files, self._status):
            image = self._load(file)
            if file_status(file) != status:
                raise InputError(f'{file} has changed since the images were listed; start over with force.')
            if image.shape[:2] != self.size:
                (h, w), (first_h, first_w) = image.shape[:2], self.size
                raise InputError(
                    f'{file} is {w}x{h}, but {self.files[0].name} is {first_w}x{first_h}; all frames need one size.'
                )
            yield _to_tensor(image)
        self.exhausted = True

    def _load(self, file: Path) -> np.ndarray:
        """An image without its alpha channel; a note, once, of the first that shows less without it."""
        data = _read(file)
        if self._has_noted_alpha or not _may_have_alpha(data):
            return _decode(file, data)
        image = _decode(file, data, cv2.IMREAD_UNCHANGED)
        if _is_transparent(image):
            self._has_noted_alpha = True
            self.notes.append(f'{file} has an alpha channel that is not opaque; it is dropped, here and in all others.')
        return _decode(file, data) if any(mark in data for mark in EXIF) else _without_alpha(image)

    def identity(self) -> dict:
        listing = ''.join(
            f'{file.name}\n{size}\n{changed}\n' for file, (size, changed) in zip(self.files, self._status)
        )
        return {'number of images': len(self.files), 'listing': hashlib.sha256(os.fsencode(listing)).hexdigest()}


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f'{file} cannot be read: {error.strerror}.') from error


def _decode(file: Path, data: bytes, flags: int = PLAIN) -> np.ndarray:
    """(h, w) or (h, w, 3) in BGR, of uint8, uint16 or float32; by other flags with alpha, too."""
    image = None
    if data and _is_whole(data):
        with contextlib.suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None and flags != PLAIN:  # grey with alpha in JPEG 2000
        return _decode(file, data)
    if image is None:
        raise InputError(f'{file} is damaged or not an image.')
    if image.dtype not in (np.uint8, np.uint16, np.float32):
        raise InputError(f'{file} has {image.dtype} samples; convert it to 8 or 16 bits.')
    if image.dtype == np.float32 and not np.abs(image).max(initial=0) <= MOST_LIGHT:  # nor NaN
        raise InputError(f'{file} has floats that are not from 0 to 1, or NaN; convert it to 8 or 16 bits.')
    return image


def _is_whole(data: bytes) -> bool:
    """Whether the end mark is there: OpenCV decodes what there is of a truncated file and leaves the rest grey."""
    return is_whole_png(data) if data.startswith(PNG_SIGNATURE) else not is_cut_short(data)


def is_whole_png(data: bytes) -> bool:
    """Whether a PNG goes on to its end mark, and the checksum of each chunk is right."""
    position = len(PNG_SIGNATURE)
    while data.startswith(PNG_SIGNATURE) and position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], 'big')
        if end > len(data) or zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], 'big'):
            return False
        if data[position + 4 : position + 8] == b'IEND':
            return True
        position = end
    return False


def _may_have_alpha(data: bytes) -> bool:
    if data.startswith((b'\xff\xd8', b'P')):  # JPEG and PNM have none
        return False
    return not data.startswith(PNG_SIGNATURE) or data[25:26] in b'\4\6' or b'tRNS' in data[: data.find(b'IDAT')]


def _is_transparent(image: np.ndarray) -> bool:
    """Whether an image has an alpha channel that is not opaque everywhere."""
    if image.ndim != 3 or image.shape[2] not in (2, 4):
        return False
    opaque = 1 if image.dtype == np.float32 else np.iinfo(image.dtype).max
    return bool((image[..., -1] != opaque).any())


def _without_alpha(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] == 3:
        return image
    return image[..., 0] if image.shape[2] == 2 else image[..., :3]


def _to_tensor(image: np.ndarray) -> Tensor:
    """BGR or grey (h, w, 3) or (h, w) -> RGB (3, h, w) in [0, 1]."""
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    top = np.float32(1 if image.dtype == np.float32 else np.iinfo(image.dtype).max)
    rgb = image[..., 2::-1].astype(np.float32).transpose(2, 0, 1) / top
    return torch.from_numpy(np.ascontiguousarray(rgb)).clamp_(0, 1)


class ImageTarget(Target):
    """A folder of PNGs, called as the source's images, or 00000000.png and so on for a video's and those between.

    Each PNG is whole or absent; after an interruption those that are there count, up to the first damaged one.
    """

    any_size = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.bit_depth = self.settings.bit_depth or (8 if self.source.bit_depth == 8 else 16)

    def _state_of_settings(self) -> dict:
        return {'output': 'PNG', 'bit_depth': self.settings.bit_depth}

    def _check_output(self) -> None:
        is_numbered = self.source.is_video or self.time_scale > 1
        self._stems = None if is_numbered else [file.stem for file in self.source.files]
        if self._stems is not None and len({stem.lower() for stem in self._stems}) < len(self._stems):
            self._stems = None
            self.notes.append('Several images have the same name but for their suffix; the PNGs are numbered.')

    def _check_replaceable(self) -> None:
        if not os.path.lexists(self.path):
            return
        if not self.path.is_dir():
            raise InputError(f'{self.path} is a file; give the folder of PNGs another name.')
        others = sorted(file.name for file in self.path.iterdir() if file.suffix.lower() != '.png')
        if others:
            raise InputError(f'{self.path} is not overwritten, for it holds more than PNGs ({others[0]}).')

    def _find_done(self) -> int:
        self._frames = self.parts / 'frames'
        self._frames.mkdir(exist_ok=True)
        for part in self._frames.glob('.*.part'):
            part.unlink()
        done = 0
        while (self._stems is None or done < len(self._stems)) and self._file(done).is_file():
            if not is_whole_png(self._file(done).read_bytes()):
                self.notes.append(f'{self._file(done)} is damaged; it is made again, and what follows it.')
                break
            done += 1
        return done

    def _file(self, index: int) -> Path:
        stem = f'{index:08d}' if self._stems is None else self._stems[index]
        return self._frames / f'{stem}.png'

    def _write(self, index: int, frame: Tensor) -> None:
        file = self._file(index)
        part = file.with_name(f'.{file.name}.part')
        data = encode_png(frame, self.bit_depth)
        with self._disk_errors(file, lambda: len(data)):
            part.write_bytes(data)
            os.replace(part, file)
        self.num_kept = index + 1

    def _take(self, folder: Path, first: int) -> int:
        files = sorted((folder / 'frames').glob('*.png'), key=lambda file: natural_key(file.name))
        for index, file in enumerate(files, first):
            part = self._frames / '.taken.part'
            part.unlink(missing_ok=True)
            try:
                os.link(file, part)
            except OSError:  # a file system without links
                shutil.copyfile(file, part)
            os.replace(part, self._file(index))
        (self._frames / '.taken.part').unlink(missing_ok=True)  # to replace a file by itself does nothing
        return len(files)

    def _finish(self) -> Path:
        return self._frames

    def _discard(self) -> None:
        for part in self.parts.glob('frames/.*.part'):
            with contextlib.suppress(OSError):
                part.unlink()


def encode_png(frame: Tensor, bit_depth: int) -> bytes:
    """A PNG of 8 or 16 bits from (3, h, w), RGB, clamped to [0, 1]."""
    largest = 2**bit_depth - 1
    image = np.empty((*frame.shape[1:], 3), np.uint8 if bit_depth == 8 else np.uint16)
    for top in range(0, len(image), STRIPE):
        values = (frame[:, top : top + STRIPE].detach().float().clamp(0, 1) * largest).round_()
        values = values.to(torch.uint8 if bit_depth == 8 else torch.int32).permute(1, 2, 0).flip(2)
        image[top : top + STRIPE] = to_host(values).numpy()
    return cv2.imencode('.png', image, [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION])[1].tobytes()
