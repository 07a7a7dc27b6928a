import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fakes import FakeInference, make_job, until
from zuebee.config.settings import QueueSettings
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Priority
from zuebee.dispatch.balancer import Backend, Health
from zuebee.dispatch.priority_queue import Load
from zuebee.dispatch.request_queue import QUEUE_FULL, QUEUE_TIMEOUT, QueueEntry, RequestQueue
from zuebee.lib.units import Timeout


def backend(name: str = "a", limit: int | None = 1) -> Backend:
    health = Health(unhealthy_threshold=3, healthy_threshold=2)
    return Backend(name, f"http://{name}", FakeInference(), weight=1, health=health, models=(), load=Load(limit))


def busy(name: str = "a", limit: int = 1) -> Backend:
    full = backend(name, limit)
    full.load.in_flight = limit
    return full


def queue(max_length: int = 1000, timeout_s: float = 10.0) -> RequestQueue:
    return RequestQueue(QueueSettings(max_length=max_length, timeout_s=Timeout(timeout_s)))


def entry(to: RequestQueue, *backends: Backend, priority: Priority = "normal") -> QueueEntry:
    return to.entry(make_job(priority=priority), backends, lambda: backends)


Waiting = asyncio.Task[Backend | Refusal]


async def waiting(to: RequestQueue, *backends: Backend, priority: Priority = "normal") -> Waiting:
    lane = tuple(each.name for each in backends)
    task = asyncio.create_task(to.wait(entry(to, *backends, priority=priority), lane))
    await asyncio.sleep(0)
    return task


class Clocks:
    """Every timer that the loop was asked for since."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._loop = asyncio.get_running_loop()
        self._set: list[asyncio.TimerHandle] = []
        self._call_later = self._loop.call_later
        patch.setattr(self._loop, "call_later", self._note)

    def _note(self, *given: Any, **more: Any) -> asyncio.TimerHandle:
        self._set.append(self._call_later(*given, **more))
        return self._set[-1]

    @property
    def running(self) -> int:
        return sum(not each.cancelled() and each.when() > self._loop.time() for each in self._set)


def depth(of: RequestQueue) -> dict[str, float]:
    return {priority: count for (priority,), count in of.depths()}


def observed(of: RequestQueue) -> dict[str, int]:
    return {priority: sum(histogram.counts) for priority, histogram in of.waits.items()}


@pytest.mark.requirement("A103", "A305")
async def test_a_place_goes_from_hand_to_hand() -> None:
    only, line = busy(), queue()
    low, high = await waiting(line, only, priority="low"), await waiting(line, only, priority="high")
    assert depth(line) == {"high": 1, "normal": 0, "low": 1}
    line.leave(only)
    assert only.load.in_flight == 1, "it was never free"
    assert await high is only
    assert not low.done()
    line.leave(only)
    assert await low is only
    line.leave(only)
    assert only.load.in_flight == 0
    assert depth(line) == {"high": 0, "normal": 0, "low": 0}
    assert observed(line) == {"high": 1, "normal": 0, "low": 1}


async def test_who_leaves_while_waiting_takes_nothing() -> None:
    only, line = busy(), queue()
    gone, next_one = await waiting(line, only), await waiting(line, only)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    line.leave(only)
    assert await next_one is only
    assert only.load.in_flight == 1


@pytest.mark.requirement("A103")
@pytest.mark.parametrize("first", ["hand over", "cancel"])
async def test_who_leaves_in_the_moment_of_the_hand_over_passes_it_on(first: str) -> None:
    only, line = busy(), queue()
    gone, next_one = await waiting(line, only), await waiting(line, only)
    steps = [lambda: line.leave(only), gone.cancel]
    for step in steps if first == "hand over" else reversed(steps):
        step()
    await asyncio.gather(gone, return_exceptions=True)
    assert gone.cancelled()
    assert await next_one is only
    line.leave(only)
    assert only.load.in_flight == 0


async def test_a_full_line_refuses_the_last() -> None:
    only, line = busy(), queue(max_length=1)
    low = await waiting(line, only, priority="low")
    assert await (await waiting(line, only, priority="low")) is QUEUE_FULL
    high = await waiting(line, only, priority="high")
    assert await low is QUEUE_FULL
    line.leave(only)
    assert await high is only
    assert (QUEUE_FULL.status, QUEUE_FULL.retry_after_s, QUEUE_FULL.should_retry) == (503, 1.0, True)


async def test_nobody_waits_for_ever_however_often_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    only, line, clocks = busy(), queue(timeout_s=0.05), Clocks(monkeypatch)
    again = entry(line, only)
    assert await line.wait(again, "") is QUEUE_TIMEOUT
    assert 0.04 < again.waited_s < 5
    began_s = asyncio.get_running_loop().time()
    assert await line.wait(again, "") is QUEUE_TIMEOUT
    assert asyncio.get_running_loop().time() - began_s < 0.04, "the time of all tries counts"
    assert clocks.running == 0, "no clock runs for nobody"


async def test_what_becomes_free_by_itself_is_found() -> None:
    gone, full, line = backend("a"), busy("b"), queue()
    welcome = [full]
    task = asyncio.create_task(line.wait(line.entry(make_job(), (gone, full), lambda: welcome), ""))
    await asyncio.sleep(0)
    line.hand_out()
    await asyncio.sleep(0)
    assert not task.done()
    welcome.append(gone)  # well again
    assert await asyncio.wait_for(task, 5) is gone


@pytest.mark.requirement("A103")
async def test_new_settings_hold_at_once() -> None:
    only, line = busy(), queue()
    tasks = [await waiting(line, only) for _ in range(5)]
    only.load.limit = 3
    line.apply(QueueSettings(max_length=3))
    await asyncio.sleep(0)
    assert [task.done() for task in tasks] == [True, True, False, False, False]
    assert await (await waiting(line, only)) is QUEUE_FULL
    only.load.limit = None
    line.apply(QueueSettings())
    assert await asyncio.gather(*tasks) == [only] * 5
    assert only.load.in_flight == 6


@given(seed=st.integers(0, 1 << 30), limits=st.lists(st.integers(1, 3), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
@pytest.mark.requirement("A103")
def test_no_place_is_lost_or_given_twice_whoever_leaves_when(seed: int, limits: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        asyncio.run(_story(random.Random(seed), limits, patch))


async def _story(dice: random.Random, limits: list[int], patch: pytest.MonkeyPatch) -> None:
    """Jobs come, wait, run, fail to wait, and are cancelled at random moments."""
    clocks = Clocks(patch)
    line = queue(max_length=dice.choice([3, 100]), timeout_s=dice.choice([0.001, 10.0]))
    servers = [backend(str(n), limit) for n, limit in enumerate(limits)]
    running: list[Backend] = []
    refused: list[Any] = []

    async def job(able: list[Backend], priority: Priority) -> None:
        line.hand_out()
        if free := [each for each in able if each.load.free]:
            got: Backend | Refusal = free[0]
            free[0].load.in_flight += 1
        else:
            own = line.entry(make_job(priority=priority), able, lambda: able)
            got = await line.wait(own, tuple(each.name for each in able))
        if isinstance(got, Refusal):
            refused.append(got)
            return
        running.append(got)
        try:
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)
        finally:
            running.remove(got)
            line.leave(got)

    tasks: list[asyncio.Task[None]] = []
    for _ in range(dice.randrange(10, 60)):
        able = dice.sample(servers, dice.randint(1, len(servers)))
        tasks.append(asyncio.create_task(job(able, dice.choice(["low", "normal", "high"]))))
        for _ in range(dice.randrange(3)):
            await asyncio.sleep(0)
        if dice.random() < 0.4:
            dice.choice(tasks).cancel()
        for each in servers:
            assert each.load.in_flight <= (each.load.limit or 0)
    await until(lambda: all(task.done() for task in tasks))
    assert all(task.cancelled() or task.exception() is None for task in tasks)
    assert [each.load.in_flight for each in servers] == [0] * len(servers)
    assert (running, sum(depth(line).values()), clocks.running) == ([], 0, 0)
