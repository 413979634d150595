"""The folder beside an output in which it is made: locked while a run is at work, kept where it was interrupted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from basicsr_plugins.errors import InputError
from basicsr_plugins.files import lock_file, write_atomically

LOCK = 'lock'
STATE = 'state.json'
COMPARED = 'compared'  # there once the comparison beside the output is complete
BESIDE = 'beside'  # names the comparison
STATES_AT = 'states_at'  # names the folder of a network's states
STATES = 'states'
FITTED = 'fitted'  # tiles and segments that memory took
OWN = (LOCK, STATE, COMPARED, BESIDE, STATES_AT, STATES, FITTED)
DIFFERENCES = {  # what differs where a number that says nothing to a reader does
    'bytes': 'the film has changed since',
    'modified': 'the film has changed since',
    'listing': 'the images have changed since',
    'weights': 'the network has other layers or weights than it had',
}


class WorkFolder:
    """`.NAME.parts` beside an output NAME.

    Args:
        output: The output.

    Attributes:
        path: The folder.
    """

    def __init__(self, output: Path):
        self._output = output
        self.path = output.parent / f'.{output.name}.parts'
        self._lock = contextlib.ExitStack()

    def open(self, state: Mapping, resume: bool, force: bool) -> None:
        """Take it up from an interrupted run, or make it anew, and hold its lock.

        Args:
            state: What the output depends on, as JSON takes it.
            resume: Go on from what an interrupted run left, if it left anything.
            force: Without `resume`, remove that.

        Raises:
            InputError: If another process is at work there, or an interrupted run left something that is not wanted, or
                that depends on something else.
            OSError: If the disk refuses it.
        """
        self.path.mkdir(exist_ok=True)
        self._lock.enter_context(lock_file(self.path / LOCK, str(self._output)))
        try:
            self._take_up(json.loads(json.dumps(state)), resume, force)
        except BaseException:
            self.release()
            raise

    def _take_up(self, state: dict, resume: bool, force: bool) -> None:
        file = self.path / STATE
        if file.exists():  # else a run was killed while it made the folder
            if resume:
                self._compare(file, state)
                return
            if not force:
                raise InputError(
                    f'{self._output}: an interrupted run left {self.path}; go on from it with resume, '
                    'or start over with force.'
                )
        self._clear()
        write_atomically(file, json.dumps(state))

    def _compare(self, file: Path, state: dict) -> None:
        try:
            left = json.loads(file.read_text(encoding='utf-8'))
        except ValueError:
            left = None
        if not isinstance(left, dict):
            raise InputError(f'{file} is damaged; start over with force.')
        difference = describe_difference(left, state)
        if difference:
            raise InputError(
                f'{self._output} cannot be resumed: {difference}; resume with what the interrupted run had, '
                'or start over with force.'
            )

    def _clear(self) -> None:
        """Remove everything but the lock, and the name of the comparison, of which something is left too."""
        self._remove_states()
        for file in self.path.iterdir():
            if file.name in (LOCK, BESIDE):
                continue
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)
            else:
                file.unlink()

    def pair_with(self, other: Path | None) -> None:
        """Note the output that is written beside this one; what an interrupted run left of another is removed."""
        note = self.path / BESIDE
        left = Path(os.fsdecode(note.read_bytes())) if note.is_file() else None
        if left is not None and left != other:
            _remove_left_over(WorkFolder(left))
        if other is None:
            note.unlink(missing_ok=True)
        elif left != other:
            write_atomically(note, os.fsencode(other))

    def states_folder(self, temp_dir: Path | None) -> Path:
        """Where a network's states are kept for a run that goes on from this one: here, or below `temp_dir`."""
        note = self.path / STATES_AT
        if temp_dir is None:
            wanted = self.path / STATES
        else:
            key = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:8]
            wanted = Path(os.path.abspath(temp_dir)) / f'{self._output.name}.{key}.{STATES}'
        if self._find_states() != wanted:
            self._remove_states()
            write_atomically(note, os.fsencode(wanted))
        return wanted

    def _find_states(self) -> Path | None:
        note = self.path / STATES_AT
        return Path(os.fsdecode(note.read_bytes())) if note.is_file() else None

    def is_needed(self) -> bool:
        """Whether a run can go on from more than frames: states of a network, or parts that other processes make."""
        folder = self._find_states()
        has_states = folder is not None and folder.is_dir()
        return has_states or any(self.path.glob('.*.parts'))

    def _remove_states(self) -> None:
        folder = self._find_states()
        if folder is not None and folder.name.endswith(STATES):
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder: the output is there, or nothing of it is."""
        self._remove_states()
        shutil.rmtree(self.path, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Let the lock go; what is in the folder stays."""
        self._lock.close()


def _remove_left_over(folder: WorkFolder) -> None:
    """Remove what an interrupted run left, unless another one is at work on it."""
    if (folder.path / STATE).is_file():
        with contextlib.suppress(InputError), lock_file(folder.path / LOCK, str(folder.path)):
            folder.remove()


def describe_difference(left: Mapping, now: Mapping) -> str | None:
    """What differs between the states of two runs, in words: the first thing that does."""
    before, after = dict(_leaves(left)), dict(_leaves(now))
    for key in (*after, *before):
        if before.get(key) != after.get(key):
            return DIFFERENCES.get(key) or f'{key} is {_say(after.get(key))} now, but was {_say(before.get(key))}'
    return None


def _leaves(state: Mapping) -> Iterator[tuple[str, object]]:
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield key, value


def _say(value: object) -> str:
    if isinstance(value, list):
        return ', '.join(map(str, value))
    return 'not set' if value is None else str(value)
