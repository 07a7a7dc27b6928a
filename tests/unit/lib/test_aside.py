"""Work beside the loop: one piece at a time, the smallest next, and time for others in between."""

import asyncio
import threading
import time

import pytest

from zuebee.lib.aside import Aside


async def test_one_works_and_the_smallest_is_next() -> None:
    side, go, order = Aside(), threading.Event(), []
    first = asyncio.ensure_future(side.run(9, lambda: go.wait(5)))
    await asyncio.sleep(0)
    others = [asyncio.ensure_future(side.run(size, lambda size=size: order.append(size))) for size in (5, 1, 3)]
    await asyncio.sleep(0.01)
    assert order == []
    go.set()
    await asyncio.gather(first, *others)
    assert order == [1, 3, 5]


async def test_who_leaves_holds_nobody_up() -> None:
    side, go = Aside(), threading.Event()
    first = asyncio.ensure_future(side.run(1, lambda: go.wait(5)))
    await asyncio.sleep(0)
    waiting = [asyncio.ensure_future(side.run(number, lambda: None)) for number in range(3)]
    last = asyncio.ensure_future(side.run(9, lambda: "done"))
    await asyncio.sleep(0.01)
    for task in (first, *waiting):
        task.cancel()
    go.set()
    await asyncio.gather(first, *waiting, return_exceptions=True)
    assert await last == "done"


async def test_who_leaves_in_its_turn_passes_it_on() -> None:
    side, go = Aside(), threading.Event()
    first = asyncio.ensure_future(side.run(1, lambda: go.wait(5)))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(side.run(2, lambda: None))
    third = asyncio.ensure_future(side.run(3, lambda: "done"))
    await asyncio.sleep(0)
    go.set()
    first.add_done_callback(lambda _: second.cancel())
    assert await first
    with pytest.raises(asyncio.CancelledError):
        await second
    assert await third == "done"


async def test_a_failure_is_the_callers() -> None:
    side = Aside()
    with pytest.raises(ZeroDivisionError):
        await side.run(1, lambda: 1 // 0)
    assert await side.run(1, lambda: 2) == 2


async def test_it_rests_as_long_as_it_worked() -> None:
    side = Aside()
    await side.run(1, lambda: time.sleep(0.05))
    begun_s = time.monotonic()
    await side.run(1, lambda: None)
    assert time.monotonic() - begun_s > 0.03
