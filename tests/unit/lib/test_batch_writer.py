import threading
import time
from collections.abc import Callable

import pytest

from zuebee.lib.batch_writer import BatchWriter


def until(check: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 5
    while not check():
        assert time.monotonic() < end_s, "did not come about in time"
        time.sleep(0.002)


def test_items_are_written_together_and_in_order() -> None:
    batches: list[list[int]] = []
    writer = BatchWriter[int]("test", batches.append, interval_s=0.05, max_items=100)
    for number in range(10):
        assert writer.put(number)
    until(lambda: bool(batches))
    assert batches == [list(range(10))]
    writer.put(10)
    until(lambda: len(batches) == 2)
    writer.close()
    assert (batches[1], writer.dropped) == ([10], 0)


def test_closing_writes_what_waits_and_then_tells_so() -> None:
    events: list[object] = []
    writer = BatchWriter[int](
        "test", events.append, interval_s=60, max_items=100, on_close=lambda: events.append("closed")
    )
    writer.put(1)
    writer.put(2)
    begin_s = time.monotonic()
    writer.close()
    assert events == [[1, 2], "closed"]
    assert time.monotonic() - begin_s < 5


def test_nothing_is_forgotten_however_puts_and_writes_meet() -> None:
    got: list[int] = []
    writer = BatchWriter[int]("test", got.extend, interval_s=0.0, max_items=1_000_000)

    def put(begin: int) -> None:
        for number in range(begin, begin + 5000):
            writer.put(number)

    threads = [threading.Thread(target=put, args=(begin,)) for begin in (0, 5000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(got) == 10_000)  # without being closed: the last put woke the writer
    writer.close()
    assert sorted(got) == list(range(10_000))


def test_a_full_queue_drops_and_counts_and_does_not_block() -> None:
    gate, held, got = threading.Event(), threading.Event(), list[int]()

    def write(batch: list[int]) -> None:
        held.set()
        gate.wait(5)
        got.extend(batch)

    writer = BatchWriter[int]("test", write, interval_s=0.0, max_items=3)
    writer.put(0)
    assert held.wait(5)  # the thread has it, at the gate
    assert [writer.put(number) for number in range(1, 6)] == [True, True, True, False, False]
    assert writer.dropped == 2
    gate.set()
    writer.close()
    assert (got, writer.dropped) == ([0, 1, 2, 3], 2)


@pytest.mark.parametrize(("failures", "written", "dropped"), [(1, [[1, 2]], 0), (5, [], 2)])
def test_a_batch_that_cannot_be_written_is_tried_again_then_dropped_and_counted(
    failures: int, written: list[list[int]], dropped: int, caplog: pytest.LogCaptureFixture
) -> None:
    tries, got = 0, list[list[int]]()

    def write(batch: list[int]) -> None:
        nonlocal tries
        tries += 1
        if tries <= failures:
            raise OSError("the disk is full")
        got.append(batch)

    writer = BatchWriter[int]("test", write, interval_s=0.05, max_items=10, retries=1)
    writer.put(1)
    writer.put(2)
    until(lambda: tries == 2)
    writer.close()
    assert (got, writer.dropped, tries) == (written, dropped, 2)
    assert "the disk is full" in caplog.text
