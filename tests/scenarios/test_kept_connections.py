"""One kept connection, the same head again and again: each request is judged, billed and passed on by itself."""

import json
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Gateway, Sim, running, simulated
from tests.support.raw_http import chat, eventually, request, wire

KEYS = {name: f"sk-kept-{name}-0123456789abcdef" for name in ("one", "two", "poor")}
STRANGER = "sk-kept-nobody-0123456789abcdef"


def config(sim: Sim, *names: str, **more: Any) -> dict[str, Any]:
    keys: list[dict[str, Any]] = [{"key": KEYS[name], "name": name} for name in names]
    for key in keys:
        if key["name"] == "poor":
            key["requests_per_minute"] = 3
    return {"backends": [{"url": sim.url, "name": "sim"}], "api_keys": keys, **more}


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim")) as process:
        yield process


@pytest.fixture
def gateway(tmp_path: Path, sim: Sim) -> Iterator[Gateway]:
    with running(tmp_path / "gateway", config(sim, "one", "two", "poor")) as process:
        yield process


def asking(key: str, body: dict[str, Any], **headers: str) -> bytes:
    return request(body, authorization=f"Bearer {key}", **headers)


def passed_on(sim: Sim) -> dict[str, str]:
    """The header fields of the last request that reached the model server."""
    return dict(sim.control("GET", "/_sim/requests")[-1]["headers"])


async def test_each_request_on_it_is_its_own(gateway: Gateway) -> None:
    """Keys take turns at random, lengths differ, some requests are broken; nobody pays for, or is, somebody else."""
    chance = random.Random(5)
    wanted: Counter[tuple[str, int, int]] = Counter()
    async with wire(gateway.port) as client, wire(gateway.port) as stranger:
        for _ in range(150):
            who = chance.choice(("one", "one", "two"))
            tokens, status = chance.choice((1, 7, 120)), 200
            body = json.dumps(chat(tokens, stream=False)).encode() + b" " * chance.choice((0, 0, 9))
            if chance.random() < 0.1:
                body, status = body[:-3].rstrip(b" }"), 400
            answer = await client.ask(asking(KEYS[who], body))  # type: ignore[arg-type]
            assert answer.status == status, answer.body
            if status == 200:
                assert json.loads(answer.body)["usage"]["completion_tokens"] == tokens
                wanted[who, 200, tokens] += 1
        known = await stranger.ask(asking(KEYS["one"], chat(1, stream=False)))
        unknown = await stranger.ask(asking(STRANGER, chat(1, stream=False)))
        assert (known.status, unknown.status) == (200, 401)
    rows = [row for row in gateway.wait_for_rows(sum(wanted.values()) + 1) if row["status"] == 200]
    wanted["one", 200, 1] += 1
    assert Counter((row["key_name"], row["status"], row["completion_tokens"]) for row in rows) == wanted
    assert len({row["request_id"] for row in rows}) == len(rows)


async def test_a_limit_holds_and_others_go_on(gateway: Gateway) -> None:
    async with wire(gateway.port) as client:
        statuses = [(await client.ask(asking(KEYS["poor"], chat(1, stream=False)))).status for _ in range(6)]
        assert statuses == [200] * 3 + [429] * 3
        assert (await client.ask(asking(KEYS["one"], chat(1, stream=False)))).status == 200
        assert (await client.ask(asking(KEYS["poor"], chat(1, stream=False)))).status == 429


async def test_what_a_reload_changes_holds_for_the_next_request_on_it(gateway: Gateway, sim: Sim) -> None:
    data = asking(KEYS["one"], chat(1, stream=False), x_tag="plum", x_stainless_lang="python")

    async def reload(**changes: Any) -> None:
        before = gateway.metrics().get('zuebee_config_reloads_total{result="ok"}', 0)
        gateway.write_config(changes)
        gateway.send_signal(signal.SIGHUP)
        await eventually(
            lambda: gateway.metrics().get('zuebee_config_reloads_total{result="ok"}', 0) == before + 1, "the reload"
        )

    async with wire(gateway.port) as client:
        for _ in range(3):
            assert (await client.ask(data)).status == 200
        assert "x-tag" not in passed_on(sim)
        forwarding = config(sim, "one")
        forwarding["backends"][0]["forward_headers"] = ["X-Tag"]
        await reload(**forwarding)
        for _ in range(2):
            assert (await client.ask(data)).status == 200
        assert passed_on(sim)["x-tag"] == "plum"
        rule = {"name": "no_plums", "header": "x-tag", "pattern": "plum"}
        await reload(**config(sim, "one", firewall={"rules": [rule]}))
        refused = await client.ask(data)
        assert (refused.status, refused.error["code"]) == (403, "request_blocked")
    await reload(**config(sim, "one"))
    async with wire(gateway.port) as client:
        for _ in range(3):
            assert (await client.ask(data)).status == 200
        await reload(**config(sim, "two"))
        assert (await client.ask(data)).status == 401


async def test_streams_and_answers_take_turns_on_it(gateway: Gateway) -> None:
    async with wire(gateway.port) as client:
        for stream in (False, True, False, False, True, True, False):
            answer = await client.ask(asking(KEYS["one"], chat(5, stream=stream)))
            assert answer.status == 200
            assert answer.body.endswith(b"data: [DONE]\n\n") is stream
    assert [row["is_stream"] for row in gateway.wait_for_rows(7)] == [0, 1, 0, 0, 1, 1, 0]
