"""Every wait has its own deadline, and a reader may ask to be woken by silence."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.client_pool import GET, answer_of, exchange, failure_of, make_pool, read_all, send
from tests.support.scripted_server import Peer, scripted, until
from zuebee.http.pool import HttpFailure, Timeouts

LENGTH = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
MARGIN_S = 1.0  # the machine may be busy


@contextmanager
def taking(seconds: float) -> Iterator[None]:
    """The block takes so long: no less, and not much more."""
    begin_s = time.monotonic()
    yield
    took_s = time.monotonic() - begin_s
    assert seconds - 0.005 <= took_s < seconds + MARGIN_S


@pytest.mark.requirement("A049")
@pytest.mark.parametrize(
    ("said", "timeouts", "kind", "seconds"),
    [
        (b"", Timeouts(0.1, 3, 3), "first_byte_timeout", 0.1),
        (b"HTTP/1.1 100 Continue\r\n\r\n", Timeouts(0.1, 3, 3), "first_byte_timeout", 0.1),
        # The head alone is no byte of the answer that anybody waits for.
        (LENGTH, Timeouts(0.1, 3, 3), "first_byte_timeout", 0.1),
        (LENGTH + b"hell", Timeouts(3, 0.1, 3), "idle_timeout", 0.1),
        (CHUNKED + b"5\r\nhello\r\n", Timeouts(3, 0.1, 3), "idle_timeout", 0.1),
        (b"", Timeouts(3, 3, 0.1), "total_timeout", 0.1),
        (LENGTH + b"hell", Timeouts(3, 3, 0.1), "total_timeout", 0.1),
    ],
)
async def test_silence_is_cut_by_the_deadline_it_breaks(
    said: bytes, timeouts: Timeouts, kind: str, seconds: float
) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(said)
        await peer.gone()

    async with scripted(play) as server:
        pool = make_pool(server)
        with taking(seconds):
            failure = await failure_of(pool, timeouts=timeouts)
        assert (failure.kind, failure.sent, pool.in_use) == (kind, True, 0)
        await until(lambda: server.open == 0)  # cut at once, on the server's side as well


@pytest.mark.slow
@pytest.mark.requirement("A049")
async def test_a_drip_keeps_the_idle_deadline_away_but_not_the_total_one() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await peer.say(b"y")
            await asyncio.sleep(0.02)

    async with scripted(play) as server:
        with taking(0.4):
            failure = await failure_of(make_pool(server), timeouts=Timeouts(0.3, 0.3, 0.4))
        assert failure.kind == "total_timeout"


@pytest.mark.slow
async def test_deadlines_of_one_exchange_do_not_strike_the_next() -> None:
    async def play(peer: Peer) -> None:
        for pause_s in (0.0, 0.25, 0.0, 0.25):
            await peer.request()
            await asyncio.sleep(pause_s)
            await peer.answer()

    async with scripted(play) as server:
        pool = make_pool(server)
        for first_byte_s in (0.2, 5, 0.2, 5):
            outcome = await exchange(pool, GET, timeouts=Timeouts(first_byte_s, 0.2, 5))
            assert not isinstance(outcome, HttpFailure), outcome
        assert server.connections == 1
        pool.close()


async def test_a_kept_connection_still_has_deadlines() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.request()
        await peer.gone()

    async with scripted(play) as server:
        pool = make_pool(server)
        await answer_of(pool)
        with taking(0.1):
            failure = await failure_of(pool, timeouts=Timeouts(0.1, 3, 3))
        assert (failure.kind, server.connections) == ("first_byte_timeout", 1)


async def test_a_reader_is_woken_by_silence_and_loses_nothing() -> None:
    speak = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(LENGTH)
        await speak.wait()
        await peer.say(b"hello")

    async with scripted(play) as server:
        pool = make_pool(server)
        connection = await send(pool)
        for _ in range(2):
            with taking(0.05):
                assert await connection.read(quiet_s=0.05) is None
        speak.set()
        assert await connection.read(quiet_s=5) == b"hello"
        assert await connection.read(quiet_s=5) == b""
        connection.finish()
        pool.close()


async def test_framing_without_content_is_no_silence() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(CHUNKED)
        await asyncio.sleep(0.05)
        await peer.say(b"5;")
        await asyncio.sleep(0.05)
        await peer.say(b"x=y\r\n")
        await asyncio.sleep(0.05)
        await peer.say(b"hello\r\n0\r\n\r\n")

    async with scripted(play) as server:
        connection = await send(make_pool(server))
        # Each part wakes the reader; none of them means that nothing came.
        assert await connection.read(quiet_s=3) == b"hello"
        connection.finish()


async def test_silence_does_not_put_off_the_deadline() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(LENGTH + b"hell")
        await peer.gone()

    async with scripted(play) as server:
        connection = await send(make_pool(server), timeouts=Timeouts(5, 0.2, 5))
        assert await connection.read() == b"hell"
        wakes = 0

        async def count() -> None:
            nonlocal wakes
            while await connection.read(quiet_s=0.03) is None:
                wakes += 1

        with pytest.raises(HttpFailure) as failed:
            await count()
        assert failed.value.kind == "idle_timeout"
        assert 1 <= wakes <= 7
        connection.finish()


async def test_what_came_before_the_failure_is_read_before_it_is_raised() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(LENGTH + b"hell")

    async with scripted(play) as server:
        connection = await send(make_pool(server))
        await until(lambda: server.open == 0)
        await asyncio.sleep(0.02)
        assert await connection.read() == b"hell"
        with pytest.raises(HttpFailure, match="closed"):
            await read_all(connection)
        connection.finish()
