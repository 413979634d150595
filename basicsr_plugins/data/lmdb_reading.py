"""Reading LMDBs of clips: without copying, in any process, and with one sentence for what is damaged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import lmdb

from basicsr_plugins.data.meta_info import StrPath
from basicsr_plugins.errors import InputError

_OPEN: dict[tuple, tuple[tuple, lmdb.Environment]] = {}  # file -> (process, size and time of change, database)


def get_value(lmdb_path: StrPath, key: str) -> tuple[memoryview | None, lmdb.Environment]:
    """The value of a key, as it lies in the page cache, and the database, which must live as long as the value is used.

    Raises:
        InputError: The LMDB cannot be opened or read there.
    """
    env, num_byte = _open(lmdb_path)
    with _reading(lmdb_path, f'key {key}'), env.begin(buffers=True) as txn:
        value = txn.get(key.encode('ascii'))
    if value is not None and len(value) > num_byte:  # of a damaged page
        raise InputError(unusable(lmdb_path, f'cannot be read at key {key}, whose length makes no sense'))
    return value, env


def stored_keys(lmdb_path: StrPath) -> set[str]:
    """All keys.

    Raises:
        InputError: The LMDB cannot be opened or read.
    """
    env, _ = _open(lmdb_path)
    with _reading(lmdb_path, 'its keys'), env.begin() as txn:
        return {key.decode('ascii', 'replace') for key in txn.cursor().iternext(values=False)}


@contextmanager
def closed_afterwards(*lmdb_paths: StrPath) -> Iterator[None]:
    """Close databases at the end of a block, so that others in this process can open them, such as the toolbox.

    Whoever reads there through this module later opens them again. Paths that are no LMDBs do not count.
    """
    try:
        yield
    finally:
        for path in lmdb_paths:
            with suppress(OSError):
                stat = os.stat(os.path.join(path, 'data.mdb'))
                _OPEN.pop((stat.st_dev, stat.st_ino), None)


def unusable(lmdb_path: StrPath, problem: str) -> str:
    """The sentence about an LMDB that cannot be taken as it is."""
    return f'{lmdb_path} {problem}; pack it under another name, or replace it by force.'


def _open(lmdb_path: StrPath) -> tuple[lmdb.Environment, int]:
    """The database and its size in bytes, opened once in each process for as long as its file stays the same.

    LMDB refuses to open a database twice in a process, as training and validation on the same one would, and one that
    was open when a DataLoader forked must be opened anew in the worker.

    Raises:
        InputError: It cannot be opened, or its file is cut short.
    """
    path = str(lmdb_path)
    try:
        stat = os.stat(os.path.join(path, 'data.mdb'))
    except OSError as error:
        raise InputError(unusable(path, f'cannot be opened ({error.strerror})')) from error
    file = (stat.st_dev, stat.st_ino)  # not the path: it may be named in two ways, or be another LMDB by now
    state = (os.getpid(), stat.st_size, stat.st_mtime_ns)
    known, env = _OPEN.get(file, (None, None))
    if known != state:
        del env
        _OPEN.pop(file, None)  # closes it
        try:
            env = lmdb.open(path, readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise InputError(unusable(path, f'cannot be opened ({error})')) from error
        _check_whole(path, env, stat.st_size)
        _OPEN[file] = state, env
    return env, stat.st_size


def _check_whole(lmdb_path: StrPath, env: lmdb.Environment, size: int) -> None:
    """Refuse an LMDB whose file is cut short: reading beyond its end would kill the process."""
    num_byte = (env.info()['last_pgno'] + 1) * env.stat()['psize']
    if size < num_byte:
        raise InputError(unusable(lmdb_path, f'has a data.mdb that is cut short, of less than {num_byte} bytes'))


@contextmanager
def _reading(lmdb_path: StrPath, where: str) -> Iterator[None]:
    """Turn LMDB's errors about damaged pages into one sentence."""
    try:
        yield
    except lmdb.Error as error:
        raise InputError(unusable(lmdb_path, f'cannot be read at {where} ({error})')) from error
