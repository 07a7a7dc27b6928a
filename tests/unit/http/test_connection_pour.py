"""A body handed on as it arrives, without a task being woken for each part."""

import asyncio
import time

import pytest

from tests.support.client_pool import answer_of, make_pool, send
from tests.support.scripted_server import Peer, Play, scripted, until
from zuebee.http.pool import HttpFailure, Timeouts

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def saying(*parts: bytes, pause_s: float = 0.01) -> Play:
    async def play(peer: Peer) -> None:
        while await peer.request():
            await peer.say(HEAD)
            for part in parts:
                await asyncio.sleep(pause_s)
                await peer.say(part)

    return play


async def test_every_part_is_handed_over_and_the_connection_kept() -> None:
    async with scripted(saying(chunk(b"one"), chunk(b"two"), chunk(b"three"), b"0\r\n\r\n")) as server:
        pool = make_pool(server)
        for _ in range(2):
            got: list[bytes] = []
            connection = await send(pool)
            assert await connection.pour(lambda data, got=got: not got.append(data)) is False  # type: ignore[misc]
            connection.finish()
            assert b"".join(got) == b"onetwothree"
            assert len(got) > 1
        assert (server.connections, pool.in_use) == (1, 0)
        pool.close()


async def test_whoever_takes_may_stop_and_go_on_without_a_loss() -> None:
    async with scripted(saying(chunk(b"one"), chunk(b"two"), chunk(b"three"), b"0\r\n\r\n")) as server:
        connection = await send(make_pool(server))
        got: list[bytes] = []

        def take_one(data: bytes) -> bool:
            got.append(data)
            return False

        while await connection.pour(take_one):
            before = len(got)
            await asyncio.sleep(0.02)
            assert len(got) == before  # nothing is handed over while nobody pours
        connection.finish()
        assert b"".join(got) == b"onetwothree"


async def test_silence_is_told_and_framing_is_no_silence() -> None:
    parts = (b"5;", b"x=y\r\n", b"hello", b"\r\n")
    async with scripted(saying(*parts, pause_s=0.03)) as server:
        connection = await send(make_pool(server))
        got: list[bytes] = []
        assert await connection.pour(lambda data: not got.append(data), quiet_s=0.15) is None
        assert got == [b"hello"]
        connection.finish()


async def test_a_stop_that_comes_with_the_end_loses_neither() -> None:
    async with scripted(saying(chunk(b"all") + b"0\r\n\r\n")) as server:
        pool = make_pool(server)
        connection = await send(pool)
        assert await connection.pour(lambda data: False) is True
        assert await connection.pour(lambda data: True) is False
        connection.finish()
        await answer_of(pool)
        assert server.connections == 1
        pool.close()


@pytest.mark.parametrize(
    ("parts", "kind"),
    [((chunk(b"one"), b"5\r\nhe"), "idle_timeout"), ((chunk(b"one"), b"nonsense\r\n"), "malformed")],
)
async def test_what_came_is_handed_over_before_the_failure_is_raised(parts: tuple[bytes, ...], kind: str) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(HEAD)
        for part in parts:
            await asyncio.sleep(0.01)
            await peer.say(part)
        await peer.gone()

    async with scripted(play) as server:
        pool = make_pool(server)
        connection = await send(pool, timeouts=Timeouts(5, 0.1, 5))
        got: list[bytes] = []
        begin_s = time.monotonic()
        with pytest.raises(HttpFailure) as failed:
            await connection.pour(lambda data: not got.append(data))
        assert time.monotonic() - begin_s < 2
        connection.finish()
        assert failed.value.kind == kind
        assert b"".join(got).startswith(b"one")
        assert pool.in_use == 0


@pytest.mark.slow
async def test_whoever_stopped_and_goes_on_has_heard_what_came_before() -> None:
    async with scripted(saying(chunk(b"one"), chunk(b"two"), b"0\r\n\r\n", pause_s=0.2)) as server:
        connection = await send(make_pool(server), timeouts=Timeouts(0.3, 5, 5))
        assert await connection.pour(lambda data: False) is True
        # The deadline of the first byte passes now; that byte came long ago.
        assert await connection.pour(lambda data: True) is False
        connection.finish()


async def test_a_cancelled_pour_closes_the_connection_and_takes_no_more() -> None:
    async with scripted(saying(*[chunk(b"y")] * 1000)) as server:
        pool = make_pool(server)
        connection = await send(pool)
        got: list[bytes] = []
        pouring = asyncio.ensure_future(connection.pour(lambda data: not got.append(data)))
        await until(lambda: len(got) > 2)
        pouring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pouring
        connection.finish()
        taken = len(got)
        await until(lambda: server.open == 0)
        assert (len(got), pool.in_use) == (taken, 0)


async def test_a_server_that_is_not_poured_from_has_to_wait() -> None:
    sent_bytes = 0

    async def play(peer: Peer) -> None:
        nonlocal sent_bytes
        await peer.request()
        await peer.say(HEAD)
        while sent_bytes < 64 << 20:
            await peer.say(chunk(b"y" * 262144))
            sent_bytes += 262144
        await peer.say(b"0\r\n\r\n")

    async with scripted(play) as server:
        connection = await send(make_pool(server))
        assert await connection.pour(lambda data: False) is True
        await asyncio.sleep(0.1)
        assert connection.buffered_bytes < 1 << 21
        assert sent_bytes < 32 << 20
        got_bytes = 0

        def take(data: bytes) -> bool:
            nonlocal got_bytes
            got_bytes += len(data)
            return True

        assert await connection.pour(take) is False
        connection.finish()
        assert got_bytes > 63 << 20
