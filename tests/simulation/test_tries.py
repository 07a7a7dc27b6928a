"""Servers that fail at every moment and in every way: how often does a request reach one, and what is said of it?

The rule is `moody_servers.breach`; the rule that held before is tried as well, and must be seen to break it.
"""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from tests.support.fakes import make_job
from tests.support.moody_servers import BEGUN, GOOD, LOST, MoodyServers, breach, moody_servers
from zuebee.config.settings import BackendSettings, QueueSettings, RetrySettings, RoutingSettings
from zuebee.contracts.inference import End, Event, Head
from zuebee.dispatch import service
from zuebee.dispatch.balancer import Backend, Health, RetryBudget, Where
from zuebee.dispatch.priority_queue import Load
from zuebee.dispatch.service import Dispatcher
from zuebee.edge.client import may_have_begun
from zuebee.http import pool
from zuebee.lib.units import Duration, Timeout
from zuebee.models.estimate import PromptSizes
from zuebee.models.service import BackendInference

pytestmark = pytest.mark.slow

REQUESTS = 240
AT_ONCE = 6
RETRY = RetrySettings(initial_wait_s=Duration(0.01), max_wait_s=Duration(0.05), budget_percent=100)
SHORT = Timeout(0.3)


class House:
    """A dispatcher over real connections to moody servers."""

    def __init__(self, servers: MoodyServers, limit: int | None) -> None:
        self.backends = []
        for number, port in enumerate(servers.ports):
            settings = BackendSettings(
                url=f"http://127.0.0.1:{port}", first_byte_timeout_s=SHORT, idle_timeout_s=SHORT, timeout_s=SHORT
            )
            inference = BackendInference(settings, str(number), None, 5.0, PromptSizes())
            health = Health(unhealthy_threshold=3, healthy_threshold=2)
            self.backends.append(
                Backend(str(number), settings.url, inference, weight=1, health=health, models=(), load=Load(limit))
            )
        queue = QueueSettings(max_length=2, timeout_s=Timeout(0.05))
        self.budget = RetryBudget(RETRY.budget_percent)
        self.target = Dispatcher(self.backends, RoutingSettings(retry=RETRY, queue=queue), budget=self.budget)

    async def ask(self, name: str, stream: bool) -> list[Event]:
        """All of one answer. Nobody is ejected: all are to be seen."""
        for backend in self.backends:
            backend.health = Health(unhealthy_threshold=3, healthy_threshold=2)
        body = b'{"stream":true,"model":"m"}' if stream else b'{"model":"m"}'
        first, rest = await self.target.run(make_job(request_id=name, body=body, stream=stream))
        events: list[Event] = [first]
        if isinstance(first, Head) and first.rest is not None:
            events += first.rest
        if rest is not None:
            events += [event async for event in rest]
        return events

    def close(self) -> None:
        assert (self.budget.running, self.budget.retrying) == (0, 0)
        assert [backend.load.in_flight for backend in self.backends] == [0] * len(self.backends)
        for backend in self.backends:
            inference: Any = backend.inference
            inference.close()


async def play(seed: int, count: int, limit: int | None = None) -> tuple[MoodyServers, dict[str, list[Event]]]:
    dice = random.Random(seed)
    seen: dict[str, list[Event]] = {}
    async with moody_servers(count, dice) as servers:
        house = House(servers, limit)

        async def work(worker: int) -> None:
            for number in range(REQUESTS // AT_ONCE):
                name = f"{worker}-{number}"
                seen[name] = await house.ask(name, dice.random() < 0.5)

        async with asyncio.timeout(60):
            await asyncio.gather(*(work(worker) for worker in range(AT_ONCE)))
        house.close()
    return servers, seen


@pytest.mark.parametrize("limit", [None, 2], ids=["unbounded", "with a queue"])
@pytest.mark.parametrize(("seed", "count"), [(1, 1), (2, 2), (3, 3), (4, 2)])
async def test_no_request_is_bought_twice(seed: int, count: int, limit: int | None) -> None:
    servers, seen = await play(seed, count, limit)
    assert not [found for name in seen if (found := breach(servers, name))]
    sent = Counter(len(sendings) for sendings in servers.sendings.values())
    # On a busy machine more are refused by the queue, so that fewer reach a server.
    assert sent[1] > REQUESTS // 12
    assert sum(sent.values()) > sent[1], "some were tried again"
    for name, events in seen.items():
        check_end(servers, name, events)


def check_end(servers: MoodyServers, name: str, events: list[Event]) -> None:
    """What was answered arrives, and what may have been begun for nothing is said to have been."""
    sendings, first, last = servers.sendings.get(name, []), events[0], events[-1]
    assert isinstance(last, End)
    quiet = not any((name, sending.server) in servers.lost for sending in sendings)
    if sendings and sendings[-1].mood in GOOD and quiet:
        assert isinstance(first, Head), sendings
        assert (first.status, last.refusal) == (200, None), sendings
    if isinstance(first, End) and first.cause not in ("overload", "unwelcome"):
        begun = [
            each for each in sendings if each.mood in (*LOST, *BEGUN) and each.mood not in ("error inside", "html")
        ]
        assert may_have_begun(first) or not begun, (sendings, vars_of(first))
        assert first.refusal is not None
        assert not (begun and first.refusal.should_retry), sendings
    elif isinstance(first, Head) and first.status >= 400:
        assert str(first.status) in [each.mood for each in sendings], sendings


def vars_of(end: End) -> tuple[object, ...]:
    return end.cause, end.sent, end.refusal


@pytest.mark.plain
@pytest.mark.parametrize("old", ["every failure again", "the pool by itself"])
async def test_the_rule_that_held_before_is_seen_to_break_it(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def anywhere(*_: object) -> Where:
        return "anywhere"

    if old == "every failure again":
        monkeypatch.setattr(service, "where_again", anywhere)
        monkeypatch.setattr(service, "_still_asked", lambda candidates, *_: candidates)
    else:
        send = pool.HttpPool.send
        monkeypatch.setattr(
            pool.HttpPool, "send", lambda *given, request=None, **more: send(*given, request=None, **more)
        )
    # Which of them breaks it first is chance: "a server ..." or "sent again ...".
    wanted = [("bought again",)] if old == "every failure again" else []
    wanted.append(("sent again", "a server"))
    found: set[str] = set()
    for seed in range(3):
        servers, seen = await play(seed, 2)
        found |= {said.split(":")[0] for name in seen if (said := breach(servers, name))}
        if all(any(said.startswith(words) for said in found) for words in wanted):
            return
    raise AssertionError(found)
