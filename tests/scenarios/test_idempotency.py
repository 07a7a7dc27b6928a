"""Requests with an `Idempotency-Key` that are sent again: one run, one charge, the same answer."""

import asyncio
import json
import signal
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.processes import KEY, Gateway, Sim, running, simulated, until
from tests.support.raw_http import Answer, ask, chat, eventually, request, wire
from tests.support.records import written
from zuebee.app.parts.idempotency import answers_path

OTHER_KEY = "sk-test-of-somebody-else-01"
CANARY = "xylophone canary 4711"

Place = tuple[Gateway, Sim]


def config(sim: Sim, **more: Any) -> dict[str, Any]:
    return {
        "backends": [{"url": sim.url}],
        "health_check": {"enabled": False},
        "routing": {"retry": {"enabled": False}},
        "api_keys": [{"key": KEY, "name": "test"}, {"key": OTHER_KEY, "name": "other"}],
        **more,
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("idempotency")
    with simulated(folder / "sim") as sim, running(folder / "gateway", config(sim)) as gateway:
        yield gateway, sim


@pytest.fixture
def runs(place: Place) -> "Runs":
    return Runs(*place)


class Runs:
    """How often the backend was asked, and how often somebody was charged, since the beginning of a test."""

    def __init__(self, gateway: Gateway, sim: Sim) -> None:
        self._gateway, self._sim = gateway, sim
        self._begun = sim.stats()["requests_started"]
        self._rows, _ = written(gateway)

    @property
    def begun(self) -> int:
        return int(self._sim.stats()["requests_started"]) - self._begun

    async def charged(self, count: int) -> list[dict[str, Any]]:
        await asyncio.to_thread(written, self._gateway)
        rows = self._gateway.usage_rows()[self._rows :]
        assert len(rows) == count
        return rows


def keyed(body: dict[str, Any], key: str = "", **headers: str) -> bytes:
    return request(body, **{"idempotency_key": key or str(uuid.uuid4()), **headers})


def same(first: Answer, again: Answer) -> bool:
    fields = {name: value for name, value in again.headers.items() if name not in ("date", "idempotent-replayed")}
    assert fields == {name: value for name, value in first.headers.items() if name != "date"}
    assert again.headers["idempotent-replayed"] == "true"
    return (first.status, first.body) == (again.status, again.body)


@pytest.mark.parametrize("stream", [False, True])
async def test_one_after_the_other(place: Place, runs: Runs, stream: bool) -> None:
    sent = keyed(chat(20, stream=stream))
    first = await ask(place[0].port, sent)
    assert first.status == 200
    for _ in range(3):
        assert same(first, await ask(place[0].port, sent))
    assert runs.begun == 1
    [row] = await runs.charged(1)
    assert row["completion_tokens"] == 20


@pytest.mark.parametrize("stream", [False, True])
async def test_fifty_at_once(place: Place, runs: Runs, stream: bool) -> None:
    sent = keyed(chat(40, stream=stream, tokens_per_s=100))
    answers = await asyncio.gather(*(ask(place[0].port, sent) for _ in range(50)))
    assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)}
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert runs.begun == 1
    await runs.charged(1)


async def test_without_the_header_each_runs(place: Place, runs: Runs) -> None:
    for _ in range(2):
        assert (await ask(place[0].port, request(chat(1, stream=False)))).status == 200
    assert runs.begun == 2
    await runs.charged(2)


async def test_who_joins_late_gets_all_of_it_and_who_leaves_stops_nothing(place: Place, runs: Runs) -> None:
    gateway, _ = place
    sent = keyed(chat(60, tokens_per_s=20))
    async with wire(gateway.port) as first:
        first.send(sent)
        await first.read_head()
        await first.events(10)
        second = asyncio.create_task(ask(gateway.port, sent))
        async with wire(gateway.port) as third:
            third.send(sent)
            await third.read_head()
            await third.events(5)
            third.vanish()
        first.vanish()
    answer = await second
    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert answer.body.count(b"data: ") >= 61
    assert same(answer._replace(headers={k: v for k, v in answer.headers.items() if k != "idempotent-replayed"}),
                await ask(gateway.port, sent))  # fmt: skip
    assert runs.begun == 1
    [row] = await runs.charged(1)
    assert (row["termination_reason"], row["usage_source"], row["completion_tokens"]) == ("client_gone", "provider", 60)


async def test_who_lost_the_connection_finds_the_answer(place: Place, runs: Runs) -> None:
    gateway, sim = place
    sent = keyed(chat(30, stream=False, tokens_per_s=10))
    async with wire(gateway.port) as first:
        first.send(sent)
        await eventually(lambda: runs.begun == 1, "it runs")
        first.vanish()
    answer = await ask(gateway.port, sent)
    assert (answer.status, answer.headers["idempotent-replayed"]) == (200, "true")
    [row] = await runs.charged(1)
    assert row["completion_tokens"] == 30
    assert sim.stats()["requests_aborted"] == 0


@pytest.mark.parametrize("while_it_runs", [False, True])
async def test_another_request_under_the_same_key_is_refused(place: Place, runs: Runs, while_it_runs: bool) -> None:
    gateway, _ = place
    key = str(uuid.uuid4())
    body = chat(30, stream=False, tokens_per_s=100)
    first = asyncio.create_task(ask(gateway.port, keyed(body, key)))
    if not while_it_runs:
        await first
    await eventually(lambda: runs.begun == 1, "it runs")
    other_model = {**body, "model": "sim-large"}
    others = [keyed({**body, "user": "u"}, key), keyed(other_model, key)]
    others.append(request({**body, "prompt": "a"}, "/v1/completions", idempotency_key=key))
    for other in others:
        answer = await ask(gateway.port, other)
        assert (answer.status, answer.error["code"]) == (422, "idempotency_key_reused")
        assert answer.headers["x-should-retry"] == "false"
    assert (await first).status == 200
    assert runs.begun == 1


async def test_an_alias_of_the_path_is_the_same_request(place: Place, runs: Runs) -> None:
    key, body = str(uuid.uuid4()), chat(3, stream=False)
    first = await ask(place[0].port, keyed(body, key))
    again = await ask(place[0].port, request(body, "/chat/completions", idempotency_key=key))
    assert same(first, again)
    assert runs.begun == 1


async def test_each_caller_has_keys_of_its_own(place: Place, runs: Runs) -> None:
    key, body = "the-same-for-both", chat(3, stream=False)
    for secret in (KEY, OTHER_KEY):
        answer = await ask(place[0].port, keyed(body, key, authorization=f"Bearer {secret}"))
        assert (answer.status, "idempotent-replayed" in answer.headers) == (200, False)
    stranger = await ask(place[0].port, keyed(body, key, authorization="Bearer sk-nobody-at-all-01"))
    assert stranger.status == 401
    assert runs.begun == 2


@pytest.mark.parametrize("key", ["x" * 256, "a\tb", "\xfc", " "])
async def test_a_key_that_is_none(place: Place, runs: Runs, key: str) -> None:
    sent = request(chat(1, stream=False), idempotency_key="KEY").replace(b"KEY", key.encode("latin-1"))
    answer = await ask(place[0].port, sent)
    assert (answer.status, answer.error["code"]) == (400, "invalid_idempotency_key")
    assert answer.error["param"] == "Idempotency-Key"
    assert runs.begun == 0


async def test_the_longest_key(place: Place) -> None:
    sent = keyed(chat(1, stream=False), "k" * 255)
    assert same(await ask(place[0].port, sent), await ask(place[0].port, sent))


KEPT = {
    "an error of the backend": (500, 500),
    "no answer": ("reset", 502),
    "an answer that is none": ("html", 502),
    "a stream that breaks off": ("truncate", 200),
    "an error in the stream": ("error_mid", 200),
}


@pytest.mark.parametrize("name", KEPT)
async def test_what_may_have_cost_something_is_kept(place: Place, runs: Runs, name: str) -> None:
    fault, status = KEPT[name]
    sent = keyed({**chat(10), "sim": {"tokens": 10, "fault": fault}})
    first = await ask(place[0].port, sent)
    assert first.status == status
    begun = runs.begun
    assert same(first, await ask(place[0].port, sent))
    assert runs.begun == begun


@pytest.mark.parametrize("fault", [429, 503, 400])
async def test_what_cost_nothing_may_be_tried_again(place: Place, runs: Runs, fault: int) -> None:
    gateway, sim = place
    sim.fault(str(fault), times=1, path="/v1/chat/completions")
    sent = keyed(chat(3, stream=False))
    assert (await ask(gateway.port, sent)).status == fault
    # A backend that asks to wait is left alone for a moment.
    async with asyncio.timeout(10):
        while (again := await ask(gateway.port, sent)).status == 429:
            assert "idempotent-replayed" not in again.headers
            await asyncio.sleep(0.1)
    assert (again.status, "idempotent-replayed" in again.headers) == (200, False)
    assert runs.begun == 2


async def test_a_replay_takes_no_place_in_the_limits(tmp_path: Path, place: Place) -> None:
    _, sim = place
    with running(tmp_path, config(sim, rate_limit={"per_key": {"requests_per_minute": 1}})) as gateway:
        sent = keyed(chat(2, stream=False))
        first = await ask(gateway.port, sent)
        for _ in range(3):
            assert same(first, await ask(gateway.port, sent))
        refused = keyed(chat(3, stream=False))
        for _ in range(2):
            assert (await ask(gateway.port, refused)).status == 429, "a refusal is not kept, and repeats itself"


async def test_too_large_to_keep(tmp_path: Path, place: Place) -> None:
    _, sim = place
    with running(tmp_path, config(sim, idempotency={"max_answer_size": "2KiB"})) as gateway:
        for stream in (True, False):
            sent = keyed(chat(400, stream=stream, tokens_per_s=0))
            first = await ask(gateway.port, sent)
            assert (first.status, len(first.body) > 2048) == (200, stream or len(first.body) > 2048)
            again = await ask(gateway.port, sent)
            if len(first.body) > 2048:
                assert (again.status, again.error["code"]) == (409, "idempotency_answer_too_large")


async def test_switched_off_or_without_keys_it_is_a_header_like_any_other(tmp_path: Path, place: Place) -> None:
    _, sim = place
    for name, more in (("off", {"idempotency": {"enabled": False}}), ("open", {"api_keys": None})):
        with running(tmp_path / name, config(sim, **more)) as gateway:
            sent = keyed(chat(1, stream=False))
            for _ in range(2):
                answer = await ask(gateway.port, sent)
                assert (answer.status, "idempotent-replayed" in answer.headers) == (200, False)


async def test_what_is_kept_survives_a_restart_and_tells_nothing(tmp_path: Path, place: Place) -> None:
    _, sim = place
    body = {**chat(25, stream=False), "messages": [{"role": "user", "content": CANARY}]}
    sent = keyed(body, "the-key-of-the-canary")
    with running(tmp_path, config(sim)) as gateway:
        first = await ask(gateway.port, sent)
    with running(tmp_path, config(sim)) as gateway:
        assert same(first, await ask(gateway.port, sent))
        said = json.loads(first.body)["choices"][0]["message"]["content"].split(" ")
        phrase = " ".join(said[:3])
        for path in tmp_path.rglob("*"):
            if path.is_file() and ".db" in path.name:
                data = path.read_bytes()
                for secret in (CANARY, phrase, "the-key-of-the-canary", KEY):
                    assert secret.encode() not in data
        connection = sqlite3.connect(answers_path(str(gateway.usage_path)))
        [(state, answer)] = connection.execute("SELECT state, answer FROM kept_answers").fetchall()
        connection.close()
        assert (state, len(answer) > 100) == ("done", True)


async def test_after_a_crash_the_key_is_busy_until_the_lease_ends_and_then_lost(tmp_path: Path, place: Place) -> None:
    _, sim = place
    sent = keyed(chat(500, stream=False, tokens_per_s=10))
    begun = sim.stats()["requests_started"]
    with running(tmp_path, config(sim)) as gateway:
        task = asyncio.create_task(ask(gateway.port, sent))
        await eventually(lambda: sim.stats()["requests_started"] > begun, "it runs")
        gateway.send_signal(signal.SIGKILL)
        await asyncio.to_thread(gateway.wait)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await task
    with running(tmp_path, config(sim)) as gateway:
        answer = await ask(gateway.port, sent)
        assert (answer.status, answer.error["code"]) == (409, "idempotency_in_progress")
        assert int(answer.headers["retry-after"]) == 1
        connection = sqlite3.connect(answers_path(str(gateway.usage_path)))
        [(lease_s,)] = connection.execute("SELECT expires_at_s - strftime('%s', 'now') FROM kept_answers").fetchall()
        assert 0 < lease_s <= 16
        with connection:
            connection.execute("UPDATE kept_answers SET expires_at_s = expires_at_s - 20")
        connection.close()
        answer = await ask(gateway.port, sent)
        assert (answer.status, answer.error["code"]) == (409, "idempotency_answer_lost")
        assert answer.headers["x-should-retry"] == "false"
        assert sim.stats()["requests_started"] == begun + 1


async def test_a_stop_frees_the_key(tmp_path: Path, place: Place) -> None:
    _, sim = place
    sent = keyed(chat(500, tokens_per_s=20))
    begun = sim.stats()["requests_started"]
    with running(tmp_path, config(sim, shutdown={"grace": "0s", "drain": "0s"})) as gateway:
        task = asyncio.create_task(ask(gateway.port, sent))
        await eventually(lambda: sim.stats()["requests_started"] > begun, "it runs")
        gateway.send_signal(signal.SIGTERM)
        answer = await task
        assert b"shutting_down" in answer.body
        assert await asyncio.to_thread(gateway.wait) == 0
    connection = sqlite3.connect(answers_path(str(gateway.usage_path)))
    assert connection.execute("SELECT count(*) FROM kept_answers").fetchone() == (0,)
    connection.close()


async def test_the_openai_package(place: Place, runs: Runs) -> None:
    gateway, _ = place
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=KEY) as client:
        messages: Any = [{"role": "user", "content": "Hello!"}]
        texts = []
        for _ in range(2):
            stream = await client.chat.completions.create(
                model="sim-small", messages=messages, stream=True, max_tokens=9, extra_headers=headers
            )
            texts.append([chunk.choices[0].delta.content async for chunk in stream if chunk.choices])
    assert texts[0] == texts[1]
    assert runs.begun == 1


async def test_outcomes_are_counted(place: Place) -> None:
    gateway, _ = place
    before = gateway.metrics()
    sent = keyed(chat(1, stream=False))
    for _ in range(2):
        await ask(gateway.port, sent)
    after = gateway.metrics()
    for outcome in ("run", "replayed"):
        name = f'zuebee_idempotent_requests_total{{outcome="{outcome}"}}'
        assert after[name] == before[name] + 1
    assert until(lambda: after["zuebee_idempotency_failures_total"] == 0, "no failure")
