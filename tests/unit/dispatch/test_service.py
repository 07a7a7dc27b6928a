import asyncio
from collections import Counter
from contextlib import aclosing
from typing import Any

import pytest

from tests.support.fakes import FakeInference, Step, VirtualTime, answer, events_of, failure, head, make_job, until
from zuebee.config.settings import FallbackSettings, RetrySettings, RoutingSettings
from zuebee.contracts.admission import Principal
from zuebee.contracts.inference import End, Event, FailureCause, Head, Inference, Job, Reply
from zuebee.dispatch.balancer import Backend, Health, RetryBudget
from zuebee.dispatch.service import Dispatcher

OVERLOADED = answer(429, [(b"retry-after", b"60")])


def backend(name: str, inference: Inference, *, weight: int = 1, models: tuple[str, ...] = ()) -> Backend:
    health = Health(unhealthy_threshold=3, healthy_threshold=2)
    return Backend(name, f"http://{name}", inference, weight=weight, health=health, models=models)


def dispatcher(*scripted: Any, budget: RetryBudget | None = None, **routing: Any) -> tuple[Dispatcher, list[Backend]]:
    """A dispatcher in round robin over backends a, b, ... that play these scripts (each a list of scripts)."""
    backends = [
        backend("abc"[n], scripts if hasattr(scripts, "run") else FakeInference(*scripts))
        for n, scripts in enumerate(scripted)
    ]
    routing = {"load_balance": "round_robin", **routing}
    return Dispatcher(backends, RoutingSettings(**routing), budget=budget), backends


async def ask(target: Dispatcher, model: str = "m") -> list[Event]:
    async with aclosing(events_of(target, make_job(model=model))) as events:
        return [event async for event in events]


def begun(backends: list[Backend]) -> list[int]:
    return [backend.inference.begun for backend in backends]  # type: ignore[attr-defined]


def status_of(events: list[Event]) -> int:
    first = events[0]
    assert isinstance(first, Head)
    return first.status


async def test_an_answer_passes_as_it_is(virtual_time: VirtualTime) -> None:
    target, backends = dispatcher([answer()])
    events = await ask(target)
    assert [type(event) for event in events] == [Head, bytes, End]
    assert begun(backends) == [1]
    assert backends[0].in_flight == 0


async def test_an_answer_that_blames_the_client_is_not_tried_again(virtual_time: VirtualTime) -> None:
    target, backends = dispatcher([answer(400)], [answer()])
    assert status_of(await ask(target)) == 400
    assert begun(backends) == [1, 0]


@pytest.mark.requirement("A143", "A379")
@pytest.mark.parametrize(
    "failing",
    [
        answer(503),
        answer(529),
        OVERLOADED,
        failure("died"),
        failure("unwelcome"),
        failure("connect_failure", sent=False),
        failure("overload", sent=False),
    ],
)
async def test_another_backend_is_tried_at_once(virtual_time: VirtualTime, failing: list[Step]) -> None:
    target, backends = dispatcher([failing], [answer(backend="b")])
    events = await ask(target)
    assert status_of(events) == 200
    assert isinstance(events[0], Head)
    assert events[0].attempts == 2
    assert virtual_time.slept == []
    assert begun(backends) == [1, 1]
    assert [b.inference.closed for b in backends] == [1, 1]  # type: ignore[attr-defined]


@pytest.mark.requirement("A143")
async def test_the_same_backend_is_tried_after_growing_waits(virtual_time: VirtualTime) -> None:
    target, backends = dispatcher([answer(503), answer(503), answer(503), answer()])
    events = await ask(target)
    assert status_of(events) == 200
    assert begun(backends) == [4]
    assert len(virtual_time.slept) == 3
    assert all(0 <= wait_s <= bound_s for wait_s, bound_s in zip(virtual_time.slept, (1, 2, 4), strict=True))


@pytest.mark.requirement("A143")
async def test_when_no_try_helped_the_last_real_answer_is_the_answer(virtual_time: VirtualTime) -> None:
    target, backends = dispatcher([answer(503), answer(529), answer(503), answer(529), answer()])
    events = await ask(target)
    assert status_of(events) == 529
    assert events[1] == b"{}"
    assert begun(backends) == [4]


async def test_the_number_of_retries_is_a_setting(virtual_time: VirtualTime) -> None:
    for most in (0, 1, 2):
        target, backends = dispatcher([answer(503)], retry=RetrySettings(max_retries=most))
        assert status_of(await ask(target)) == 503
        assert begun(backends) == [most + 1]
    target, backends = dispatcher([answer(503)], [answer()], retry=RetrySettings(enabled=False))
    assert status_of(await ask(target)) == 503
    assert begun(backends) == [1, 0]


@pytest.mark.requirement("A143")
async def test_nothing_is_tried_again_once_something_was_passed_on(virtual_time: VirtualTime) -> None:
    for part in ([], [b"half"]):
        target, backends = dispatcher([[head(), *part, *failure("broken")]], [answer()])
        events = await ask(target)
        assert isinstance(events[-1], End)
        assert events[-1].cause == "broken"
        assert begun(backends) == [1, 0]


@pytest.mark.requirement("A143")
async def test_a_server_that_names_a_wait_gets_it(virtual_time: VirtualTime) -> None:
    target, _ = dispatcher([answer(429, [(b"retry-after", b"7")]), answer()])
    assert status_of(await ask(target)) == 200
    assert virtual_time.slept[0] >= 7


async def test_a_wait_too_long_for_us_is_passed_to_the_client(virtual_time: VirtualTime) -> None:
    target, backends = dispatcher([OVERLOADED])
    assert status_of(await ask(target)) == 429
    assert begun(backends) == [1]
    virtual_time.advance(0.5)
    (end,) = await ask(target)
    assert isinstance(end, End)
    assert end.refusal is not None
    assert (end.refusal.status, end.refusal.retry_after_s, end.sent) == (429, 59.5, False)
    assert begun(backends) == [1]  # a cooling backend is left alone
    virtual_time.advance(60)
    await ask(target)
    assert begun(backends) == [2]


async def test_some_go_to_a_backend_that_rests_to_find_out(virtual_time: VirtualTime) -> None:
    target, backends = dispatcher([OVERLOADED, OVERLOADED, answer()])
    await ask(target)
    tried = []
    for _ in range(40):
        virtual_time.advance(0.1)
        await ask(target)
        tried.append(begun(backends)[0])
    assert tried[8] == 1
    assert tried[10] == 2, "after a second one goes there, and finds that it still wants none"
    assert tried[17] == 2
    assert tried[-1] > 20, "the next finds that it does: all go there"


def of(key: str, model: str = "m") -> Job:
    return make_job(model=model, sender=Principal(key_id=key))


async def ask_as(target: Dispatcher, key: str) -> list[Event]:
    async with aclosing(events_of(target, of(key))) as events:
        return [event async for event in events]


async def test_what_is_asked_of_one_caller_stops_no_other_one(virtual_time: VirtualTime) -> None:
    target, backends = dispatcher([OVERLOADED, answer(), answer(), OVERLOADED, OVERLOADED])
    await ask_as(target, "a")
    assert isinstance((await ask_as(target, "a"))[0], End)
    for _ in range(2):
        assert status_of(await ask_as(target, "b")) == 200
    assert isinstance((await ask_as(target, "a"))[0], End), "it still has to wait"
    assert status_of(await ask_as(target, "b")) == 429
    assert isinstance((await ask_as(target, "c"))[0], End), "two are all"
    assert begun(backends) == [4]


async def test_short_rests_are_waited_for(virtual_time: VirtualTime) -> None:
    short = answer(429, [(b"retry-after", b"3")])
    target, backends = dispatcher([short, answer()], retry=RetrySettings(enabled=False))
    await ask(target)
    assert status_of(await ask(target)) == 200
    assert 3 <= sum(virtual_time.slept) < 4
    assert begun(backends) == [2]


@pytest.mark.parametrize("status", [429, 503, 529])
async def test_overload_ejects_nobody(virtual_time: VirtualTime, status: int) -> None:
    target, backends = dispatcher([answer(status)], [answer()], retry=RetrySettings(enabled=False))
    for _ in range(40):
        await ask(target)
    assert all(each.health.fit(virtual_time.now_s) for each in backends)
    assert begun(backends)[0] == 1, "but it is left alone for a moment"


async def test_a_request_counts_once_for_a_backend_however_often_it_is_tried(virtual_time: VirtualTime) -> None:
    target, backends = dispatcher([answer(500)], [answer(500)])
    for each in backends:
        each.retry_started_on = ("5xx",)
    for _ in range(2):
        await ask(target)
    assert sum(begun(backends)) == 8
    assert all(each.health.fit(virtual_time.now_s) for each in backends)


async def test_the_last_one_is_never_ejected(virtual_time: VirtualTime) -> None:
    target, backends = dispatcher([answer(500)], [answer(500)])
    for _ in range(100):
        await ask(target)
    assert sorted(each.health.fit(virtual_time.now_s) for each in backends) == [False, True]


async def test_only_the_overloaded_model_cools_down(virtual_time: VirtualTime) -> None:
    target, _ = dispatcher([OVERLOADED, answer()])
    await ask(target, "m")
    assert status_of(await ask(target, "other")) == 200


async def test_a_cooling_backend_is_no_refuge(virtual_time: VirtualTime) -> None:
    target, backends = dispatcher([answer(503), answer(503), answer(503), answer()], [OVERLOADED])
    backends[1].cool_down("m", virtual_time.now_s, virtual_time.now_s + 60)
    assert status_of(await ask(target)) == 200
    assert begun(backends) == [4, 0]


async def test_when_all_cool_down_the_shortest_wait_is_named(virtual_time: VirtualTime) -> None:
    target, backends = dispatcher([answer()], [answer()])
    backends[0].cool_down("m", virtual_time.now_s, virtual_time.now_s + 60)
    backends[1].cool_down("m", virtual_time.now_s, virtual_time.now_s + 20)
    for _ in range(2):
        (end,) = await ask(target)
        assert isinstance(end, End)
        assert end.refusal is not None
        assert end.refusal.retry_after_s == 20.0
    assert begun(backends) == [0, 0]


@pytest.mark.parametrize(
    ("waits", "cause", "running"),
    [
        pytest.param(False, "overload", 6, id="overload, another backend: 20 % of 30"),
        pytest.param(True, "connect_failure", 6, id="unconnected, the same backend: 20 % of 30"),
        pytest.param(False, "connect_failure", 30, id="unconnected, another backend: all are taken over"),
        pytest.param(False, "died", 30, id="dropped, another backend: all are taken over"),
    ],
)
async def test_retries_stop_at_the_budget(
    waits: bool, cause: FailureCause, running: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)
    gate = asyncio.Event()

    class Failing(FakeInference):
        async def _play(self, job: Any) -> Any:
            self.begun += 1
            await gate.wait()
            yield failure(cause, sent=cause == "died")[0]

    class Stuck(FakeInference):
        async def _play(self, job: Any) -> Any:
            self.begun += 1
            await asyncio.sleep(60)
            yield failure("broken")[0]

    failing, second = Failing(), Stuck()
    budget = RetryBudget(20)
    target, _ = dispatcher(*([failing] if waits else [failing, second]), budget=budget, load_balance="weighted")
    if not waits:
        target.backends[1].weight = 0  # never the first choice
    asked = [asyncio.ensure_future(ask(target)) for _ in range(30)]
    await until(lambda: failing.begun == 30)
    gate.set()
    await asyncio.wait(asked, timeout=0.05)
    assert sum(not task.done() for task in asked) == running
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert budget.running == budget.retrying == 0


@pytest.mark.requirement("A141")
async def test_a_request_counts_until_its_stream_ends(virtual_time: VirtualTime) -> None:
    target, (only,) = dispatcher([[head(), b"1", b"2", End()]])
    async with aclosing(events_of(target, make_job())) as events:
        counts = []
        async for _ in events:
            counts.append(only.in_flight)
    assert counts == [1, 1, 1, 1]
    assert only.in_flight == 0


@pytest.mark.parametrize("taken", [0, 1, 2, 3])
async def test_whoever_leaves_stops_the_work_behind(virtual_time: VirtualTime, taken: int) -> None:
    inference, budget = FakeInference([head(), b"1", b"2", End()]), RetryBudget(20)
    target, (only,) = dispatcher(inference, budget=budget)
    async with aclosing(events_of(target, make_job())) as events:
        for _ in range(taken):
            await anext(events)
    assert inference.closed == inference.begun == min(taken, 1)
    assert only.in_flight == 0
    assert budget.running == budget.retrying == 0


async def test_who_is_cancelled_while_waiting_holds_nothing() -> None:
    inference, budget = FakeInference([60.0]), RetryBudget(20)
    target, (only,) = dispatcher(inference, budget=budget)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await ask(target)
    assert (inference.begun, inference.closed, only.in_flight) == (1, 1, 0)
    assert budget.running == 0


async def test_an_unknown_model_reaches_nobody(virtual_time: VirtualTime) -> None:
    target = Dispatcher([backend("a", inference := FakeInference(answer()), models=("m*",))], RoutingSettings())
    assert status_of(await ask(target, "m1")) == 200
    (end,) = await ask(target, "x" * 10_000)
    assert isinstance(end, End)
    assert end.refusal is not None
    assert (end.refusal.status, end.refusal.code, end.sent) == (404, "model_not_found", False)
    assert len(end.refusal.message) < 300
    assert inference.begun == 1


async def test_a_declared_fallback_is_tried_in_its_order(virtual_time: VirtualTime) -> None:
    chain = FallbackSettings(primary="http://b", fallback=["http://c", "http://a"], models=["big*"])
    target, backends = dispatcher([answer(backend="a")], [answer(503)], [answer(503)], fallback=[chain])
    assert status_of(await ask(target, "big-1")) == 200
    assert begun(backends) == [1, 1, 1]
    for _ in range(3):
        await ask(target, "small")
    assert begun(backends)[0] > 1


@pytest.mark.requirement("A136", "A268")
@pytest.mark.parametrize("strategy", ["weighted", "round_robin", "least_connections", "latency_based"])
async def test_each_strategy_uses_all_backends(virtual_time: VirtualTime, strategy: str) -> None:
    target, backends = dispatcher([[0.01, *answer()]], [[0.01, *answer()]], load_balance=strategy)
    for _ in range(40):
        await ask(target)
    assert all(count >= 5 for count in begun(backends)), Counter(begun(backends))


# --- what is learnt ---


@pytest.mark.requirement("A144")
async def test_five_failures_in_a_row_eject(virtual_time: VirtualTime) -> None:
    target, backends = dispatcher([failure("died")], [answer()])
    for _ in range(12):
        assert status_of(await ask(target)) == 200
    assert begun(backends)[0] == 5
    assert not backends[0].health.fit(virtual_time.now_s)
    virtual_time.advance(31)
    for _ in range(2):
        await ask(target)
    assert begun(backends)[0] == 6


async def test_answers_that_break_off_eject_too(virtual_time: VirtualTime) -> None:
    target, (only, _) = dispatcher([[head(), b"half", *failure("broken")]], [answer()])
    for n in range(9):
        assert only.health.fit(virtual_time.now_s), n
        async with aclosing(events_of(target, make_job())) as events:
            while not isinstance(await anext(events), End):  # as the edge does, which asks for nothing behind the end
                pass
    assert not only.health.fit(virtual_time.now_s)


async def test_a_failed_try_counts_once(virtual_time: VirtualTime) -> None:
    target, (only, _) = dispatcher([failure("broken")], [answer()], retry=RetrySettings(enabled=False))
    for _ in range(8):
        await ask(target)
    assert only.health.fit(virtual_time.now_s)
    await ask(target)
    assert not only.health.fit(virtual_time.now_s)


@pytest.mark.parametrize("fine", [answer(), answer(404), OVERLOADED], ids=["200", "404", "429"])
async def test_who_answers_is_not_ejected(virtual_time: VirtualTime, fine: list[Step]) -> None:
    target, (only,) = dispatcher([fine])
    for _ in range(20):
        await ask(target)
        virtual_time.advance(61)
    assert only.health.fit(virtual_time.now_s)


async def test_clients_that_leave_eject_nobody(virtual_time: VirtualTime) -> None:
    target, (only,) = dispatcher([[head(), b"1", End()]])
    for _ in range(20):
        async with aclosing(events_of(target, make_job())) as events:
            await anext(events)
    assert only.health.fit(virtual_time.now_s)


async def test_the_time_to_the_first_byte_is_learnt(virtual_time: VirtualTime) -> None:
    target, (only,) = dispatcher([[0.25, head(), 5.0, End()]], load_balance="latency_based")
    await ask(target)
    assert only.latency(virtual_time.now_s - 5.0) == pytest.approx(0.25)


# --- what may have been begun ---


class Sends:
    """A backend that loses each request; like the pool, it counts its own second sending of one."""

    def __init__(self, *, resends: bool) -> None:
        self.sent = 0
        self._resends = resends

    async def run(self, job: Job) -> Reply:
        self.sent += 1
        if self._resends and not job.doubts and not job.shared:
            job.doubts += 1
            self.sent += 1
        (end,) = failure("died")
        assert isinstance(end, End)
        return end, None


@pytest.mark.parametrize("resends", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
async def test_a_request_on_which_servers_die_is_sent_twice_at_most(
    virtual_time: VirtualTime, count: int, resends: bool
) -> None:
    servers = [Sends(resends=resends) for _ in range(count)]
    target, _ = dispatcher(*servers)
    (end,) = await ask(target)
    assert isinstance(end, End)
    assert (end.cause, end.sent) == ("died", True)
    assert sum(server.sent for server in servers) == (2 if resends or count > 1 else 1)


@pytest.mark.parametrize("failing", [failure("timeout"), failure("broken"), answer(500), answer(502), answer(504)])
async def test_what_may_have_been_begun_is_not_bought_again(virtual_time: VirtualTime, failing: list[Step]) -> None:
    target, backends = dispatcher([failing], [answer()], [answer()])
    first = (await ask(target))[0]
    assert isinstance(first, Head | End)
    assert first.attempts == 1
    assert begun(backends) == [1, 0, 0]


@pytest.mark.parametrize("then", [failure("connect_failure", sent=False), answer(503)], ids=["nobody there", "503"])
async def test_a_lost_request_is_told_as_such_whatever_came_after_it(
    virtual_time: VirtualTime, then: list[Step]
) -> None:
    target, backends = dispatcher([failure("died")], [then], retry=RetrySettings(max_retries=1))
    (end,) = await ask(target)
    assert isinstance(end, End)
    assert (end.cause, end.sent, end.attempts, begun(backends)) == ("died", True, 2, [1, 1])


async def test_who_was_lost_with_a_request_never_gets_it_again(virtual_time: VirtualTime) -> None:
    target, backends = dispatcher([failure("died"), answer()], [answer(503)])
    (end,) = await ask(target)
    assert isinstance(end, End)
    assert backends[0].inference.begun == 1  # type: ignore[attr-defined]


async def test_an_answer_is_told_before_the_silence_of_another_backend(virtual_time: VirtualTime) -> None:
    unreachable = failure("connect_failure", sent=False)
    budget = RetryBudget(20)
    target, backends = dispatcher([answer(429, [(b"retry-after", b"60")])], [unreachable], budget=budget)
    events = await ask(target)
    assert status_of(events) == 429
    assert isinstance(events[-1], End)
    assert [each.inference.closed for each in backends] == [each.inference.begun for each in backends]  # type: ignore[attr-defined]
    assert budget.running == budget.retrying == 0


async def test_a_backend_that_says_no_more_is_obeyed(virtual_time: VirtualTime) -> None:
    target, backends = dispatcher([answer(503, [(b"x-should-retry", b"false")])], [answer()])
    assert status_of(await ask(target)) == 503
    assert begun(backends) == [1, 0]


async def test_an_operator_may_want_it_again(virtual_time: VirtualTime) -> None:
    target, backends = dispatcher([failure("timeout"), failure("broken"), answer(500), answer()])
    backends[0].retry_started_on = ("timeout", "broken", "5xx")
    assert status_of(await ask(target)) == 200
    assert begun(backends) == [4]


@pytest.mark.parametrize("later", [[], [(b"retry-after", b"1")]], ids=["nothing named", "a shorter wait"])
async def test_a_longer_rest_is_not_shortened(virtual_time: VirtualTime, later: list[tuple[bytes, bytes]]) -> None:
    target, backends = dispatcher([answer(429, [(b"retry-after", b"60")])], [answer(429, later)])
    backends[1].cool_down("m", virtual_time.now_s, virtual_time.now_s + 40)
    backends[1].cool_down("m", virtual_time.now_s, virtual_time.now_s + (1 if later else 0.5))
    await ask(target)
    assert backends[1].cooling_s("m", virtual_time.now_s) == 40
    assert backends[0].cooling_s("m", virtual_time.now_s) == 60
