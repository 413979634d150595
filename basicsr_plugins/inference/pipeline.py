"""What goes on beside the network: frames are read ahead of it and its results written behind it, each in a thread.

Queues are bounded, so that neither side runs away from the other. An error of a thread comes up where its item is asked
for or handed over; every thread has ended when its context is left.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

READ_AHEAD, WRITE_BEHIND = 4, 2  # frames at most that wait for the network, and for the encoder
END = object()


def read_ahead(items: Iterable[Any], depth: int) -> Iterator[Any]:
    """The items in order, made by a thread up to `depth` ahead.

    Close this iterator, and its thread ends with the item that it is at.
    """
    channel, stopped = queue.Queue(depth), threading.Event()

    def work() -> None:
        try:
            for item in items:
                channel.put((item, None))
                if stopped.is_set():
                    return
            channel.put((END, None))
        except BaseException as error:  # Ctrl-C's too, where somebody raises it here
            channel.put((END, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = channel.get()
            if error is not None:
                raise error
            if item is END:
                return
            yield item
    finally:
        stopped.set()
        while thread.is_alive():
            with contextlib.suppress(queue.Empty):
                channel.get(timeout=0.05)


class WriteBehind:
    """Hands items to a function in a thread, in order; a context, after which all that were handed over are written.

    Args:
        write: What takes an item.
        depth: How many items may wait.
    """

    def __init__(self, write: Callable[[Any], None], depth: int):
        self._write = write
        self._error = None
        self._ended = False
        self._stopped = threading.Event()
        self._channel = queue.Queue(depth)
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> WriteBehind:
        self._thread.start()
        return self

    def put(self, item: Any) -> None:
        """Hand over an item.

        Raises:
            What `write` raised for this item or one before it; it gets no other item after that.
        """
        self._raise()
        self._channel.put(item)

    def __exit__(self, kind, *_) -> None:
        try:
            self._end()
        except BaseException:  # Ctrl-C while it waits: what still waits is not written
            self._stopped.set()
            self._end()
            raise
        if kind is None:
            self._raise()

    def _end(self) -> None:
        if not self._ended:
            self._channel.put(END)
            self._ended = True
        self._thread.join()

    def _work(self) -> None:
        while (item := self._channel.get()) is not END:
            if self._error is not None or self._stopped.is_set():
                continue
            try:
                self._write(item)
            except BaseException as error:
                self._error = error
            del item

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
