"""How answers are framed and parsed, on real sockets."""

import asyncio

import pytest

from tests.support.client_pool import GET, HEAD, Answer, answer_of, exchange, failure_of, make_pool, read_all, send
from tests.support.scripted_server import Peer, Play, scripted
from zuebee.http.client import HIGH_WATER_BYTES, MAX_HEADER_BYTES, MAX_HEADERS, MAX_INTERIM
from zuebee.http.pool import HttpFailure, Timeouts

DATED = b"HTTP/1.1 200 OK\r\ndate: %b\r\ncontent-length: %d\r\nx-one: 1\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"


def saying(*parts: bytes, then_close: bool = False) -> Play:
    """Answer each request with these bytes."""

    async def play(peer: Peer) -> None:
        while await peer.request():
            await peer.say(*parts)
            if then_close:
                return

    return play


@pytest.mark.parametrize(
    ("answer", "status", "body", "reused"),
    [
        (LENGTH + b"hello", 200, b"hello", True),
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", 200, b"hello", True),
        (CHUNKED + b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nx-sum: 1\r\n\r\n", 200, b"hello", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", 304, b"", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH + b"hello", 200, b"hello", True),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * MAX_INTERIM + LENGTH + b"hello", 200, b"hello", True),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\nretry-after: 1\r\n\r\nbusy", 503, b"busy", True),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello", 200, b"hello", False),
        # The answer is whole; what follows it belongs to nobody, and taints the connection.
        (LENGTH + b"hello" + LENGTH + b"other", 200, b"hello", False),
        (LENGTH + b"helloHTTP/1.1 2", 200, b"hello", False),
        (LENGTH + b"helloH", 200, b"hello", False),
        (LENGTH + b"hello\x00garbage", 200, b"hello", False),
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello", 204, b"", False),
    ],
)
async def test_an_answer_is_read_whole_and_the_connection_kept_only_if_it_ended_cleanly(
    answer: bytes, status: int, body: bytes, reused: bool
) -> None:
    async with scripted(saying(answer)) as server:
        pool = make_pool(server)
        for _ in range(2):
            got = await answer_of(pool)
            assert (got.status, got.body) == (status, body)
        assert server.connections == (1 if reused else 2)
        assert pool.in_use == 0
        pool.close()


async def test_a_close_delimited_body_ends_with_the_connection() -> None:
    async with scripted(saying(b"HTTP/1.1 200 OK\r\n\r\n", b"hel", b"lo", then_close=True)) as server:
        assert (await answer_of(make_pool(server))).body == b"hello"


async def test_a_close_delimited_body_cut_by_a_reset_is_not_taken_for_whole() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n\r\nhel")
        await asyncio.sleep(0.05)
        peer.reset()

    async with scripted(play) as server:
        assert (await failure_of(make_pool(server))).kind == "reset"


async def test_an_answer_to_head_has_no_body_whatever_its_length_says() -> None:
    async with scripted(saying(LENGTH)) as server:
        pool = make_pool(server)
        got = await answer_of(pool, HEAD, is_head=True)
        assert (got.status, got.body) == (200, b"")
        assert (b"content-length", b"5") in got.headers
        assert isinstance(await exchange(pool, timeouts=Timeouts(0.1, 0.1, 0.2)), HttpFailure)  # the positive control
        pool.close()


async def test_header_names_are_lowered_and_values_kept_and_trailers_left_out() -> None:
    head = b"HTTP/1.1 200 OK\r\nX-One: A b \r\nx-one: \r\nTransfer-Encoding: chunked\r\n\r\n"
    async with scripted(saying(head + b"0\r\nx-late: 1\r\n\r\n")) as server:
        pool = make_pool(server)
        assert (await answer_of(pool)).headers[:2] == [(b"x-one", b"A b "), (b"x-one", b"")]
        assert b"x-late" not in dict((await answer_of(pool)).headers)
        pool.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length : 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nx: a\x00b\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello",
        b"HTTP/1.1 20 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n",
        CHUNKED + b"5\nhello\n0\n\n",
        CHUNKED + b"ffffffffffffffff5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INTERIM + 1) + LENGTH + b"hello",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (MAX_HEADERS + 1) + b"content-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * (8 * MAX_HEADER_BYTES) + b"\r\ncontent-length: 0\r\n\r\n",
    ],
)
async def test_what_is_not_valid_is_refused_and_its_connection_closed(answer: bytes) -> None:
    async with scripted(saying(answer)) as server:
        pool = make_pool(server)
        failure = await failure_of(pool)
        assert (failure.kind, failure.sent) == ("malformed", True)
        await failure_of(pool)
        assert server.connections == 2
        assert pool.in_use == 0


async def test_headers_up_to_the_limits_are_taken() -> None:
    many = b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * (MAX_HEADERS - 1) + b"content-length: 0\r\n\r\n"
    large = b"HTTP/1.1 200 OK\r\nx: " + b"y" * (MAX_HEADER_BYTES - 100) + b"\r\ncontent-length: 0\r\n\r\n"
    for answer in (many, large):
        async with scripted(saying(answer)) as server:
            pool = make_pool(server)
            assert (await answer_of(pool)).status == 200
            pool.close()


@pytest.mark.parametrize("begun", [b"HTTP/1.1 200 OK\r\nx: ", CHUNKED + b"0\r\nx: ", CHUNKED + b"5;"])
async def test_a_line_without_end_is_cut_off_and_not_kept(begun: bytes) -> None:
    sent_bytes = 0

    async def play(peer: Peer) -> None:
        nonlocal sent_bytes
        await peer.request()
        await peer.say(begun)
        while sent_bytes < 64 << 20:
            await peer.say(b"y" * 65536)
            sent_bytes += 65536

    async with scripted(play) as server:
        assert (await failure_of(make_pool(server))).kind == "malformed"
        assert sent_bytes < 32 << 20


@pytest.mark.parametrize(
    "begun",
    [b"HTTP/1.1 200", LENGTH, LENGTH + b"hell", CHUNKED, CHUNKED + b"5\r\nhello\r\n", CHUNKED + b"5\r\nhello\r\n0\r\n"],
)
@pytest.mark.parametrize("end", ["end", "reset"])
async def test_an_answer_that_breaks_off_is_told_from_a_whole_one(begun: bytes, end: str) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(begun)
        await asyncio.sleep(0.02)
        if end == "reset":
            peer.reset()

    async with scripted(play) as server:
        pool = make_pool(server)
        failure = await failure_of(pool)
        assert failure.kind == ("reset" if end == "reset" else "truncated")
        assert (failure.sent, pool.in_use) == (True, 0)


async def test_an_answer_is_the_same_however_the_network_cuts_it() -> None:
    answers = [
        b"HTTP/1.1 100 Continue\r\n\r\n" + LENGTH + b"hello",
        CHUNKED + b"2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nx-sum: 1\r\n\r\n",
    ]
    for answer in answers:

        async def play(peer: Peer, answer: bytes = answer) -> None:
            for cut in range(1, len(answer)):
                await peer.request()
                await peer.say(answer[:cut])
                await asyncio.sleep(0.001)
                await peer.say(answer[cut:])

        async with scripted(play) as server:
            pool = make_pool(server)
            got = [await answer_of(pool) for _ in range(1, len(answer))]
            assert {(one.status, one.body, tuple(one.headers)) for one in got} == {
                (200, b"hello", tuple(got[0].headers))
            }
            assert server.connections == 1
            pool.close()


async def test_a_slow_reader_makes_the_server_wait_and_memory_stays_bounded() -> None:
    total_bytes, sent_bytes = 64 << 20, 0

    async def play(peer: Peer) -> None:
        nonlocal sent_bytes
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % total_bytes)
        while sent_bytes < total_bytes:
            await peer.say(b"y" * 262144)
            sent_bytes += 262144

    async with scripted(play) as server:
        pool = make_pool(server)
        connection = await send(pool, timeouts=Timeouts(5, 0.1, 8))
        # Three idle timeouts pass while data waits here: the server is not to blame.
        await asyncio.sleep(0.3)
        assert connection.buffered_bytes < 4 * HIGH_WATER_BYTES
        assert sent_bytes < total_bytes // 2
        received_bytes = 0
        while data := await connection.read():
            received_bytes += len(data)
            assert len(data) < 4 * HIGH_WATER_BYTES
        connection.finish()
        assert received_bytes == total_bytes
        pool.close()


@pytest.mark.parametrize("status", [b"000", b"001", b"099", b"600", b"700", b"999"])
async def test_a_status_that_http_does_not_know_is_malformed(status: bytes) -> None:
    async with scripted(saying(b"HTTP/1.1 %b X\r\ncontent-length: 5\r\n\r\nhello" % status)) as server:
        assert (await failure_of(make_pool(server))).kind == "malformed"


@pytest.mark.parametrize("status", [200, 226, 299, 418, 451, 499, 520, 529, 599])
async def test_a_status_that_nobody_named_is_as_good_as_any(status: int) -> None:
    async with scripted(saying(b"HTTP/1.1 %d\r\ncontent-length: 5\r\n\r\nhello" % status)) as server:
        assert (await answer_of(make_pool(server))).status == status


async def test_a_body_that_was_not_read_to_its_end_costs_the_connection() -> None:
    async with scripted(saying(LENGTH + b"hello")) as server:
        pool = make_pool(server)
        connection = await send(pool)
        connection.finish()
        connection.finish()  # twice is as good as once
        assert pool.in_use == 0
        assert (await answer_of(pool)).body == b"hello"
        assert server.connections == 2
        pool.close()


async def test_an_answer_before_the_request_was_sent_costs_the_connection() -> None:
    async def play(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.answer(b"too large", b"413 Content Too Large")
        await asyncio.sleep(0.2)  # the rest of the body stays in the network
        await peer.gone()

    async with scripted(play) as server:
        pool = make_pool(server)
        body = b"y" * (32 << 20)
        head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body)
        for _ in range(2):
            got = await exchange(pool, head, body)
            assert isinstance(got, Answer)
            assert got.status == 413
        assert server.connections == 2
        assert pool.in_use == 0


async def test_bytes_on_an_idle_connection_close_it() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await asyncio.sleep(0.02)
        await peer.say(LENGTH + b"trick")
        await peer.gone()

    async with scripted(play) as server:
        pool = make_pool(server)
        assert (await answer_of(pool)).body == b"ok"
        await asyncio.sleep(0.1)
        assert (await answer_of(pool)).body == b"ok"
        assert server.connections == 2
        pool.close()


async def test_read_goes_on_giving_the_end() -> None:
    async with scripted(saying(LENGTH + b"hello")) as server:
        connection = await send(make_pool(server), GET)
        assert await read_all(connection) == b"hello"
        assert await connection.read() == b""
        connection.finish()


async def test_answers_with_a_known_head_are_read_as_if_each_were_the_first() -> None:
    bodies = [b"a", b"b", b"a longer one", b"", b"a", b"x" * 3000]
    dates = [b"Mon, 02 Nov 2026 08:49:3%d GMT" % n for n in (1, 1, 2, 2, 3, 4)]
    left = [DATED % (date, len(body)) + body for date, body in zip(dates, bodies, strict=True)]

    async def play(peer: Peer) -> None:
        while await peer.request():
            await peer.say(left.pop(0))

    async with scripted(play) as server:
        pool = make_pool(server)
        attachments = []
        for body in bodies:
            connection = await send(pool)
            assert connection.status == 200
            assert dict(connection.headers)[b"content-length"] == b"%d" % len(body)
            attachments.append(connection.attachment)
            assert await read_all(connection) == body
            connection.finish()
        assert server.connections == 1
        assert attachments[0] is None
        assert attachments[1] is not None, "known by its head"
        assert all(each is attachments[1] for each in attachments[1:])
        pool.close()


@pytest.mark.parametrize("last", [LENGTH + b"helloH", LENGTH.replace(b": 5", b": 4") + b"hello", LENGTH * 2 + b"hello"])
async def test_more_than_an_answer_after_a_known_head_taints_the_connection(last: bytes) -> None:
    left = [LENGTH + b"hello"] * 3 + [last, LENGTH + b"again"]

    async def play(peer: Peer) -> None:
        while await peer.request():
            await peer.say(left.pop(0))

    async with scripted(play) as server:
        pool = make_pool(server)
        for _ in range(4):
            assert (await answer_of(pool)).status == 200
        assert (await answer_of(pool)).body == b"again"
        assert server.connections == 2
        pool.close()
