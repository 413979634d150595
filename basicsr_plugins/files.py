"""Files and small things read from text: one atomic write, one lock, what images are, sizes as `HxW`."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from basicsr_plugins.errors import InputError, one_line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.jpe', '.tif', '.tiff', '.webp', '.bmp', '.ppm', '.pgm', '.pnm', '.jp2')
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: str | os.PathLike, content: bytes | str | Callable[[BinaryIO], None]) -> None:
    """Write a file that is whole or as it was before: to a temporary name beside it, flushed to disk, then renamed.

    Args:
        path: The file; its folder must be there.
        content: Bytes, text (UTF-8), or a function that writes to a binary file object.

    Raises:
        OSError: If the disk refuses it; the temporary file is removed.
    """
    path = Path(path)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        with open(part, 'wb') as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def lock_file(path: str | os.PathLike, work: str) -> Iterator[None]:
    """Hold a lock on a file for the time of a context; the system releases it when the process dies.

    Another process that asks for it meanwhile is refused at once. The file is made where it is missing and stays.

    Args:
        path: The file; its folder must be there.
        work: What the lock is for, as the message calls it: the output, the experiment.

    Raises:
        InputError: If another process, or this one already, holds it.
        OSError: If the file cannot be opened, or its file system has no locks.
    """
    with open(path, 'ab') as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
            except (BlockingIOError, FileNotFoundError):  # the one who held it has just removed it
                held = False
            if not held:
                raise InputError(f'another process is writing {work}; wait until it ends.')
        yield


def disk_error(path: str | os.PathLike, error: OSError, needed: int | None = None) -> str:
    """The beginning of a sentence on what the system refused to write; of a full disk it says which, and its room.

    Args:
        path: What was to be written.
        error: What the system said.
        needed: Bytes that it takes, where that is known.
    """
    if error.errno not in DISK_FULL:
        return f'{path} cannot be written: {error.strerror or error}'
    folder = next(folder for folder in Path(os.path.abspath(path)).parents if folder.is_dir())
    room = f'{shutil.disk_usage(folder).free / 2**20:.1f} MiB are free'
    if needed is not None:
        room = f'it takes {needed / 2**20:.1f} MiB, and {room}'
    return f'{path} cannot be written: the disk of {folder} is full ({error.strerror}; {room})'


def parse_size(text: str, where: str) -> tuple[int, int]:
    """Read `180x320`: height and width.

    Raises:
        InputError: If it reads otherwise; `where` begins the message.
    """
    match = re.fullmatch(r'([1-9][0-9]{0,5})x([1-9][0-9]{0,5})', text)
    if match is None:
        raise InputError(f'{where} must read HEIGHTxWIDTH, as in 180x320, but is {text!r}.')
    return int(match[1]), int(match[2])


def is_cut_short(data: bytes) -> bool:
    """Whether a file's content is a JPEG without its end mark: OpenCV before 5 fills up what is missing with grey."""
    if not data.startswith(b'\xff\xd8'):
        return False
    position = 2  # the segments ahead of the image have their lengths; a thumbnail in one has an end mark too
    while data[position : position + 1] == b'\xff' and data[position + 1 : position + 2] != b'\xda':
        filled = data[position + 1 : position + 2] == b'\xff'
        position += 1 if filled else 2 + int.from_bytes(data[position + 2 : position + 4], 'big')
    return data.find(b'\xff\xd9', position) < 0


def check_checksums(path: str | os.PathLike) -> None:
    """Refuse a damaged file of `torch.save`, a ZIP archive, of which PyTorch does not compare the checksums.

    Raises:
        InputError: Naming the file.
    """
    if not zipfile.is_zipfile(path):
        return  # of PyTorch before 1.6, which has none
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # whatever a damaged directory makes zipfile raise
        raise InputError(f'{path} is damaged ({one_line(error)[:150]}); take another copy.') from error
    if damaged is not None:
        raise InputError(f'{path} is damaged ({damaged} in it has another checksum); take another copy.')
