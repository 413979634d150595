"""Jobs in a process of their own: one that dies for lack of memory is a row of the table, and the others go on."""

from __future__ import annotations

import logging
import multiprocessing
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch
from basicsr.utils import get_root_logger

from basicsr_plugins.data.preparation import end_with_parent
from basicsr_plugins.errors import InputError, one_line
from basicsr_plugins.files import DISK_FULL
from basicsr_plugins.memory import is_out_of_memory

PROCESSES = multiprocessing.get_context('spawn')  # CUDA does not survive a fork
KILLED = 'its process was killed, most likely for lack of memory'


class Workers:
    """One process at a time, which runs jobs."""

    def __init__(self):
        self.pool = None
        self.processes = set()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind, *exception) -> None:
        if kind is not None:
            for process in self.processes:  # an interruption does not wait for the job to end
                process.kill()
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def run(self, job: Callable, *arguments) -> str | None:
        """Run `job(*arguments)`, all of which can be pickled.

        Returns:
            Why it failed, in one line; None if it did not.

        Raises:
            OSError: If the disk is full: that is no property of a method.
        """
        if self.pool is None:
            self.pool = ProcessPoolExecutor(1, mp_context=PROCESSES, initializer=_start)
        try:
            others = set(multiprocessing.active_children())
            future = self.pool.submit(_run, job, *arguments)
            self.processes |= set(multiprocessing.active_children()) - others
            error, goes_on = future.result()
        except BrokenProcessPool:
            error, goes_on = KILLED, False
        if not goes_on:
            self.pool.shutdown()
            self.pool = None
        return error


def _run(job: Callable, *arguments) -> tuple[str | None, bool]:
    """In the new process: run a job; why it failed, as text, because not every exception can be sent.

    And whether the process is as good as before: an error on CUDA stays with it, and so may the memory.
    """
    try:
        job(*arguments)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        is_harmless = isinstance(error, InputError) or not (torch.cuda.is_initialized() or is_out_of_memory(error))
        return reason(error), is_harmless
    return None, True


def _start() -> None:
    """In the new process."""
    warnings.filterwarnings('ignore')
    get_root_logger().setLevel(logging.ERROR)  # that weights are random says the row
    end_with_parent()


def reason(error: Exception) -> str:
    """One sentence on why a method failed."""
    text = one_line(error)
    if is_out_of_memory(error):
        return f'out of memory ({text[:150]})'
    return text if isinstance(error, InputError) else f'{type(error).__name__}: {text[:300]}'
