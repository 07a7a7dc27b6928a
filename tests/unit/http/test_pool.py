"""The pool: which connection carries what, how often a request is sent, and that every one is counted back."""

import asyncio
import random

import pytest

from tests.support.client_pool import GET, LONG, Answer, answer_of, exchange, failure_of, make_pool, read_all, send
from tests.support.scripted_server import Peer, scripted, until
from zuebee.http.connect import Origin
from zuebee.http.pool import HttpFailure, HttpPool, Timeouts


async def polite(peer: Peer) -> None:
    while await peer.request():
        await peer.answer()


@pytest.mark.requirement("A145")
async def test_exchanges_in_a_row_share_one_connection() -> None:
    async with scripted(polite) as server:
        pool = make_pool(server)
        for _ in range(20):
            assert (await answer_of(pool)).body == b"ok"
        assert (server.connections, len(server.requests)) == (1, 20)
        pool.close()
        await until(lambda: server.open == 0)
        await answer_of(make_pool(server))
        assert server.connections == 2  # the positive control


@pytest.mark.requirement("A145")
async def test_exchanges_at_once_have_a_connection_each_and_share_them_later() -> None:
    async with scripted(polite) as server:
        pool = make_pool(server)
        for _ in range(3):
            await asyncio.gather(*(answer_of(pool) for _ in range(4)))
        assert (server.connections, pool.in_use) == (4, 0)
        pool.close()


async def test_a_request_beyond_the_limit_is_refused_unsent() -> None:
    async with scripted(polite) as server:
        pool = make_pool(server, max_connections=2)
        first, second = await send(pool), await send(pool)
        failure = await failure_of(pool)
        assert (failure.kind, failure.sent, pool.in_use) == ("overflow", False, 2)
        await read_all(first)
        first.finish()
        assert (await answer_of(pool)).body == b"ok"  # there is room again
        second.finish()
        assert (pool.in_use, server.connections) == (0, 2)
        pool.close()


async def test_idle_connections_beyond_the_limit_are_closed() -> None:
    async with scripted(polite) as server:
        pool = make_pool(server, max_idle=1)
        await asyncio.gather(*(answer_of(pool) for _ in range(3)))
        await until(lambda: server.open == 1)
        pool.close()
        await until(lambda: server.open == 0)


async def test_a_connection_that_idled_too_long_is_not_trusted() -> None:
    async with scripted(polite) as server:
        pool = make_pool(server, idle_limit_s=0.0)
        await answer_of(pool)
        await answer_of(pool)
        assert server.connections == 2
        pool.close()


async def test_a_closed_pool_closes_what_is_still_used_when_it_comes_back() -> None:
    async with scripted(polite) as server:
        pool = make_pool(server)
        connection = await send(pool)
        pool.close()
        assert await read_all(connection) == b"ok"
        connection.finish()
        await until(lambda: server.open == 0)
        assert pool.in_use == 0


async def test_an_idle_connection_that_the_server_closed_is_forgotten() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.answer()

    async with scripted(play) as server:
        pool = make_pool(server)
        for _ in range(3):
            await answer_of(pool)
            await until(lambda: server.open == 0)
            await asyncio.sleep(0.01)
        assert len(server.requests) == 3


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_kept_connection_that_dies_unanswered_costs_one_free_retry(how: str) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"%d" % peer.number)
        if peer.number == 0:
            await peer.request()  # taken from the network, never worked on
            if how == "reset":
                peer.reset()
            return
        await peer.gone()

    async with scripted(play) as server:
        pool = make_pool(server)
        assert (await answer_of(pool)).body == b"0"
        assert (await answer_of(pool)).body == b"1"
        assert (server.connections, pool.in_use) == (2, 0)
        pool.close()


async def test_the_retry_is_made_once_and_never_on_a_fresh_connection() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        if peer.number == 0:
            await peer.answer()
            await peer.request()

    async with scripted(play) as server:
        pool = make_pool(server)
        await answer_of(pool)
        failure = await failure_of(pool)
        assert (failure.kind, failure.sent, server.connections) == ("reset", True, 2)
        assert (await failure_of(pool)).kind == "reset"
        assert server.connections == 3
        assert pool.in_use == 0


@pytest.mark.parametrize("said", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\n\r", b"\x00"])
async def test_no_retry_once_the_server_has_spoken(said: bytes) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.request()
        await peer.say(said)

    async with scripted(play) as server:
        pool = make_pool(server)
        await answer_of(pool)
        assert (await failure_of(pool)).kind in ("truncated", "malformed")
        assert (server.connections, len(server.requests)) == (1, 2)


async def test_a_timeout_on_a_kept_connection_is_not_retried() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.gone()

    async with scripted(play) as server:
        pool = make_pool(server)
        await answer_of(pool)
        assert (await failure_of(pool, timeouts=Timeouts(0.05, 1, 1))).kind == "first_byte_timeout"
        assert server.connections == 1


async def test_a_request_that_was_sent_before_its_retry_failed_counts_as_sent() -> None:
    listening = True

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.request()

    async with scripted(play) as server:
        origin = Origin(f"http://127.0.0.1:{server.port}", timeout_s=5)

        class Door:
            async def connect(self, factory):  # type: ignore[no-untyped-def]
                if not listening:
                    raise ConnectionRefusedError("nobody listens")
                return await origin.connect(factory)

        pool = HttpPool(Door(), max_idle=4, max_connections=4)
        await answer_of(pool)
        listening = False
        failure = await failure_of(pool)
        assert (failure.kind, failure.sent) == ("connect", True)
        assert ((await failure_of(pool)).sent, pool.in_use) == (False, 0)  # nothing kept, nothing sent


@pytest.mark.parametrize("moment", ["before the head", "in the body"])
async def test_a_cancelled_exchange_closes_its_connection_at_once(moment: str) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        if moment == "in the body":
            await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe")
        await peer.gone()

    async with scripted(play) as server:
        pool = make_pool(server)
        task = asyncio.ensure_future(exchange(pool))
        await until(lambda: len(server.requests) == 1)
        await asyncio.sleep(0.02)
        assert (pool.in_use, server.open) == (1, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pool.in_use == 0
        await until(lambda: server.open == 0)


async def test_a_cancelled_connect_is_counted_back() -> None:
    class Nowhere:
        async def connect(self, factory):  # type: ignore[no-untyped-def]
            await asyncio.sleep(60)

    pool = HttpPool(Nowhere(), max_idle=1, max_connections=1)
    task = asyncio.ensure_future(exchange(pool))
    await until(lambda: pool.in_use == 1)
    assert (await failure_of(pool)).kind == "overflow"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.in_use == 0


async def misbehave(peer: Peer, dice: random.Random) -> None:
    while await peer.request():
        match dice.randrange(9):
            case 0:
                return
            case 1:
                peer.reset()
                return
            case 2:
                await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe")
                return
            case 3:
                await peer.say(b"nonsense\r\n\r\n")
            case 4:
                await peer.answer(extra=b"connection: close\r\n")
            case 5:
                await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe")
                await asyncio.sleep(0.2)
            case 6:
                await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200")
            case _:
                await peer.answer()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_every_connection_is_counted_back_whatever_happens(seed: int) -> None:
    dice = random.Random(seed)
    good = 0

    async def one(pool: HttpPool) -> None:
        nonlocal good
        await asyncio.sleep(dice.random() * 0.2)
        task = asyncio.ensure_future(exchange(pool, timeouts=Timeouts(0.1, 0.05, 0.3)))
        if dice.random() < 0.3:
            await asyncio.sleep(dice.random() * 0.02)
            task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        assert isinstance(outcome, Answer | HttpFailure | asyncio.CancelledError), outcome
        # Whatever another exchange met, an answer is one that a server gave to this request.
        if isinstance(outcome, Answer):
            good += 1
            assert (outcome.status, outcome.body) == (200, b"ok")
        assert 0 <= pool.in_use <= 8

    async with scripted(lambda peer: misbehave(peer, dice)) as server:
        pool = make_pool(server, max_idle=4, max_connections=8)
        await asyncio.gather(*(one(pool) for _ in range(80)))
        assert pool.in_use == 0
        assert good > 10
        pool.close()
        await until(lambda: server.open == 0)


class Told:
    """A request, as its sender knows it."""

    def __init__(self, *, doubts: int = 0, shared: bool = False) -> None:
        self.doubts = doubts
        self.shared = shared


async def one_answer(peer: Peer) -> None:
    await peer.request()
    if peer.number == 0:
        await peer.answer()
        await peer.request()


async def test_a_second_sending_is_told_and_there_is_no_third() -> None:
    async with scripted(one_answer) as server:
        pool, told = make_pool(server), Told()
        await answer_of(pool)
        with pytest.raises(HttpFailure) as caught:
            await pool.send(GET, b"", LONG, request=told)
        assert (caught.value.kind, told.doubts, len(server.requests)) == ("reset", 1, 3)


async def test_who_has_another_server_is_left_to_choose() -> None:
    async with scripted(one_answer) as server:
        pool, told = make_pool(server), Told(shared=True)
        await answer_of(pool)
        with pytest.raises(HttpFailure):
            await pool.send(GET, b"", LONG, request=told)
        assert (told.doubts, len(server.requests), server.connections) == (0, 2, 1)


async def test_a_request_in_doubt_goes_over_a_new_connection() -> None:
    async with scripted(polite) as server:
        pool = make_pool(server)
        await answer_of(pool)
        connection = await pool.send(GET, b"", LONG, request=Told(doubts=1))
        assert await read_all(connection) == b"ok"
        connection.finish()
        assert server.connections == 2
        pool.close()


async def test_a_kept_connection_that_ends_long_after_the_request_had_brought_it() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.request()
        await asyncio.sleep(0.2)

    async with scripted(play) as server:
        pool = make_pool(server, unseen_s=0.05)
        await answer_of(pool)
        assert (await failure_of(pool)).kind == "reset"
        assert (server.connections, len(server.requests)) == (1, 2)
