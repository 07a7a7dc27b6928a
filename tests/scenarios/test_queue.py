"""A model server that answers one request at a time, and many who want it: who is next, and who goes away empty."""

import asyncio
import base64
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import ask_here
from tests.support.processes import Gateway, Sim, running, simulated
from tests.support.raw_http import Answer, Wire, ask, chat, eventually, request, wire

LOW, HIGH = "sk-test-low-0123456789ab", "sk-test-high-0123456789ab"
KEYS = [
    {"key": LOW, "name": "batch", "user_id": "bob", "team_id": "night", "organization_id": "acme", "priority": "low"},
    {"key": HIGH, "name": "desk", "user_id": "zoë", "priority": "high"},
]
SHORT = {"stream": False, "tokens": 1}
ENDLESS = chat(100_000, tokens_per_s=20)


def config(*sims: Sim, backend: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    each = {"max_in_flight": 1, "identity_headers": True, **(backend or {})}
    backends = [{"url": sim.url, "name": f"sim{n}", **each} for n, sim in enumerate(sims)]
    return {"backends": backends, "api_keys": KEYS, "health_check": {"enabled": False}, **more}


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[Sim]:
    with simulated(tmp_path / "sim") as process:
        yield process


def depth(gateway: Gateway, priority: str) -> float:
    return gateway.metrics()[f'zuebee_queue_depth{{priority="{priority}"}}']


async def queued(gateway: Gateway, **wanted: int) -> None:
    await eventually(
        lambda: all(depth(gateway, each) == count for each, count in wanted.items()), f"{wanted} wait in the queue"
    )


def body_for(key: str, **headers: str) -> bytes:
    return request(chat(**SHORT), authorization=f"Bearer {key}", **headers)


async def waiting(gateway: Gateway, key: str, **headers: str) -> asyncio.Task[Answer]:
    """A request that has come to wait."""
    before = sum(depth(gateway, each) for each in ("low", "normal", "high"))
    task = asyncio.create_task(ask(gateway.port, body_for(key, **headers)))
    await eventually(
        lambda: sum(depth(gateway, each) for each in ("low", "normal", "high")) > before or task.done(), "one waits"
    )
    return task


@asynccontextmanager
async def occupied(gateway: Gateway, count: int = 1) -> AsyncIterator[list[Wire]]:
    """All places taken by streams without an end."""
    async with AsyncExitStack() as stack:
        wires = []
        for _ in range(count):
            connection = await stack.enter_async_context(wire(gateway.port))
            connection.send(request(ENDLESS, authorization=f"Bearer {LOW}"))
            assert await connection.read_head() == 200
            wires.append(connection)
        yield wires


def seen(sim: Sim) -> list[dict[str, str]]:
    """The header fields of the requests that the server saw, in order."""
    return [dict(each["headers"]) for each in sim.control("GET", "/_sim/requests") if each["method"] == "POST"]


async def at_rest(gateway: Gateway) -> None:
    """Nothing waits, runs or holds a place."""
    await eventually(lambda: gateway.metrics()["zuebee_requests_running"] == 0, "nothing runs")
    assert gateway.total("zuebee_queue_depth") == gateway.total("zuebee_backend_in_flight") == 0
    assert gateway.total("zuebee_holds_open") == 0


@pytest.mark.requirement("A101", "A102", "A103", "A305")
async def test_one_important_request_overtakes_thirty(sim: Sim, tmp_path: Path) -> None:
    with running(tmp_path / "gateway", config(sim)) as gateway:
        async with occupied(gateway):
            low = [asyncio.create_task(ask(gateway.port, body_for(LOW))) for _ in range(30)]
            await queued(gateway, low=30)
            lowered = await waiting(gateway, HIGH, x_priority="normal")
            high = await waiting(gateway, HIGH)
            await queued(gateway, low=30, normal=1, high=1)
            assert gateway.metrics()['zuebee_priority_running{priority="low"}'] == 31
        answers = await asyncio.gather(*low, lowered, high)
        assert {each.status for each in answers} == {200}
        fields = seen(sim)
        order = [each["x-zuebee-priority"] for each in fields]
        assert order == ["low", "high", "normal", *["low"] * 30]
        assert high.result().headers["x-request-id"] == fields[1]["x-request-id"]
        who = {name: value for name, value in fields[0].items() if name.startswith("x-zuebee-")}
        told = {"user": "bob", "team": "night", "organization": "acme", "priority": "low", "timeout-ms": "600000"}
        assert who == {f"x-zuebee-{name}": value for name, value in told.items()}
        assert fields[1]["x-zuebee-user"] == "zo%C3%AB"
        assert not any(secret in json.dumps(fields) for secret in (LOW, HIGH))
        figures = gateway.metrics()
        for priority, requests, waits in (("low", 31, 30), ("normal", 1, 1), ("high", 1, 1)):
            assert figures[f'zuebee_priority_requests_total{{priority="{priority}"}}'] == requests
            assert figures[f'zuebee_queue_wait_seconds_count{{priority="{priority}"}}'] == waits
            assert figures[f'zuebee_queue_wait_seconds_sum{{priority="{priority}"}}'] > 0
        rows = gateway.wait_for_rows(33)
        assert Counter(row["priority"] for row in rows) == {"low": 31, "normal": 1, "high": 1}
        lines = await eventually(lambda: all_ if len(all_ := gateway.access_lines()) >= 33 else [], "the access log")
        assert Counter(line["priority"] for line in lines) == {"low": 31, "normal": 1, "high": 1}
        await at_rest(gateway)


@pytest.mark.requirement("A101", "A102")
async def test_a_key_of_the_store_is_told_in_full(sim: Sim, tmp_path: Path) -> None:
    with running(tmp_path / "gateway", config(sim)) as gateway:
        where = ("--config", str(gateway.config_path))
        ask_here(tmp_path, "plans", "create", "gold", "--priority", "high", *where)
        ask_here(tmp_path, "accounts", "create", "organization", "acme", "--plan", "gold", *where)
        ask_here(tmp_path, "accounts", "create", "user", "ann", "--organization", "acme", *where)
        made = ask_here(tmp_path, "keys", "create", "--name", "app", "--user", "ann", *where)
        answer = await ask(gateway.port, body_for(made["key"], x_zuebee_user="root"))
        assert answer.status == 200
        (fields,) = seen(sim)
        told = [fields.get(f"x-zuebee-{name}") for name in ("user", "organization", "plan", "priority")]
        assert told == ["ann", "acme", "gold", "high"]
        assert made["key"] not in json.dumps(fields)
        (row,) = gateway.wait_for_rows(1)
        (line,) = await eventually(gateway.access_lines, "an access line")
        assert (row["priority"], line["priority"], line["plan"]) == ("high", "high", "gold")
        figures = gateway.metrics()
        assert figures['zuebee_priority_requests_total{priority="high"}'] == 1
        assert figures['zuebee_tokens_out_total{model="sim-small",priority="high"}'] == 1


async def test_a_backend_is_told_nothing_unless_it_is_wanted(sim: Sim, tmp_path: Path) -> None:
    quiet = {"identity_headers": False, "max_in_flight": None}
    with running(tmp_path / "gateway", config(sim, backend=quiet)) as gateway:
        assert (await ask(gateway.port, body_for(LOW))).status == 200
        (fields,) = seen(sim)
        assert "x-request-id" in fields
        assert not any(name.startswith("x-zuebee-") for name in fields)


@pytest.mark.requirement("A103")
async def test_who_leaves_the_queue_costs_nothing_and_no_place(sim: Sim, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        gateway = stack.enter_context(running(tmp_path / "gateway", config(sim)))
        async with occupied(gateway):
            patient = [await waiting(gateway, LOW) for _ in range(3)]
            leaving = [await stack.enter_async_context(wire(gateway.port)) for _ in range(20)]
            for each in leaving:
                each.send(body_for(LOW))
            await queued(gateway, low=23)
            for number, each in enumerate(leaving):
                each.vanish(reset=number % 2 == 0)
            await queued(gateway, low=3)
            patient.append(await waiting(gateway, LOW))
        assert {each.status for each in await asyncio.gather(*patient)} == {200}
        await at_rest(gateway)
        assert len(seen(sim)) == 5
        rows = gateway.wait_for_rows(25)
        left = [row for row in rows if row["termination_reason"] == "client_gone" and row["status"] == 499]
        assert len(left) == 20
        assert {(row["prompt_tokens"], row["completion_tokens"]) for row in left} <= {(None, None), (0, 0)}


@pytest.mark.requirement("A103")
async def test_a_queue_that_is_full_and_a_wait_that_is_too_long(sim: Sim, tmp_path: Path) -> None:
    queue = {"max_length": 2, "timeout": "5s"}
    with running(tmp_path / "gateway", config(sim, routing={"queue": queue})) as gateway:
        async with occupied(gateway):
            first, second = await waiting(gateway, LOW), await waiting(gateway, LOW)
            refused = await ask(gateway.port, body_for(LOW))
            high = asyncio.create_task(ask(gateway.port, body_for(HIGH)))
            pushed_out = await second
            for answer in (refused, pushed_out):
                assert (answer.status, answer.error["code"]) == (503, "queue_full")
                assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("1", "true")
            for late in (await first, await high):
                assert (late.status, late.error["code"], late.headers["x-should-retry"]) == (
                    503,
                    "queue_timeout",
                    "true",
                )
        figures = gateway.metrics()
        assert figures['zuebee_refusals_total{code="queue_full"}'] == 2
        assert figures['zuebee_refusals_total{code="queue_timeout"}'] == 2
        await at_rest(gateway)
        assert (await ask(gateway.port, body_for(LOW))).status == 200


@pytest.mark.requirement("A103")
async def test_when_a_server_dies_those_who_wait_go_to_the_other(tmp_path: Path) -> None:
    with (
        simulated(tmp_path / "a") as doomed,
        simulated(tmp_path / "b") as other,
        running(tmp_path / "gateway", config(doomed, other)) as gateway,
    ):
        async with occupied(gateway, 2) as streams:
            tasks = [await waiting(gateway, LOW) for _ in range(8)]
            doomed.send_signal(signal.SIGKILL)
            doomed.wait()
            await asyncio.sleep(0.3)
            assert not any(task.done() for task in tasks), "the other is still busy"
            for stream in streams:
                stream.vanish()
            answers = await asyncio.gather(*tasks)
        assert {answer.status for answer in answers} == {200}
        await at_rest(gateway)
        done = [json.loads(base64.b64decode(each["body_base64"])) for each in other.control("GET", "/_sim/requests")]
        assert sum(not body["stream"] for body in done) == 8


@pytest.mark.requirement("A103")
async def test_when_the_only_server_dies_nobody_waits_in_vain(sim: Sim, tmp_path: Path) -> None:
    with running(tmp_path / "gateway", config(sim, routing={"retry": {"enabled": False}})) as gateway:
        async with occupied(gateway):
            tasks = [await waiting(gateway, LOW) for _ in range(8)]
            sim.send_signal(signal.SIGKILL)
            sim.wait()
            answers = await asyncio.wait_for(asyncio.gather(*tasks), 5)
        # Of a dead process the sockets are closed one after the other, and the listening one may be the last.
        assert {answer.error["code"] for answer in answers} <= {"backend_unreachable", "backend_broken"}
        await at_rest(gateway)


@pytest.mark.requirement("A103")
@pytest.mark.parametrize(("bound", "run"), [(4, 3), (None, 6)])
async def test_a_reload_changes_the_bound_for_those_who_wait(
    sim: Sim, tmp_path: Path, bound: int | None, run: int
) -> None:
    slow = request(chat(100_000, tokens_per_s=20), authorization=f"Bearer {LOW}")
    async with AsyncExitStack() as stack:
        gateway = stack.enter_context(running(tmp_path / "gateway", config(sim)))
        streams = await stack.enter_async_context(occupied(gateway))
        for _ in range(6):
            streams.append(await stack.enter_async_context(wire(gateway.port)))
            streams[-1].send(slow)
        await queued(gateway, low=6)
        gateway.write_config(config(sim, backend={"max_in_flight": bound}))
        gateway.send_signal(signal.SIGHUP)
        await queued(gateway, low=6 - run)
        assert gateway.total("zuebee_backend_in_flight") == 1 + run
        gateway.write_config(config(sim, backend={"max_in_flight": 2, "timeout": "30s"}))
        gateway.send_signal(signal.SIGHUP)
        reloads = 'zuebee_config_reloads_total{result="ok"}'
        await eventually(lambda: gateway.metrics()[reloads] == 2, "the second reload")
        late = await waiting(gateway, HIGH)
        assert not late.done(), "what ran before the reload still counts"
        for each in streams:
            each.vanish()
        assert (await late).status == 200
        await at_rest(gateway)
