"""On the path only while _environment.sh builds BasicSR: lets its setup.py run on Python 3.13.

Its `get_version` executes a file without naming a namespace and then reads the version from `locals()`. Since
Python 3.13 (PEP 667) a function sees nothing there that `exec` defined, and the build stops with a KeyError. Here such
a call of `exec` works on the variables of the frame again.
"""

import builtins
import sys

if sys.version_info >= (3, 13):
    original_exec = builtins.exec

    def exec_in_frame(source, globals=None, locals=None, /, **options):
        if globals is None:
            frame = sys._getframe(1)
            globals, locals = frame.f_globals, frame.f_locals
        return original_exec(source, globals, locals, **options)

    builtins.exec = exec_in_frame
