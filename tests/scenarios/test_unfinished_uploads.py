"""Uploads that stop before their end: counted by the limits before they are read, and bounded in memory."""

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import KEY, Gateway, Sim, running, simulated
from tests.support.promises import within
from tests.support.raw_http import chat, eventually, head, request, wire
from tests.support.redis_server import new_prefix, redis_server

OTHER = "sk-test-fedcba9876543210"
MIB = 1 << 20
HALF = b'{"model":"sim-small","messages":[{"role":"user","content":"'
ONE = {"rate_limit": {"per_key": {"max_concurrent": 1}}}


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim")) as process:
        yield process


@pytest.fixture(scope="module", params=["memory", "redis"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sim: Sim) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with ExitStack() as stack:
        more: dict[str, Any] = dict(ONE)
        if request.param == "redis":
            server = stack.enter_context(redis_server(folder))
            more = {
                "rate_limit": {**ONE["rate_limit"], "storage": "redis"},
                "redis": {"url": server.url, "prefix": new_prefix()},
            }
        yield stack.enter_context(running(folder / "gateway", config(sim, **more)))


def config(sim: Sim, **more: Any) -> dict[str, Any]:
    keys = [{"key": KEY, "name": "test"}, {"key": OTHER, "name": "other"}]
    return {"backends": [{"url": sim.url}], "health_check": {"enabled": False}, "api_keys": keys, **more}


def begun(size: int, key: str = KEY, *, chunked: bool = False) -> bytes:
    """The head of a request, and a piece of its body."""
    length = {"transfer_encoding": "chunked"} if chunked else {"content_length": str(size)}
    first = b"%x\r\n%b\r\n" % (len(HALF), HALF) if chunked else HALF
    return head(authorization=f"Bearer {key}", **length) + first


def small(key: str = KEY) -> bytes:
    return request(chat(1, stream=False), authorization=f"Bearer {key}")


async def status(gateway: Gateway, data: bytes) -> tuple[int, str]:
    async with wire(gateway.port) as client:
        answer = await client.ask(data)
        return answer.status, "" if answer.status == 200 else answer.error["code"]


REFUSED = (429, "concurrent_limit_exceeded")


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
async def test_an_upload_counts_before_it_is_read(place: Gateway, chunked: bool) -> None:
    async with wire(place.port) as slow:
        slow.send(begun(20 * MIB, chunked=chunked))
        await asyncio.sleep(0.3)
        assert await status(place, small()) == REFUSED
        assert await status(place, begun(20 * MIB)) == REFUSED
        assert await status(place, small(OTHER)) == (200, "")
    await eventually_free(place)


async def test_a_head_alone_counts(place: Gateway) -> None:
    async with wire(place.port) as slow:
        slow.send(head(content_length="1000"))
        await asyncio.sleep(0.3)
        assert await status(place, small()) == REFUSED
    await eventually_free(place)


async def test_its_place_becomes_that_of_the_request(place: Gateway) -> None:
    body = json.dumps(chat(20, stream=False, tokens_per_s=40)).encode()
    async with wire(place.port) as client:
        client.send(head(content_length=str(len(body))) + body[:10])
        await asyncio.sleep(0.3)
        client.send(body[10:])
        await asyncio.sleep(0.1)
        assert await status(place, small()) == REFUSED
        assert await client.read_head() == 200
    await eventually_free(place)


@pytest.mark.parametrize("seed", range(4))
async def test_every_end_gives_its_place_back(place: Gateway, seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(8):
        async with wire(place.port) as client:
            body = json.dumps(chat(2, stream=choose.random() < 0.5)).encode()
            how = choose.choice(["leaves", "resets", "no JSON", "too large", "ends", "ends", "leaves later"])
            if how == "no JSON":
                body = b"{" * len(body)
            if how == "too large":
                client.send(head(transfer_encoding="chunked") + b"2800000\r\n" + b"{" * (40 * MIB))
                assert await client.read_head() == 413
                continue
            client.send(head(content_length=str(len(body))) + body[:5])
            await asyncio.sleep(choose.choice((0, 0.06, 0.1)))
            if how.startswith("ends") or how == "no JSON":
                client.send(body[5:])
                assert await client.read_head() == (400 if how == "no JSON" else 200)
                async for _ in client.parts():
                    pass
            elif how == "leaves later":
                client.send(body[5:])
                await asyncio.sleep(choose.random() * 0.01)
            client.vanish(reset=how == "resets")
        await eventually_free(place)


async def eventually_free(gateway: Gateway) -> None:
    async with asyncio.timeout(10):
        while (found := await status(gateway, small())) != (200, ""):
            assert found == REFUSED, found
            await asyncio.sleep(0.02)


async def test_thirty_uploads_hold_a_bounded_amount(tmp_path: Path, sim: Sim) -> None:
    """No limit is set: what bounds them is the room for unfinished bodies, of which others have their part."""
    server = {"max_body_size": 8 * MIB, "max_unfinished_bodies": 64 * MIB}
    with running(tmp_path / "gateway", config(sim, server=server)) as gateway:
        assert await status(gateway, small()) == (200, "")
        base = gateway.resident_bytes
        async with AsyncExitStack() as stack:
            for number in range(30):
                client = await stack.enter_async_context(wire(gateway.port))
                client.send(begun(8 * MIB, chunked=number % 2 == 1))
                piece = b"a" * (8 * MIB - 1000)
                client.send(b"%x\r\n%b" % (8 * MIB - 100, piece) if number % 2 == 1 else piece)
            await eventually(lambda: room(gateway) == 16 * MIB, "a quarter is taken")
            await asyncio.sleep(1)
            assert room(gateway) == 16 * MIB
            assert gateway.resident_bytes - base < 2 * 8 * MIB + 64 * MIB
            large = json.dumps({**chat(1, stream=False), "padding": "p" * (7 * MIB)}).encode()
            for _ in range(3):
                with within(5.0, "an upload of another caller"):
                    assert await status(gateway, request(large, authorization=f"Bearer {OTHER}")) == (200, "")
        await eventually(lambda: room(gateway) == 0, "all room is given back")
        await eventually(lambda: gateway.resident_bytes - base < 40 * MIB, "memory comes back")


def room(gateway: Gateway) -> float:
    return gateway.metrics()["zuebee_unfinished_body_bytes"]


async def test_who_gets_no_room_in_time_is_told(tmp_path: Path, sim: Sim) -> None:
    server = {"max_body_size": MIB, "max_unfinished_bodies": 4 * MIB, "body_timeout": "3s"}
    with running(tmp_path / "gateway", config(sim, server=server)) as gateway:
        async with wire(gateway.port) as first, wire(gateway.port) as second:
            first.send(begun(MIB))

            async def go_on() -> None:
                while True:
                    first.send(b"a" * 1000)
                    await asyncio.sleep(0.2)

            going_on = asyncio.ensure_future(go_on())
            await asyncio.sleep(0.2)
            second.send(begun(MIB) + b"a" * (900 << 10))  # all that is taken: nobody may call it silent
            assert await second.read_head() == 503
            assert (second.headers["retry-after"], second.headers["x-should-retry"]) == ("1", "true")
            going_on.cancel()
