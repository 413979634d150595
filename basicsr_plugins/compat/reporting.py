"""How a program that runs BasicSR ends when it cannot go on."""

from __future__ import annotations

import sys

from basicsr_plugins.errors import InputError, one_line


def excepthook() -> None:
    """End a program with one line, not with a traceback, where that says all.

    That is an `InputError`, Ctrl-C, and a loader's worker that was killed; other errors are left alone. BasicSR's
    scripts catch nothing, in every version: a wrong option is a traceback of thirty lines.
    """
    previous = sys.excepthook
    if getattr(previous, 'reports_input_errors', False):
        return

    def report(kind, error, traceback):
        if isinstance(error, InputError):
            print(f'error: {one_line(error)}', file=sys.stderr)
        elif isinstance(error, KeyboardInterrupt):
            print('interrupted', file=sys.stderr)
        elif isinstance(error, RuntimeError) and str(error).startswith('DataLoader worker (pid'):
            reason = one_line(error).split('.')[0]
            advice = 'if memory ran out, lower num_worker_per_gpu; --auto_resume goes on from the last state'
            print(f'error: a process that loads data is gone ({reason}); {advice}.', file=sys.stderr)
        else:
            previous(kind, error, traceback)

    report.reports_input_errors = True
    sys.excepthook = report


PATCHES = (excepthook,)
