"""Clients that leave: the model stops at once, and what it did is on record exactly once."""

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.processes import Gateway, Sim, running, simulated
from tests.support.raw_http import Wire, chat, eventually, head, request, wire
from tests.support.records import written

SOON_S = 2.0
"""When the backend must have noticed. It does within milliseconds; the rest is for a loaded machine."""

ABORTS = 200
AT_ONCE = 20
TOKENS = 12
LIMITS = {"per_key": {"max_concurrent": 2 * AT_ONCE}}
"""A place that is not given back shows long before two hundred have left."""

Place = tuple[Gateway, Sim]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("vanishing")
    with simulated(folder / "sim") as sim:
        backend = {"url": sim.url, "first_byte_timeout": "30s"}
        config = {"backends": [backend], "health_check": {"enabled": False}, "rate_limit": LIMITS}
        with running(folder / "gateway", config) as gateway:
            yield gateway, sim


@pytest.fixture
def counts(place: Place) -> Iterator[dict[str, int]]:
    """The counts before a test; after it nothing may be left running anywhere."""
    gateway, sim = place
    rows, lines = written(gateway)
    yield {"rows": rows, "lines": lines, **sim.stats()}
    metrics = gateway.metrics()
    assert metrics["zuebee_requests_running"] == 0
    assert gateway.total("zuebee_backend_in_flight") == 0
    assert metrics["zuebee_connections"] == 1, "only the reader of the metrics is connected"
    assert sim.stats()["streams_open"] == 0


async def settled(gateway: Gateway, counts: dict[str, int]) -> list[dict[str, Any]]:
    """The new lines of the access log, once nothing runs and all is written."""
    await eventually(lambda: gateway.metrics()["zuebee_connections"] == 1, "all connections are closed")
    rows, lines = await asyncio.to_thread(written, gateway)
    endings, records = (gateway.total(f"zuebee_{name}_total") for name in ("terminations", "usage_records"))
    assert (lines, rows) == (endings, records)
    return gateway.access_lines()[counts["lines"] :]


BODY = request(chat())
UNFINISHED = {
    "before the body": BODY[: BODY.index(b"\r\n\r\n") + 4],
    "inside the body": BODY[:-1],
    "inside a chunk": head(transfer_encoding="chunked") + b"100\r\n{",
}


@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED)
async def test_who_leaves_before_the_body_is_whole_costs_nothing(
    place: Place, counts: dict[str, int], sent: bytes
) -> None:
    gateway, sim = place
    async with wire(gateway.port) as client:
        client.send(sent)
        await eventually(lambda: gateway.metrics()["zuebee_requests_running"] == 1, "the request has begun")
        client.vanish()
    lines = await settled(gateway, counts)
    assert [(line["termination_reason"], line["status"], line["backend"]) for line in lines] == [
        ("client_gone", 499, "")
    ]
    assert len(gateway.usage_rows()) == counts["rows"]
    assert sim.stats()["requests_started"] == counts["requests_started"]


SILENT = {
    "before the head of a stream": chat(fault="hang"),
    "before the first event": chat(first_token_delay_s=30),
    "before an answer in one piece": chat(stream=False, first_token_delay_s=30),
}


@pytest.mark.parametrize("body", SILENT.values(), ids=SILENT)
async def test_who_leaves_while_waiting_stops_the_model(
    place: Place, counts: dict[str, int], body: dict[str, Any]
) -> None:
    gateway, sim = place
    async with wire(gateway.port) as client:
        client.send(request(body))
        await eventually(lambda: sim.stats()["requests_started"] > counts["requests_started"], "the model has begun")
        client.vanish()
    await eventually(lambda: sim.stats()["requests_aborted"] > counts["requests_aborted"], "it stopped", SOON_S)
    [line] = await settled(gateway, counts)
    [row] = gateway.usage_rows()[counts["rows"] :]
    assert (line["termination_reason"], row["termination_reason"], row["usage_source"]) == (
        "client_gone",
        "client_gone",
        "estimate",
    )
    assert row["prompt_tokens"] > 0


@pytest.mark.requirement("A296")
@pytest.mark.parametrize("events", [1, 2, 3, 7, 11])
async def test_who_leaves_in_a_stream_stops_the_model_and_pays_for_what_came(
    place: Place, counts: dict[str, int], events: int
) -> None:
    gateway, sim = place
    async with wire(gateway.port) as client:
        client.send(request(chat(1000, tokens_per_s=100)))
        await client.read_head()
        seen = await client.events(events)
        client.vanish()
    await eventually(lambda: sim.stats()["streams_aborted"] > counts["streams_aborted"], "it stopped", SOON_S)
    [line] = await settled(gateway, counts)
    [row] = gateway.usage_rows()[counts["rows"] :]
    assert (line["termination_reason"], row["termination_reason"], row["usage_source"]) == (
        "client_gone",
        "client_gone",
        "partial",
    )
    assert row["completion_tokens"] >= seen
    assert row["status"] == 200


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
async def test_who_leaves_after_the_last_byte_has_had_it_all(
    place: Place, counts: dict[str, int], connection: str
) -> None:
    gateway, _ = place
    for turn in range(50):
        async with wire(gateway.port) as client:
            answer = await client.ask(request(chat(TOKENS, stream=turn % 2 == 0), connection=connection))
            client.vanish(reset=turn % 3 == 0)
        assert answer.status == 200
    lines = await settled(gateway, counts)
    rows = gateway.usage_rows()[counts["rows"] :]
    assert {line["termination_reason"] for line in lines} == {"complete"}
    kinds = {(row["termination_reason"], row["usage_source"], row["completion_tokens"]) for row in rows}
    assert (len(rows), kinds) == (50, {("complete", "provider", TOKENS)})


class Aborts:
    """Two hundred clients that leave whenever they like, and what each had seen by then."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.choose = random.Random(seed)
        self.events: dict[str, int] = {}
        self.places = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> None:
        await asyncio.gather(*(self._one() for _ in range(ABORTS)))

    async def _one(self) -> None:
        choose = self.choose
        body = chat(TOKENS, stream=choose.random() < 0.8, tokens_per_s=choose.choice([0, 200, 1000]))
        stop = choose.choice(["body", "moment", "moment", "events", "events", "end"])
        moment_s, count, reset = choose.uniform(0, 0.08), choose.randrange(1, TOKENS), choose.random() < 0.5
        async with self.places, wire(self.port) as client:
            data = request(body)
            client.send(data[:-5] if stop == "body" else data)
            if stop in ("body", "moment"):
                await asyncio.sleep(moment_s)
            else:
                await self._read(client, count if stop == "events" else TOKENS * 10)
            client.vanish(reset=reset)

    async def _read(self, client: Wire, count: int) -> None:
        assert await client.read_head() == 200
        self.events[client.headers["x-request-id"]] = await client.events(count)


@pytest.mark.requirement("A296")
async def test_two_hundred_who_leave_at_random_are_each_on_record_once(place: Place, counts: dict[str, int]) -> None:
    gateway, sim = place
    aborts = Aborts(gateway.port, seed=20)
    await aborts.run()
    lines = await settled(gateway, counts)
    begun = sim.stats()["requests_started"] - counts["requests_started"]
    rows = {row["request_id"]: row for row in gateway.usage_rows()[counts["rows"] :]}
    accounts = {account["request_id"]: account for account in sim.control("GET", "/_sim/account")}
    served = [line for line in lines if line["prompt_tokens"] is not None]
    assert len({line["request_id"] for line in lines}) == len(lines)
    assert sorted(line["request_id"] for line in served) == sorted(rows), "a record for each, and no more"
    assert begun <= len(rows)
    for request_id, row in rows.items():
        account = accounts.get(request_id)
        if row["usage_source"] == "provider":
            assert account is not None
            figures = (account["prompt_tokens"], account["completion_tokens"])
            assert (row["prompt_tokens"], row["completion_tokens"]) == figures
        else:
            assert (row["termination_reason"], row["usage_source"]) in {
                ("client_gone", "partial"),
                ("client_gone", "estimate"),
            }
            assert row["completion_tokens"] <= (account["events"] if account else 0)
        if request_id in aborts.events:
            assert row["completion_tokens"] >= min(aborts.events[request_id], TOKENS)
    assert {"provider", "partial", "estimate"} == {row["usage_source"] for row in rows.values()}
