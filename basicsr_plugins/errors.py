"""What the user gave cannot be used: one exception class, one way to report it."""

import sys


class InputError(ValueError):
    """A wrong option, a missing or damaged file, an impossible size.

    The message is one sentence that names the file, the key or the value and says the mend.
    """


def run_script(main):
    """Run a script's `main()`: an `InputError` ends it with one line on standard error and exit code 1.

    Args:
        main (Callable[[], int | None]): The script; its return value is the exit code.
    """
    try:
        code = main()
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        code = 130
    sys.exit(code)
