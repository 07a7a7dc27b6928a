"""Whose time it is that passes: the server's, or that of whoever reads its answer."""

import asyncio

import pytest

from tests.support.client_pool import make_pool, read_all, send
from tests.support.scripted_server import Peer, Play, scripted
from zuebee.http.pool import HttpFailure, Timeouts


def flooding(sizes: list[int], pause_s: float) -> Play:
    """Sends parts of these sizes, as fast as they are taken, with a pause before each but the first."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % sum(sizes))
        for n, size in enumerate(sizes):
            if n:
                await asyncio.sleep(pause_s)
            await peer.say(b"y" * size)
        await peer.gone()

    return play


@pytest.mark.slow
async def test_the_time_of_a_slow_reader_is_not_the_servers() -> None:
    async with scripted(flooding([16 << 20, 1], 0.15)) as server:
        pool = make_pool(server)
        connection = await send(pool, timeouts=Timeouts(5, 0.3, 0.8))
        received_bytes, reads = 0, 0
        while data := await connection.read():
            received_bytes += len(data)
            reads += 1
            if reads in (1, 5):
                await asyncio.sleep(0.39)  # more than idle, and more than all that the server has for its answer
        connection.finish()
        assert received_bytes == (16 << 20) + 1
        pool.close()


@pytest.mark.slow
async def test_a_reader_that_takes_nothing_is_to_blame_in_the_end() -> None:
    async with scripted(flooding([64 << 20], 0)) as server:
        connection = await send(make_pool(server), timeouts=Timeouts(5, 0.1, 0.3))
        await asyncio.sleep(1.5)
        with pytest.raises(HttpFailure) as caught:
            await read_all(connection)
        connection.finish()
        assert caught.value.kind == "reader_timeout"


@pytest.mark.slow
async def test_a_server_that_is_slow_itself_is_to_blame_whoever_reads() -> None:
    async with scripted(flooding([1 << 20, 1, 1, 1, 1, 1, 1, 1, 1], 0.2)) as server:
        connection = await send(make_pool(server), timeouts=Timeouts(5, 0.5, 0.7))
        await asyncio.sleep(0.3)
        with pytest.raises(HttpFailure) as caught:
            await read_all(connection)
        connection.finish()
        assert caught.value.kind == "total_timeout"
