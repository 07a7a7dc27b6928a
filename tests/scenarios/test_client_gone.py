"""Clients that leave, where the settings say that the answer is read on: it is paid for as the backend counts it."""

import asyncio
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Gateway, Sim, running, simulated
from tests.support.promises import within
from tests.support.raw_http import ask, chat, eventually, request, wire
from tests.support.records import written

MODELS = ("to-the-end", "drained", "drained-by-time", "drained-by-size", "stopped")
RULES = [
    {"models": ["stopped"], "policy": "cancel"},
    {"models": ["to-the-*"], "policy": "detach"},
    {"models": ["drained"], "policy": "drain", "max_time": "20s"},
    {"models": ["drained-by-time"], "policy": "drain", "max_time": "300ms"},
    {"models": ["drained-by-size"], "policy": "drain", "max_bytes": "2KiB"},
]
SOON_S = 2.0
TOKENS = 40

Place = tuple[Gateway, Sim]


def config(sim: Sim, **more: Any) -> dict[str, Any]:
    return {
        "backends": [{"url": sim.url}],
        "health_check": {"enabled": False},
        "on_disconnect": RULES,
        **more,
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("gone")
    with (
        simulated(folder / "sim", "--models", ",".join(MODELS)) as sim,
        running(folder / "gateway", config(sim)) as gateway,
    ):
        yield gateway, sim


def ask_of(model: str, tokens: int = TOKENS, **sim: Any) -> dict[str, Any]:
    return {**chat(tokens, **{"tokens_per_s": 200, **sim}), "model": model}


async def leave(place: Place, body: dict[str, Any], events: int | None) -> dict[str, Any]:
    """Leave after so many events (None: before the head); the usage record, once it is there."""
    gateway, sim = place
    (rows, _), begun = await asyncio.to_thread(written, gateway), sim.stats()["requests_started"]
    async with wire(gateway.port) as client:
        client.send(request(body))
        await eventually(lambda: sim.stats()["requests_started"] > begun, "the model has begun")
        if events is not None:
            await client.read_head()
            await client.events(events)
        client.vanish(reset=bool(events and events % 2))
    await eventually(lambda: len(gateway.usage_rows()) > rows, "it is on record")
    await asyncio.to_thread(written, gateway)
    assert gateway.metrics()["zuebee_requests_detached"] == 0
    [row] = gateway.usage_rows()[rows:]
    return row


def figures(row: dict[str, Any]) -> tuple[int, int]:
    return row["prompt_tokens"], row["completion_tokens"]


def account(sim: Sim, row: dict[str, Any]) -> dict[str, Any]:
    """What the backend itself says of a request."""
    [found] = sim.control("GET", f"/_sim/account?request_id={row['request_id']}")
    return dict(found)


PHASES = {
    "before the head": (ask_of("", fault="hang", for_s=0.2), None),
    "before the first event": (ask_of("", first_token_delay_s=0.2), None),
    "before an answer in one piece": ({**ask_of("", first_token_delay_s=0.2), "stream": False}, None),
    "after the first event": (ask_of(""), 1),
    "in the stream": (ask_of(""), 9),
    "near its end": (ask_of(""), TOKENS),
}


@pytest.mark.requirement("A296")
@pytest.mark.parametrize("model", ["to-the-end", "drained"])
@pytest.mark.parametrize("phase", PHASES)
async def test_the_answer_is_read_on_and_costs_what_the_backend_counts(place: Place, phase: str, model: str) -> None:
    _, sim = place
    body, events = PHASES[phase]
    row = await leave(place, {**body, "model": model}, events)
    counted = account(sim, row)
    assert counted["ended"] == "complete"
    assert figures(row) == (counted["prompt_tokens"], counted["completion_tokens"])
    assert counted["completion_tokens"] == TOKENS
    assert (row["termination_reason"], row["usage_source"], row["status"]) == ("client_gone", "provider", 200)


@pytest.mark.requirement("A097")
@pytest.mark.parametrize("model", ["stopped", "drained-by-time", "drained-by-size"])
async def test_what_is_out_of_bounds_is_stopped(place: Place, model: str) -> None:
    _, sim = place
    with within(2 * SOON_S, "stopping it"):
        row = await leave(place, ask_of(model, 5000, tokens_per_s=100), 2)
    counted = account(sim, row)
    assert counted["ended"] == "aborted"
    assert (row["termination_reason"], row["usage_source"]) == ("client_gone", "partial")
    assert 0 < row["completion_tokens"] <= counted["completion_tokens"] + 1
    if model != "stopped":
        assert row["completion_tokens"] > 5, "it was read on for a while"


async def test_an_answer_that_fails_without_its_client_is_settled_as_such(place: Place) -> None:
    row = await leave(place, ask_of("to-the-end", fault="truncate", after_events=20), 2)
    assert (row["termination_reason"], row["usage_source"], row["status"]) == ("upstream_broken", "partial", 200)


async def test_a_slot_stays_taken_until_the_end(tmp_path: Path, place: Place) -> None:
    _, sim = place
    limited = config(sim, rate_limit={"per_key": {"max_concurrent": 1}})
    with running(tmp_path, limited) as gateway:
        async with wire(gateway.port) as client:
            client.send(request(ask_of("to-the-end", 500)))  # two and a half seconds to see it in
            await client.read_head()
            await client.events(2)
            client.vanish()
        await eventually(lambda: gateway.metrics()["zuebee_requests_detached"] == 1, "it goes on")
        short = request({**ask_of("to-the-end", 1), "stream": False})
        assert (await ask(gateway.port, short)).status == 429
        await eventually(lambda: gateway.metrics()["zuebee_requests_running"] == 0, "it ends")
        assert (await ask(gateway.port, short)).status == 200


@pytest.mark.parametrize(
    ("drain", "termination_reason", "source"), [("10s", "client_gone", "provider"), ("100ms", "shutdown", "partial")]
)
async def test_a_stop_waits_for_them_too(
    tmp_path: Path, place: Place, drain: str, termination_reason: str, source: str
) -> None:
    _, sim = place
    with running(tmp_path, config(sim, shutdown={"grace": "0s", "drain": drain})) as gateway:
        async with wire(gateway.port) as client:
            client.send(request(ask_of("to-the-end", 200)))
            await client.read_head()
            await client.events(2)
            client.vanish()
        await eventually(lambda: gateway.metrics()["zuebee_requests_detached"] == 1, "it goes on")
        gateway.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(gateway.wait) == 0
        [row] = gateway.usage_rows()
    assert (row["termination_reason"], row["usage_source"]) == (termination_reason, source)
    if source == "provider":
        assert figures(row)[1] == account(sim, row)["completion_tokens"] == 200


@pytest.mark.requirement("A296")
async def test_a_hundred_who_leave_at_random_pay_what_the_backend_counts(place: Place) -> None:
    gateway, sim = place
    choose = random.Random(7)
    rows, _ = await asyncio.to_thread(written, gateway)
    places = asyncio.Semaphore(20)

    async def one() -> None:
        body = ask_of(choose.choice(["to-the-end", "drained"]), choose.randrange(1, 60), tokens_per_s=400)
        body["stream"] = choose.random() < 0.8
        wait_s, events = choose.uniform(0, 0.1), choose.choice([None, None, 1, 5, 30])
        async with places, wire(gateway.port) as client:
            client.send(request(body))
            if events is None or not body["stream"]:
                await asyncio.sleep(wait_s)
            else:
                await client.read_head()
                await client.events(events)
            client.vanish(reset=choose.random() < 0.5)

    await asyncio.gather(*(one() for _ in range(100)))
    await asyncio.to_thread(written, gateway)
    accounts = {one["request_id"]: one for one in sim.control("GET", "/_sim/account")}
    found = gateway.usage_rows()[rows:]
    assert len(found) >= 90
    for row in found:
        counted = accounts[row["request_id"]]
        assert (row["usage_source"], counted["ended"]) == ("provider", "complete")
        assert figures(row) == (counted["prompt_tokens"], counted["completion_tokens"])
    assert {row["termination_reason"] for row in found} == {"client_gone", "complete"}
