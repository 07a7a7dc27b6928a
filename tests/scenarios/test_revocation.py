"""T10: a key that is revoked ends its open streams within five seconds, and what they cost stops with them."""

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from tests.support.commands import ask_here
from tests.support.databases import redis_url
from tests.support.processes import KEY, Gateway, Sim, running, simulated, until
from tests.support.promises import within
from tests.support.raw_http import ask, chat, eventually, request, wire

LEAVING = "sk-leaving-7c1f0a92be44d3"
STREAMS = 5
WITHIN_S = 5.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim")) as process:
        yield process


@pytest.fixture
def sim(model: Sim) -> Sim:
    """It, and what was asked of it before is forgotten."""
    model.control("POST", "/_sim/reset")
    return model


def keys(*names: str) -> list[dict[str, str]]:
    return [{"key": key, "name": f"key {index}"} for index, key in enumerate(names)]


Kind = Callable[[Path, dict[str, Any]], AbstractContextManager["Place"]]


async def follow(gateway: Gateway, key: str, begun: asyncio.Queue[None]) -> bytes:
    """All of a long stream."""
    async with wire(gateway.port) as client:
        client.send(request(chat(2000, tokens_per_s=20), authorization=f"Bearer {key}", connection="close"))
        assert await client.read_head() == 200
        data = b""
        async for part in client.parts():
            if not data:
                begun.put_nowait(None)
            data += part
        return data


class Place(NamedTuple):
    """A gateway, the keys that it knows, and how the first of them is revoked."""

    gateway: Gateway
    leaving: str
    staying: str
    revoke: Callable[[], object]


@contextmanager
def with_file(folder: Path, config: dict[str, Any]) -> Iterator[Place]:
    with running(folder, {**config, "api_keys": keys(KEY, LEAVING)}) as gateway:

        def revoke() -> None:
            gateway.write_config({**config, "api_keys": keys(KEY)})
            gateway.send_signal(signal.SIGHUP)

        yield Place(gateway, LEAVING, KEY, revoke)


@contextmanager
def with_redis(folder: Path, config: dict[str, Any]) -> Iterator[Place]:
    with redis_url() as (url, prefix), redis.Redis.from_url(url) as client:
        for key in (LEAVING, KEY):
            client.hset(f"{prefix}{key}", mapping={"status": "active", "user_id": key[:10]})
        source = {"type": "redis", "redis": {"addr": url, "key_pattern": f"{prefix}{{api_key}}"}}
        with running(folder, {**config, "api_keys": None, "auth": {"pipeline": [source]}}) as gateway:
            yield Place(gateway, LEAVING, KEY, lambda: client.delete(f"{prefix}{LEAVING}"))


@contextmanager
def with_store(folder: Path, config: dict[str, Any]) -> Iterator[Place]:
    with running(folder, {**config, "api_keys": None, "auth": {"enabled": True}}) as gateway:
        named = ("--config", str(gateway.config_path))
        leaving, staying = (ask_here(folder, "keys", "create", *named) for _ in range(2))
        revoke = partial(ask_here, folder, "keys", "revoke", leaving["id"], *named)
        yield Place(gateway, leaving["key"], staying["key"], revoke)


@pytest.mark.parametrize("kind", [with_file, with_redis, with_store], ids=["file", "redis", "store"])
async def test_a_revoked_key_ends_its_streams(sim: Sim, tmp_path: Path, kind: Kind) -> None:
    config = {"backends": [{"url": sim.url}], "health_check": {"enabled": False}}
    with kind(tmp_path / "gateway", config) as place:
        gateway = place.gateway
        begun: asyncio.Queue[None] = asyncio.Queue()
        leaving = [asyncio.ensure_future(follow(gateway, place.leaving, begun)) for _ in range(STREAMS)]
        staying = asyncio.ensure_future(follow(gateway, place.staying, begun))
        for _ in range(STREAMS + 1):
            await asyncio.wait_for(begun.get(), 10)
        await asyncio.to_thread(place.revoke)
        with within(WITHIN_S, "ending the streams"):
            async with asyncio.timeout(WITHIN_S + 5):
                ends = await asyncio.gather(*leaving)
        for data in ends:
            *_, last = data.strip().split(b"\n\n")
            error = json.loads(last.removeprefix(b"data: "))["error"]
            assert error["type"] == "authentication_error"
            assert b"[DONE]" not in data
        await eventually(lambda: sim.stats()["streams_open"] == 1, "the backend is told to stop")
        assert (await ask(gateway.port, request(chat(1), authorization=f"Bearer {place.leaving}"))).status == 401
        assert not staying.done(), "the streams of other keys go on"
        staying.cancel()
        await asyncio.gather(staying, return_exceptions=True)
        rows = until(
            lambda: (
                found
                if len(found := [row for row in gateway.usage_rows() if row["termination_reason"] == "cut"]) == STREAMS
                else []
            ),
            "they are on record",
        )
        for row in rows:
            (delivered,) = sim.control("GET", f"/_sim/account?request_id={row['request_id']}")
            assert delivered["ended"] == "aborted"
            assert abs(row["completion_tokens"] - delivered["completion_tokens"]) <= 2 + 1
