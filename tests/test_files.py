"""The lock that keeps two processes from one output, and what is said of a full disk."""

import errno
import os
import subprocess
import sys

import pytest

from basicsr_plugins.errors import InputError
from basicsr_plugins.files import disk_error, lock_file

HOLD = """
import sys, time
from basicsr_plugins.files import lock_file
with lock_file(sys.argv[1], 'the output'):
    print('held', flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_refused_while_its_holder_lives_and_free_when_it_is_killed(tmp_path):
    path = tmp_path / 'lock'
    with subprocess.Popen(
        [sys.executable, '-c', HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b'held\n'
        message = r'^another process is writing the output; wait until it ends\.$'
        with pytest.raises(InputError, match=message), lock_file(path, 'the output'):
            pass
        holder.kill()
        holder.wait()
        with lock_file(path, 'the output'):
            pass


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_none(tmp_path, monkeypatch):
    """Its holder removes the file when it is done; who has opened that one before must not go on beside a newer one."""
    path = tmp_path / 'lock'
    stat = os.stat

    def removed(file, *args, **kwargs):
        if file == path:
            path.unlink()
        return stat(file, *args, **kwargs)

    monkeypatch.setattr(os, 'stat', removed)
    with pytest.raises(InputError, match='another process'), lock_file(path, 'it'):
        pass


def test_a_full_disk_is_said_with_its_folder_and_its_room(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    message = disk_error(tmp_path / 'new' / 'film.mp4', full, needed=3 * 2**20)
    assert message.startswith(f'{tmp_path}/new/film.mp4 cannot be written: the disk of {tmp_path} is full')
    assert 'it takes 3.0 MiB, and ' in message
    assert ' MiB are free)' in message
    assert disk_error('x', OSError(errno.EACCES, 'Permission denied')) == 'x cannot be written: Permission denied'
