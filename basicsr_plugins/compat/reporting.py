"""How a program that runs BasicSR ends when what the user gave cannot be used."""

from __future__ import annotations

import sys

from basicsr_plugins.errors import InputError, one_line


def excepthook() -> None:
    """End a program that an `InputError` stops with one line, not with a traceback. Other errors are left alone.

    BasicSR's scripts catch nothing, in every version: a wrong option is a traceback of thirty lines.
    """
    previous = sys.excepthook
    if getattr(previous, 'reports_input_errors', False):
        return

    def report(kind, error, traceback):
        if isinstance(error, InputError):
            print(f'error: {one_line(error)}', file=sys.stderr)
        else:
            previous(kind, error, traceback)

    report.reports_input_errors = True
    sys.excepthook = report


PATCHES = (excepthook,)
