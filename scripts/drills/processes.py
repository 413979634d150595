"""Work in processes of their own, which a drill can kill: forked, so that nothing is imported again."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

SECONDS = 120  # that nothing may take


def start(work: Callable[[], object], folder: Path) -> int:
    """Start `work` in a folder, with what it prints in `output.log` and `error.log` there; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.chdir(folder)
        for number, name in ((1, 'output.log'), (2, 'error.log')):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        warnings.simplefilter('ignore')
        work()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def finish(child: int, folder: Path) -> tuple[int, str]:
    """Wait for a process; its exit code, the number of a signal as a negative one, and what it said of errors."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, (folder / 'error.log').read_text(errors='replace')


def wait_for(folder: Path, pattern: str) -> None:
    """Wait until a process has written a file of that pattern, at most SECONDS."""
    deadline = time.monotonic() + SECONDS
    while next(folder.glob(pattern), None) is None and time.monotonic() < deadline:
        time.sleep(0.01)


def refuses(code: int, error: str) -> bool:
    """Whether a process ended with exit code 1 and one sentence."""
    lines = [line for line in error.splitlines() if line.startswith('error: ')]
    return code == 1 and len(lines) == 1 and 'Traceback' not in error


def print_table(counts: Mapping[tuple[str, str], int]) -> int:
    """Print how often each (what, how it ended) came; the exit code, 1 where one ended wrong."""
    for (what, result), count in sorted(counts.items()):
        print(f'| {what} | {result} | {count} |')
    return int(any(result == 'wrong' for _, result in counts))
