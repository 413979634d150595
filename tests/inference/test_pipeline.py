"""Reading ahead and writing behind: order, bounds, errors of the threads, and that no thread is left."""

import threading

import pytest

from basicsr_plugins.inference.pipeline import WriteBehind, read_ahead


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def hand_over(write, depth, items):
    with WriteBehind(write, depth) as writer:
        for item in items:
            writer.put(item)


@pytest.mark.parametrize('depth', [1, 3])
def test_items_come_in_order_and_no_more_than_depth_ahead(depth):
    made = []

    def items():
        for i in range(20):
            made.append(i)
            yield i

    seen = []
    for item in read_ahead(items(), depth):
        seen.append(item)
        assert len(made) <= len(seen) + depth + 1  # one that is made and waits for its place
    assert seen == list(range(20))


@pytest.mark.parametrize('depth', [1, 2])
@pytest.mark.parametrize('error', [ValueError('damaged'), KeyboardInterrupt()])
def test_an_error_comes_where_its_item_would(depth, error):
    def items():
        yield from range(3)
        raise error

    seen = []

    def go_through():
        for item in read_ahead(items(), depth):
            seen.append(item)

    with pytest.raises(type(error)) as raised:
        go_through()
    assert raised.value is error
    assert seen == [0, 1, 2]


def test_closed_early_the_source_is_closed_too():
    closed = []

    def items():
        try:
            yield from iter(int, 1)
        finally:
            closed.append(True)

    ahead = read_ahead(items(), 2)
    assert next(ahead) == 0
    ahead.close()
    assert closed == [True]
    read_ahead(items(), 2).close()  # never started


@pytest.mark.parametrize('depth', [1, 2])
def test_all_is_written_when_the_context_is_left(depth):
    written = []
    with WriteBehind(written.append, depth) as writer:
        for i in range(10):
            writer.put(i)
            assert len(written) >= len(range(i + 1)) - depth - 1
    assert written == list(range(10))
    written.clear()
    with pytest.raises(ZeroDivisionError):  # the reader's error
        hand_over(written.append, depth, (1 // i for i in (1, 1, 0)))
    assert written == [1, 1]


@pytest.mark.parametrize('depth', [1, 2])
def test_the_writers_error_ends_the_run_and_nothing_is_written_after_it(depth):
    written = []

    def write(item):
        if item == 3:
            raise OSError('full')
        written.append(item)

    for number in (100, 4):  # in the middle, and with the last one
        written.clear()
        with pytest.raises(OSError, match='full'):
            hand_over(write, depth, range(number))
        assert written == [0, 1, 2]


def test_interrupted_while_it_waits_for_the_rest(monkeypatch):
    """Ctrl-C while the last frames are encoded: what has not begun is dropped, and the thread ends."""
    begun, go_on, written = threading.Event(), threading.Event(), []

    def write(item):
        begun.set()
        go_on.wait()
        written.append(item)

    writer = WriteBehind(write, 3)
    join = writer._thread.join

    def interrupted():
        monkeypatch.setattr(writer._thread, 'join', lambda: (go_on.set(), join()))
        raise KeyboardInterrupt

    monkeypatch.setattr(writer._thread, 'join', interrupted)

    def work():
        with writer:
            for i in range(3):
                writer.put(i)
            begun.wait()

    with pytest.raises(KeyboardInterrupt):
        work()
    assert written == [0]
