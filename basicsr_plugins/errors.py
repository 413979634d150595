"""What the user gave cannot be used: one exception class, one way to report it."""

from __future__ import annotations

import difflib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn


class InputError(ValueError):
    """A wrong option, a missing or damaged file, an impossible size.

    The message is one sentence that names the file, the key or the value and the way out.
    """


class RunError(InputError):
    """A run that cannot go on: its training diverged, the disk is full, a process of it was killed.

    The message is one sentence as that of an `InputError`.
    """


def check_keys(where: str, options: Mapping, required: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Refuse unknown and missing keys of an option section.

    Args:
        where: Name of the section for the message, as in `datasets.train`.
        options: The section.
        required: Keys that must be there.
        optional: Keys that may be there.

    Raises:
        InputError: Naming the key, and for an unknown one the nearest valid key.
    """
    required = list(required)
    known = required + list(optional)
    for key in options:
        if key not in known:
            raise InputError(f'{where}: there is no key {key!r}; {suggest(key, known)}')
    for key in required:
        if key not in options:
            raise InputError(f'{where}: the key {key!r} is missing.')


def suggest(name: object, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest known one, all of them, or that there are none."""
    known = sorted(map(str, known))
    if not known:
        return 'there are none.'
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f'did you mean {near[0]!r}?' if near else f'valid ones are {", ".join(known)}.'


def one_line(error: BaseException) -> str:
    """The message of an error on one line; of one that came through a DataLoader worker, only the cause."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].startswith('Caught '):  # DataLoader puts the worker's whole traceback into the message
        return lines[-1].split(': ', 1)[-1]
    return ' '.join(line.strip() for line in lines)


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main()` and exit: an `InputError` ends it with one line on standard error and exit code 1.

    Args:
        main: The script; its return value is the exit code.
    """
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # what reads the output, as `head` does, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes as it ends
        code = 128 + signal.SIGPIPE
    except InputError as error:
        print(f'error: {one_line(error)}', file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        code = 130
    sys.exit(code)
