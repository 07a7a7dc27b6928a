"""Backends that say no at random: whoever would be served is served, and one caller's troubles are no other one's."""

import random
from contextlib import aclosing
from typing import Any

import pytest

from tests.support.fakes import VirtualTime, answer, events_of, failure, make_job
from zuebee.config.settings import RoutingSettings
from zuebee.contracts.admission import Principal
from zuebee.contracts.errors import no_such_model
from zuebee.contracts.inference import End, Head, Job, Reply, begin
from zuebee.dispatch.balancer import Backend, Health
from zuebee.dispatch.service import Dispatcher

pytestmark = pytest.mark.slow

CALLERS = ("a", "b", "c", "d")
STEP_S = 0.2
SETTLED_S = 1.0 + 4 * STEP_S
"""After so long of answers again there is nobody who is not served."""

Script = list[Any]


class Moody:
    """A model server that says `no` to some callers, or to all, and else answers."""

    def __init__(self) -> None:
        self.says: Script | None = None
        self.to: frozenset[str] = frozenset()
        self.asked = 0

    def change(self, dice: random.Random) -> None:
        wait = [(b"retry-after", b"%d" % dice.choice([1, 5, 30, 120]))]
        kinds = [
            answer(429, wait),
            answer(503, wait),
            answer(503),
            answer(529),
            answer(429),
            failure("connect_failure"),
        ]
        self.says = dice.choice(kinds) if dice.random() < 0.6 else None
        self.to = frozenset(CALLERS) if dice.random() < 0.5 else frozenset(dice.sample(CALLERS, 1))

    async def run(self, job: Job) -> Reply:
        self.asked += 1
        assert job.sender is not None
        script = self.says if self.says is not None and job.sender.key_id in self.to else answer()

        async def events() -> Any:
            for event in script:
                yield event

        return await begin(events())


def fleet(servers: list[Moody]) -> Dispatcher:
    backends = [
        Backend(
            f"s{n}",
            f"http://s{n}",
            server,
            weight=1,
            models=(),
            health=Health(unhealthy_threshold=3, healthy_threshold=2),
        )
        for n, server in enumerate(servers)
    ]
    return Dispatcher(backends, RoutingSettings(load_balance="round_robin"))


async def is_served(target: Dispatcher, caller: str) -> bool:
    job = make_job(sender=Principal(key_id=caller))
    async with aclosing(events_of(target, job)) as events:
        first = await anext(events)
        async for _ in events:
            pass
    return isinstance(first, Head) and first.status == 200


async def play(seed: int, clock: VirtualTime) -> list[str]:
    """Play for some minutes; what went wrong."""
    dice = random.Random(seed)
    servers = [Moody() for _ in range(dice.choice([1, 1, 2, 3]))]
    target, wrong = fleet(servers), []
    for _ in range(12):
        for server in servers:
            server.change(dice)
        steady = next((server for server in servers if server.says is None), None)
        until_s = clock.now_s + dice.choice([1.0, 4.0, 20.0])
        while clock.now_s < until_s:
            caller = dice.choice(CALLERS)
            served = await is_served(target, caller)
            if not served and all(s.says is not None and s.to == {caller} for s in servers):
                continue  # it alone is refused everywhere
            clock.advance(STEP_S)
        began_s = clock.now_s
        for server in servers:
            server.says = None
        while clock.now_s < began_s + SETTLED_S + 2.0:
            served = await is_served(target, dice.choice(CALLERS))
            if not served and clock.now_s - began_s > SETTLED_S:
                wrong.append(f"{seed}: not served {clock.now_s - began_s:.1f} s after all were well, {steady}")
            clock.advance(STEP_S)
    return wrong


@pytest.mark.parametrize("seed", range(60))
async def test_whoever_would_be_served_is_served_soon(virtual_time: VirtualTime, seed: int) -> None:
    assert await play(seed, virtual_time) == []


@pytest.mark.plain
async def test_without_trials_some_wait_for_minutes(virtual_time: VirtualTime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backend, "takes_trial", lambda *_: False)
    assert any([await play(seed, virtual_time) for seed in range(10)])


@pytest.mark.parametrize("seed", range(20))
async def test_a_server_that_is_always_well_serves_all(virtual_time: VirtualTime, seed: int) -> None:
    dice = random.Random(seed)
    well, other = Moody(), Moody()
    target = fleet([other, well])
    for _ in range(300):
        if dice.random() < 0.1:
            other.change(dice)
        assert await is_served(target, dice.choice(CALLERS))
        virtual_time.advance(dice.choice([0.01, 0.5]))


async def test_one_caller_who_is_told_to_wait_takes_nothing_from_the_others(virtual_time: VirtualTime) -> None:
    server = Moody()
    server.says, server.to = answer(429, [(b"retry-after", b"120")]), frozenset("a")
    target = fleet([server])
    for _ in range(200):
        await is_served(target, "a")
        for caller in "bcd":
            assert await is_served(target, caller)
        virtual_time.advance(0.1)
    assert server.asked < 600 + 25, "and the server is not asked again and again for the one"


async def test_our_own_bound_ejects_nobody(virtual_time: VirtualTime) -> None:
    full, well = Moody(), Moody()
    full.says, full.to = [End(refusal=no_such_model("m"), cause="overload", sent=False)], frozenset(CALLERS)
    target = fleet([full, well])
    for _ in range(40):
        assert await is_served(target, "a")
        virtual_time.advance(0.1)
    assert all(backend.health.fit(virtual_time.now_s) for backend in target.backends)
    assert full.asked > 10
