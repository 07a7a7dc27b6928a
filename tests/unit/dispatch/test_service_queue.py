"""The dispatcher over bounded backends: who waits, for what, and what becomes of those who leave."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from tests.support.fakes import FakeInference, Step, answer, events_of, failure, head, make_job, until
from zuebee.config.settings import FallbackSettings, QueueSettings, RetrySettings, RoutingSettings
from zuebee.contracts.inference import End, Event, Events, Head, Job, Priority, Reply, begin
from zuebee.dispatch.balancer import Backend, Health, RetryBudget
from zuebee.dispatch.priority_queue import Load
from zuebee.dispatch.request_queue import RequestQueue
from zuebee.dispatch.service import Dispatcher
from zuebee.lib.units import Duration, Timeout


class Gated:
    """Answers when it is told to; remembers the order in which jobs came."""

    def __init__(self, name: str, script: list[Step] | None = None) -> None:
        self.came: list[str] = []
        self.script = script or answer(backend=name)
        self.gate = asyncio.Semaphore(0)
        self.now = 0

    async def run(self, job: Job) -> Reply:
        return await begin(self._run(job))

    async def _run(self, job: Job) -> Events:
        self.came.append(job.request_id)
        self.now += 1
        try:
            await self.gate.acquire()
            for event in self.script:
                assert not isinstance(event, (BaseException, float))
                yield event
        finally:
            self.now -= 1


def bounded(name: str, inference: Any, limit: int | None = 1, models: tuple[str, ...] = ()) -> Backend:
    health = Health(unhealthy_threshold=3, healthy_threshold=2)
    return Backend(name, f"http://{name}", inference, weight=1, health=health, models=models, load=Load(limit))


class Target:
    """A dispatcher with the line and the budget that it was given."""

    def __init__(
        self, *backends: Backend, max_length: int = 100, timeout_s: float = 10.0, line: Any = None, **routing: Any
    ) -> None:
        settings = QueueSettings(max_length=max_length, timeout_s=Timeout(timeout_s))
        self.backends = backends
        self.line = line or RequestQueue(settings)
        self.budget = RetryBudget(20)
        whole = RoutingSettings(load_balance="round_robin", queue=settings, **routing)
        self.dispatcher = Dispatcher(backends, whole, self.line, self.budget)

    def depth(self) -> int:
        return int(sum(count for _, count in self.line.depths()))

    def left(self) -> tuple[int, int, int]:
        """What runs, is tried again or waits."""
        return self.budget.running, self.budget.retrying, self.depth()


Asked = asyncio.Task[list[Event]]


async def ask(target: Target, name: str = "j", priority: Priority = "normal", model: str = "m") -> Asked:
    """A request on its way: running, or in the line."""
    return (await ask_with(target, make_job(request_id=name, priority=priority, model=model)))[0]


async def ask_with(target: Target, job: Job) -> tuple[Asked, Job]:
    async def run() -> list[Event]:
        return [event async for event in events_of(target.dispatcher, job)]

    task = asyncio.create_task(run())
    await asyncio.sleep(0.002)
    return task, job


def code_of(events: list[Event]) -> str:
    (end,) = events
    assert isinstance(end, End)
    assert end.refusal is not None
    return end.refusal.code


@pytest.mark.requirement("A103")
async def test_no_more_than_allowed_at_once_and_the_important_first() -> None:
    server = Gated("a")
    only = bounded("a", server, 2)
    target = Target(only)
    asked = [await ask(target, f"low{n}", "low") for n in range(6)]
    asked.append(await ask(target, "high", "high"))
    assert (server.now, target.depth(), only.in_flight) == (2, 5, 2)
    for _ in range(7):
        server.gate.release()
        await asyncio.sleep(0.002)
        assert server.now <= 2
    assert server.came == ["low0", "low1", "high", "low2", "low3", "low4", "low5"]
    assert all(isinstance(events[0], Head) for events in await asyncio.gather(*asked))
    assert (only.in_flight, target.left()) == (0, (0, 0, 0))


class Closed(RequestQueue):
    """A line that nobody may ask for anything."""

    def entry(self, *_: object) -> Any:
        raise AssertionError("a place is asked for")

    def leave(self, *_: object) -> None:
        raise AssertionError("a place is given back")

    def hand_out(self) -> None:
        raise AssertionError("places are handed out")


@pytest.mark.plain
async def test_without_a_bound_nobody_asks_for_a_turn() -> None:
    server = Gated("a")
    target = Target(bounded("a", server, None), line=Closed(QueueSettings(max_length=0)))
    asked = [await ask(target) for _ in range(50)]
    assert server.now == 50
    for _ in range(50):
        server.gate.release()
    await asyncio.gather(*asked)


@pytest.mark.requirement("A103")
async def test_full_and_too_long() -> None:
    server = Gated("a")
    target = Target(bounded("a", server), max_length=1, timeout_s=0.05)
    first, second, third = [await ask(target) for _ in range(3)]
    assert code_of(await third) == "queue_full"
    (end,) = await second
    assert isinstance(end, End)
    assert end.refusal is not None
    assert (end.refusal.code, end.sent, end.attempts, end.cause) == ("queue_timeout", False, 0, "none")
    server.gate.release()
    assert isinstance((await first)[0], Head)


@pytest.mark.requirement("A103")
@pytest.mark.parametrize("seen", [False, True])
async def test_who_leaves_is_forgotten_and_known_to_have_been_waiting(seen: bool) -> None:
    server = Gated("a")
    only = bounded("a", server)
    target = Target(only)
    running = await ask(target, "running")
    gone, job = await ask_with(target, make_job(request_id="gone"))
    patient = await ask(target, "patient")
    assert job.waiting
    if seen:
        server.gate.release()
        await until(lambda: "gone" in server.came)
        assert not job.waiting
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert job.waiting is not seen
    for _ in range(2):
        server.gate.release()
    await asyncio.gather(running, patient)
    assert server.came == ["running", *(["gone"] if seen else []), "patient"]
    assert (only.in_flight, target.left()) == (0, (0, 0, 0))


@pytest.mark.parametrize("taken", [1, 2, 3])
async def test_who_leaves_in_the_middle_of_an_answer_makes_room(taken: int) -> None:
    only = bounded("a", FakeInference([head(), b"1", b"2", End()]))
    target = Target(only)
    async with aclosing(events_of(target.dispatcher, make_job())) as events:
        for _ in range(taken):
            await anext(events)
        assert only.in_flight == 1
        waiting = await ask(target)
        assert target.depth() == 1
    assert isinstance((await waiting)[0], Head)
    assert only.in_flight == 0


async def test_a_crash_gives_the_place_back() -> None:
    only = bounded("a", FakeInference([RuntimeError("defect")], answer()))
    target = Target(only)
    with pytest.raises(RuntimeError):
        await (await ask(target))
    assert only.in_flight == 0
    assert isinstance((await (await ask(target)))[0], Head)


async def test_a_job_waits_only_for_those_that_serve_it() -> None:
    one, other = Gated("a"), Gated("b")
    target = Target(bounded("a", one, models=("m",)), bounded("b", other, models=("n",)))
    asked = [await ask(target, f"m{n}") for n in range(3)]
    asked.append(await ask(target, "n0", model="n"))
    assert (one.came, other.came, target.depth()) == (["m0"], ["n0"], 2)
    other.gate.release()
    await asyncio.sleep(0.002)
    assert target.depth() == 2
    for _ in range(3):
        one.gate.release()
    await asyncio.gather(*asked)


async def test_the_next_of_a_fixed_order_comes_before_waiting() -> None:
    first, second = Gated("a"), Gated("b")
    chain = [FallbackSettings(primary="http://a", fallback=["http://b"])]
    target = Target(bounded("a", first), bounded("b", second), fallback=chain)
    asked = [await ask(target, f"j{n}") for n in range(3)]
    assert (first.came, second.came, target.depth()) == (["j0"], ["j1"], 1)
    first.gate.release()
    await asyncio.sleep(0.002)
    assert first.came == ["j0", "j2"]
    for server in (first, second):
        server.gate.release()
    await asyncio.gather(*asked)


async def test_nobody_waits_for_or_goes_to_a_backend_that_is_out() -> None:
    dead, alive = Gated("a"), Gated("b")
    out = bounded("a", dead)
    target = Target(out, bounded("b", alive))
    out.health.probed_down = True
    asked = [await ask(target, f"j{n}") for n in range(2)]
    assert (dead.came, alive.came, target.depth()) == ([], ["j0"], 1)
    out.health.probed_down = False  # nobody tells the line; it looks
    await until(lambda: dead.came == ["j1"])
    for server in (dead, alive):
        server.gate.release()
    await asyncio.gather(*asked)


async def test_a_second_try_waits_in_its_old_place() -> None:
    bad, good = Gated("a", failure("connect_failure", sent=False)), Gated("b")
    target = Target(bounded("a", bad), bounded("b", good), retry=RetrySettings(initial_wait_s=Duration(0)))
    asked = [await ask(target, f"j{n}") for n in range(4)]
    assert (bad.came, good.came, target.depth()) == (["j0"], ["j1"], 2)
    bad.gate.release()  # j0 fails there, and j2 gets the place
    await until(lambda: bad.came == ["j0", "j2"])
    assert target.depth() == 2
    good.gate.release()
    await until(lambda: len(good.came) == 2)
    assert good.came[1] == "j0", "it came before j3"
    for _ in range(4):
        good.gate.release()
        bad.gate.release()
    done = await asyncio.gather(*asked)
    assert all(isinstance(events[0], Head) for events in done)
    assert [each.in_flight for each in target.backends] == [0, 0]
    assert target.left() == (0, 0, 0)


async def test_a_backend_that_cools_down_is_refused_at_once_and_not_waited_for() -> None:
    only = bounded("a", FakeInference(answer(429, [(b"retry-after", b"60")])))
    target = Target(only)
    assert isinstance((await (await ask(target)))[0], Head)
    assert code_of(await (await ask(target))) == "backend_rate_limited"
    assert only.in_flight == 0


@pytest.mark.parametrize("rest", [True, False], ids=["with a body to come", "all there"])
async def test_a_place_that_is_lost_in_a_retry_does_not_hide_the_answer(rest: bool) -> None:
    whole = Head(503, [], "a", lambda: None, rest=(b"{}", End()))
    failing = Gated("a", answer(503) if rest else [whole])
    only = bounded("a", failing)
    target = Target(only, max_length=1, timeout_s=0.1, retry=RetrySettings(initial_wait_s=Duration(0.0), max_retries=3))
    asked = await ask(target, "first")
    waiting = await ask(target, "second", "high")
    failing.gate.release()
    await asyncio.sleep(0.01)
    first = (await asked)[0]  # the second has the only place for longer than a request may wait
    assert isinstance(first, Head)
    assert (first.status, first.attempts) == (503, 1)
    for _ in range(8):
        failing.gate.release()
    await waiting
    assert (only.in_flight, target.left()) == (0, (0, 0, 0))
