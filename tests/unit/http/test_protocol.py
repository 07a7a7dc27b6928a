"""What a client may send, by when, and how it is told."""

import asyncio
import socket
import time

import pytest

from tests.support.asgi_server import LIMITS, serving
from tests.support.scripted_server import until

GET = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
MARGIN_S = 1.5  # the machine may be busy


async def test_requests_in_a_row_share_a_connection() -> None:
    async with serving() as site:
        wire = await site.connect()
        for _ in range(5):
            wire.say(GET)
            answer = await wire.answer()
            assert (answer.status, answer.body) == (200, b"/hello")
            assert "connection" not in answer.headers
        assert site.server.connection_count == 1
        assert site.server.running_count == 0


async def test_the_application_sees_what_was_sent() -> None:
    async with serving() as site:
        await site.ask(b"POST /a%20b?c=%20d HTTP/1.1\r\nHost: a\r\nX-One: A\r\nX-Two:\r\nContent-Length: 0\r\n\r\n")
        scope = site.app.scopes[0]
        assert (scope["method"], scope["path"], scope["raw_path"]) == ("POST", "/a b", b"/a%20b")
        assert (scope["query_string"], scope["scheme"], scope["http_version"]) == (b"c=%20d", "http", "1.1")
        assert scope["headers"] == [(b"host", b"a"), (b"x-one", b"A"), (b"x-two", b""), (b"content-length", b"0")]


# --- deadlines ---


@pytest.mark.slow
@pytest.mark.parametrize(
    "begun", [b"G", b"GET /hello HTTP/1.1\r\nHost: a\r\nX-Slow: ", b"\r\nGET /hello HTTP/1.1\r\nHost: a\r\n"]
)
async def test_headers_that_do_not_arrive_are_answered_408_and_cut(begun: bytes) -> None:
    async with serving(header_timeout_s=0.15) as site:
        begin_s = time.monotonic()
        wire = await site.connect()
        wire.say(begun)
        answer = await wire.answer()
        assert (answer.status, answer.body, answer.headers["connection"]) == (408, b"request_timeout", "close")
        assert await wire.ended()
        assert 0.14 < time.monotonic() - begin_s < 0.15 + MARGIN_S
        assert site.app.dispatched == []


async def test_a_drip_of_headers_does_not_put_off_the_deadline_and_others_are_served_meanwhile() -> None:
    async with serving(header_timeout_s=0.3) as site:
        begin_s = time.monotonic()
        wire = await site.connect()
        wire.say(b"GET /hello HTTP/1.1\r\nHost: a\r\n")
        answer = asyncio.ensure_future(wire.answer())
        while not answer.done():
            wire.say(b"X: y\r\n")
            assert (await site.ask(GET)).status == 200
            await asyncio.sleep(0.05)
        assert (await answer).status == 408
        assert time.monotonic() - begin_s < 0.3 + MARGIN_S


async def test_a_body_that_stops_is_answered_408_and_its_task_ends() -> None:
    async with serving(body_timeout_s=0.15) as site:
        wire = await site.connect()
        wire.say(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert await wire.ended()
        await until(lambda: site.server.running_count == 0)
        assert site.app.cancelled == ["/echo"]


async def test_a_body_that_keeps_the_minimum_rate_may_take_longer_than_one_that_does_not() -> None:
    async with serving(body_timeout_s=0.15, body_min_bytes_per_s=1000) as site:

        async def upload(step_bytes: int) -> int:
            wire = await site.connect()
            wire.say(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (10 * step_bytes))
            answer = asyncio.ensure_future(wire.answer())
            for _ in range(10):
                if not answer.done():
                    wire.say(b"y" * step_bytes)
                    await asyncio.sleep(0.03)
            return (await answer).status

        assert list(await asyncio.gather(upload(500), upload(1))) == [200, 408]


@pytest.mark.slow
@pytest.mark.parametrize("drips", [False, True], ids=["silence", "a drip"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_a_body_that_came_fast_buys_no_time_for_its_end(chunked: bool, drips: bool) -> None:
    size = 400_000
    framing = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: %d\r\n\r\n" % size
    async with serving(body_timeout_s=0.2, body_min_bytes_per_s=1000) as site:
        wire = await site.connect()
        wire.say(b"POST /echo HTTP/1.1\r\nHost: a\r\n" + framing)
        wire.say(b"%x\r\n" % size * chunked + b"y" * (size - 1000))
        begin_s = time.monotonic()
        answer = asyncio.ensure_future(wire.answer())
        while not answer.done():
            if drips:
                wire.say(b"y")
            await asyncio.sleep(0.02)
        assert (await answer).status == 408
        assert 0.19 < time.monotonic() - begin_s < 0.2 + MARGIN_S
        assert site.app.cancelled == ["/echo"]


@pytest.mark.slow
async def test_time_in_which_the_server_does_not_read_is_given_back() -> None:
    async with serving(body_timeout_s=0.3, body_min_bytes_per_s=1 << 30, header_timeout_s=0.3) as site:
        wire = await site.connect()
        body = b"y" * 1_000_000
        wire.say(b"POST /late_echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:-1])
        await asyncio.sleep(0.8)  # nobody reads it
        site.app.go.set()
        await asyncio.sleep(0.15)
        wire.say(body[-1:])
        assert (await wire.answer()).body == body


@pytest.mark.slow
async def test_who_waits_to_be_asked_for_the_body_is_not_late() -> None:
    async with serving(body_timeout_s=0.2) as site:
        wire = await site.connect()
        wire.say(b"POST /late_echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        await asyncio.sleep(0.5)
        site.app.go.set()
        assert (await wire.answer()).status == 100
        wire.say(b"hello")
        assert (await wire.answer()).body == b"hello"


async def test_a_connection_that_says_nothing_is_closed_without_a_word() -> None:
    async with serving(header_timeout_s=0.1, keep_alive_s=0.1) as site:
        fresh, used, empty = [await site.connect() for _ in range(3)]
        used.say(GET)
        assert (await used.answer()).status == 200
        empty.say(b"\r\n")
        assert [await wire.ended() for wire in (fresh, used, empty)] == [True, True, True]
        await until(lambda: site.server.connection_count == 0)


async def test_line_ends_are_no_sign_of_life() -> None:
    async with serving(keep_alive_s=0.2) as site:
        wire = await site.connect()
        wire.say(GET)
        await wire.answer()
        wire.say(b"\r\n")
        assert await wire.ended()


async def test_a_second_request_restarts_the_keep_alive_time() -> None:
    async with serving(keep_alive_s=0.2) as site:
        wire = await site.connect()
        for _ in range(4):
            wire.say(GET)
            assert (await wire.answer()).status == 200
            await asyncio.sleep(0.08)
        assert site.server.connection_count == 1


async def test_a_client_whose_upload_is_not_being_read_is_not_late() -> None:
    async with serving(body_timeout_s=0.1, header_timeout_s=0.1) as site:
        wire = await site.connect()
        body = b"y" * 300_000
        wire.say(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: len(site.app.dispatched) == 1)
        # The second waits behind the first; the server does not read its body yet.
        wire.say(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await asyncio.sleep(0.35)
        site.app.go.set()
        assert (await wire.answer()).body == b"/wait"
        assert (await wire.answer()).body == body


async def test_a_client_that_stops_reading_is_cut() -> None:
    async with serving(write_timeout_s=0.2) as site:
        wire = await site.connect(limit_bytes=1024)
        wire.say(b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: site.app.written_bytes > 0)
        await until(lambda: site.app.cancelled == ["/flood"])
        assert site.server.connection_count == 0
        assert site.app.written_bytes < 32 << 20


async def test_a_client_that_never_takes_the_end_of_its_answer_is_cut_too() -> None:
    async with serving(write_timeout_s=0.2, keep_alive_s=0.3) as site:
        wire = await site.connect(limit_bytes=1024)
        wire.say(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        await wire.answer()
        connection = next(iter(site.server.table.guests))
        transport = connection.transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        # What the network takes without a reader, and a rest too small to stop the application.
        stuck_bytes = 0
        while not stuck_bytes or stuck_bytes != transport.get_write_buffer_size():
            if not stuck_bytes:
                wire.say(b"GET /large/32768 HTTP/1.1\r\nHost: a\r\n\r\n")
            stuck_bytes = transport.get_write_buffer_size()
            await asyncio.sleep(0.03)
        # What the network does not take without a reader is too little to stop the application.
        assert 0 < stuck_bytes <= 1 << 16
        assert site.server.running_count == 0
        await until(lambda: site.server.connection_count == 0)


async def test_a_slow_reader_that_does_read_is_served() -> None:
    async with serving(write_timeout_s=0.3) as site:
        wire = await site.connect(limit_bytes=1024)
        wire.say(b"GET /large/8000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received_bytes = 0
        while data := await wire.reader.read(400_000):
            received_bytes += len(data)
            await asyncio.sleep(0.01)
        assert received_bytes > 8_000_000


# --- limits ---


def request(lines: bytes, target: bytes = b"/hello") -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (target, lines)


@pytest.mark.parametrize(
    ("refused", "accepted", "status", "code"),
    [
        (
            request(b"X: y\r\n" * LIMITS.max_headers),
            request(b"X: y\r\n" * (LIMITS.max_headers - 1)),
            431,
            b"headers_too_large",
        ),
        (
            request(b"X: " + b"y" * LIMITS.max_header_bytes + b"\r\n"),
            request(b"X: " + b"y" * (LIMITS.max_header_bytes - 100) + b"\r\n"),
            431,
            b"headers_too_large",
        ),
        (
            request(b"X" * LIMITS.max_header_bytes + b": y\r\n"),
            request(b"X" * (LIMITS.max_header_bytes - 100) + b": y\r\n"),
            431,
            b"headers_too_large",
        ),
        (
            request(b"", b"/" + b"y" * LIMITS.max_header_bytes),
            request(b"", b"/" + b"y" * (LIMITS.max_header_bytes - 100)),
            414,
            b"uri_too_long",
        ),
    ],
)
async def test_headers_and_targets_are_limited(refused: bytes, accepted: bytes, status: int, code: bytes) -> None:
    async with serving() as site:
        assert (await site.ask(accepted)).status == 200
        site.app.dispatched.clear()
        wire = await site.connect()
        wire.say(refused)
        answer = await wire.answer()
        assert (answer.status, answer.body, answer.headers["connection"]) == (status, code, "close")
        assert await wire.ended()
        assert site.app.dispatched == []


@pytest.mark.parametrize(
    ("begun", "status"),
    [
        (b"GET /hello HTTP/1.1\r\nHost: a\r\nX: ", 431),
        (b"GET /hello HTTP/1.1\r\nHost: a\r\nX", 431),
        (b"GET /hello", 414),
        (b"POST /wait HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", 431),
        (b"POST /wait HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;", 431),
    ],
)
async def test_a_line_without_end_is_refused_long_before_it_fills_the_memory(begun: bytes, status: int) -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(begun)
        answer = asyncio.ensure_future(wire.answer())
        for _ in range(8):
            if not answer.done():
                wire.say(b"y" * 1024)
                await asyncio.sleep(0.01)
        assert (await answer).status == status


async def test_a_long_body_in_small_chunks_is_no_long_line() -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(40):
            wire.say(b"1;x=y\r\nz\r\n" * 1000)
            await wire.writer.drain()
        wire.say(b"0\r\n\r\n")
        assert (await wire.answer()).body == b"z" * 40_000


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"Host: a\r\n", 200),
        (b"Host: a.example:8000\r\n", 200),
        (b"Host: [::1]:8000\r\n", 200),
        (b"host: \r\n", 200),
        (b"", 400),
        (b"Host: a\r\nHost: a\r\n", 400),
        (b"Host: a\r\nhost: b\r\n", 400),
        (b"Host: a b\r\n", 400),
        (b"Host: a/b\r\n", 400),
        (b"Host: me@a\r\n", 400),
        (b"Host: a:port\r\n", 400),
        (b"Host: a, b\r\n", 400),
        (b"Host: [::1\r\n", 400),
        (b"Host: a:123456\r\n", 400),
    ],
)
async def test_exactly_one_valid_host_is_wanted(lines: bytes, status: int) -> None:
    async with serving() as site:
        answer = await site.ask(b"GET /hello HTTP/1.1\r\n" + lines + b"\r\n")
        assert answer.status == status
        assert len(site.app.dispatched) == (status == 200)
        assert answer.body == (b"/hello" if status == 200 else b"invalid_host")


async def test_http_1_0_needs_no_host_and_ends_with_its_answer() -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(b"GET /hello HTTP/1.0\r\n\r\n")
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await wire.ended()


async def test_http_1_0_is_never_told_to_continue() -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(b"POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        await until(lambda: site.app.dispatched != [])
        await asyncio.sleep(0.02)
        wire.say(b"hello")
        assert (await wire.answer()).body == b"hello"
        assert await wire.ended()


async def test_connections_beyond_the_limit_are_closed_at_once() -> None:
    async with serving(max_connections=2) as site:
        first, second = await site.connect(), await site.connect()
        for wire in (first, second):
            wire.say(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: site.server.running_count == 2)
        assert await (await site.connect()).ended()
        second.close()
        await until(lambda: site.server.connection_count == 1)
        assert (await site.ask(GET)).status == 200
