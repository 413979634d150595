"""What a class or function of the toolbox or of this package cannot do with its options, told in one sentence."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from basicsr_plugins.errors import InputError, one_line
from basicsr_plugins.memory import is_out_of_memory

OURS = ('basicsr', 'basicsr_plugins')  # packages whose classes are known to take nothing but what they declare


def is_ours(thing: object) -> bool:
    """Whether a class or function is the toolbox's or this package's."""
    return thing.__module__.split('.')[0] in OURS


@contextmanager
def refusing(what: str | Callable[[Exception], str], *things: object) -> Iterator[None]:
    """Tell in one sentence, with the line that failed, what classes or functions cannot do with their options.

    Errors where others take part than the toolbox's and this package's are left as they are: who writes one reads them.

    Args:
        what: Name and verb, as in `EFAR does not restore a clip`, or what tells that by the error.
        things: All that take part: classes of networks, datasets and models, metrics.

    Raises:
        InputError: In place of any other error, but that memory ran out.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or is_out_of_memory(error) or not all(map(is_ours, things)):
            raise
        said = what if isinstance(what, str) else what(error)
        call = traceback.extract_tb(error.__traceback__)[-1]
        where = f'{type(error).__name__} in {Path(call.filename).name}, line {call.lineno}'
        raise InputError(f'{said} ({where}: {one_line(error)}).') from error


@contextmanager
def no_log() -> Iterator[None]:
    """Without the toolbox's log: the first message of all would open it for good, and without its file."""
    from basicsr.utils import logger as toolbox_logger  # may itself be what imports BasicSR, and so this module

    logger, opened = logging.getLogger('basicsr'), toolbox_logger.initialized_logger
    toolbox_logger.initialized_logger = {**opened, logger.name: True}
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False
        toolbox_logger.initialized_logger = opened
