import asyncio
import gc
import logging

import pytest

from zuebee.lib.tasks import Tasks


async def test_a_task_that_nobody_holds_runs_to_its_end() -> None:
    tasks, done = Tasks(), asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.set()

    tasks.spawn(work(), "work")
    gc.collect()
    await asyncio.wait_for(done.wait(), 5)
    await tasks.aclose()


async def test_a_failure_is_reported_under_the_name_of_its_task(caplog: pytest.LogCaptureFixture) -> None:
    tasks = Tasks()

    async def fail() -> None:
        raise ValueError("out of luck")

    with caplog.at_level(logging.ERROR):
        await asyncio.wait([tasks.spawn(fail(), "unlucky")])
        await asyncio.sleep(0)
    assert "unlucky" in caplog.text
    assert "out of luck" in caplog.text
    await tasks.aclose()


async def test_closing_cancels_what_runs_waits_for_it_and_reports_nothing(caplog: pytest.LogCaptureFixture) -> None:
    tasks, cleaned = Tasks(), list[int]()

    async def work(number: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(number)

    with caplog.at_level(logging.DEBUG, logger="zuebee.tasks"):
        for number in range(3):
            tasks.spawn(work(number), f"work {number}")
        await asyncio.sleep(0)
        await tasks.aclose()
    assert sorted(cleaned) == [0, 1, 2]
    assert caplog.records == []
    await tasks.aclose()  # nothing is left


async def test_tasks_are_waited_for_but_not_for_long() -> None:
    tasks, done = Tasks(), asyncio.Event()
    await tasks.wait(0)

    async def work(for_s: float) -> None:
        await asyncio.sleep(for_s)
        done.set()

    tasks.spawn(work(0.01), "short")
    await tasks.wait(5)
    assert done.is_set()
    tasks.spawn(work(60), "long")
    await asyncio.wait_for(tasks.wait(0.01), 5)
    await tasks.aclose()
