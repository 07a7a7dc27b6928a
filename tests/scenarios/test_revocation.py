"""T10: a key that is revoked ends its open streams within five seconds, and what they cost stops with them."""

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import KEY, Gateway, Sim, running, simulated, until
from tests.support.raw_http import ask, chat, eventually, request, wire

LEAVING = "sk-leaving-7c1f0a92be44d3"
STREAMS = 5
WITHIN_S = 5.0


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[Sim]:
    with simulated(tmp_path / "sim") as process:
        yield process


def keys(*names: str) -> list[dict[str, str]]:
    return [{"key": key, "name": f"key {index}"} for index, key in enumerate(names)]


async def follow(gateway: Gateway, key: str, begun: asyncio.Queue[None]) -> tuple[bytes, float]:
    """All of a long stream, and when it ended."""
    async with wire(gateway.port) as client:
        client.send(request(chat(2000, tokens_per_s=20), authorization=f"Bearer {key}", connection="close"))
        assert await client.read_head() == 200
        data = b""
        async for part in client.parts():
            if not data:
                begun.put_nowait(None)
            data += part
        return data, time.monotonic()


async def test_a_revoked_key_ends_its_streams(sim: Sim, tmp_path: Path) -> None:
    config = {"backends": [{"url": sim.url}], "health_check": {"enabled": False}}
    with running(tmp_path / "gateway", {**config, "api_keys": keys(KEY, LEAVING)}) as gateway:
        begun: asyncio.Queue[None] = asyncio.Queue()
        leaving = [asyncio.ensure_future(follow(gateway, LEAVING, begun)) for _ in range(STREAMS)]
        staying = asyncio.ensure_future(follow(gateway, KEY, begun))
        for _ in range(STREAMS + 1):
            await asyncio.wait_for(begun.get(), 10)
        gateway.write_config({**config, "api_keys": keys(KEY)})
        gateway.send_signal(signal.SIGHUP)
        revoked_s = time.monotonic()
        async with asyncio.timeout(WITHIN_S + 5):
            ends = await asyncio.gather(*leaving)
        assert max(at_s for _, at_s in ends) - revoked_s < WITHIN_S
        for data, _ in ends:
            *_, last = data.strip().split(b"\n\n")
            error = json.loads(last.removeprefix(b"data: "))["error"]
            assert error["type"] == "authentication_error"
            assert b"[DONE]" not in data
        await eventually(lambda: sim.stats()["streams_open"] == 1, "the backend is told to stop")
        assert (await ask(gateway.port, request(chat(1), authorization=f"Bearer {LEAVING}"))).status == 401
        assert not staying.done(), "the streams of other keys go on"
        staying.cancel()
        await asyncio.gather(staying, return_exceptions=True)
        rows = until(
            lambda: (
                found
                if len(found := [row for row in gateway.usage_rows() if row["ending"] == "cut"]) == STREAMS
                else []
            ),
            "they are on record",
        )
        for row in rows:
            (delivered,) = sim.control("GET", f"/_sim/account?request_id={row['request_id']}")
            assert delivered["ended"] == "aborted"
            assert abs(row["completion_tokens"] - delivered["completion_tokens"]) <= 2 + 1
