"""An answer that is given before the request was read arrives, and the connection ends within bounds."""

import asyncio
import http.client
import ssl
import time

import pytest

from tests.support.asgi_server import REFUSED, serving
from tests.support.certificates import client_context, server_context
from tests.support.scripted_server import until

MARGIN_S = 1.5


def post(path: str, size: int, fields: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n" % (path.encode(), fields, size)


def upload(port: int, size: int, tls: ssl.SSLContext | None, fields: dict[str, str]) -> tuple[int, bytes]:
    """As Python's own client does it: the whole body goes out before the answer is looked at."""
    if tls is None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    else:
        client = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=tls)
    client.request("POST", "/refuse", b"y" * size, fields)
    answer = client.getresponse()
    body = answer.read()
    client.close()
    return answer.status, body


@pytest.mark.slow
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("size", [100, 300_000, 5_000_000, 40_000_000])
async def test_a_client_that_sends_all_before_it_listens_gets_the_answer(size: int, secure: bool) -> None:
    async with serving(tls=server_context("127.0.0.1") if secure else None) as site:
        for _ in range(5 if size < 10_000_000 else 1):
            got = await asyncio.to_thread(upload, site.port, size, client_context() if secure else None, {})
            assert got == (401, REFUSED)
        await until(lambda: site.server.connection_count == 0)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /echo HTTP/1.1\r\nContent-Length: 5000000\r\n\r\n", 400),
        (b"POST /%b HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n" % (b"x" * 5000), 414),
        (b"POST /echo HTTP/1.1\r\nHost: a\r\nX: %b\r\nContent-Length: 5000000\r\n\r\n" % (b"x" * 5000), 431),
        (b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: cow\r\n\r\n", 501),
        (b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n", 400),
    ],
    ids=["400", "414", "431", "501", "in the body"],
)
async def test_who_is_told_a_fault_while_sending_gets_the_answer(request_: bytes, status: int) -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(request_)
        await asyncio.sleep(0.05)  # the answer is given by now
        for _ in range(50):
            wire.say(b"y" * 100_000)
            await wire.writer.drain()
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert await wire.ended()
        wire.close()
        await until(lambda: site.server.connection_count == 0)


async def test_the_answer_is_there_before_the_body_and_the_client_may_stop_sending() -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(post("/refuse", 50_000_000) + b"y" * 1000)
        begin_s = time.monotonic()
        answer = await wire.answer()
        assert (answer.status, answer.body) == (401, REFUSED)
        assert await wire.ended()  # the server's direction only
        assert time.monotonic() - begin_s < MARGIN_S
        assert site.server.connection_count == 1
        wire.close()
        await until(lambda: site.server.connection_count == 0)


async def test_what_is_discarded_is_bounded() -> None:
    async with serving(max_discarded_bytes=1 << 20) as site:
        wire = await site.connect()
        wire.say(post("/refuse", 1 << 30))
        await wire.answer()
        sent = 0
        while site.server.connection_count and sent < 64 << 20:
            wire.say(b"y" * 65_536)
            sent += 65_536
            await asyncio.sleep(0)
        await until(lambda: site.server.connection_count == 0)
        assert sent < 64 << 20


@pytest.mark.slow
@pytest.mark.parametrize("talks", [False, True])
async def test_silence_and_time_are_bounded(talks: bool) -> None:
    async with serving(quiet_s=0.2, linger_s=0.6) as site:
        wire = await site.connect()
        wire.say(post("/refuse", 1 << 30))
        await wire.answer()
        begin_s = time.monotonic()
        while site.server.connection_count:
            if talks:
                wire.say(b"y")
            await asyncio.sleep(0.05)
        lasted_s = time.monotonic() - begin_s
        assert (0.5 if talks else 0.15) < lasted_s < (0.6 if talks else 0.2) + MARGIN_S


async def test_a_client_whose_body_was_read_is_closed_at_once() -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(post("/echo", 5, b"Connection: close\r\n") + b"hello")
        assert (await wire.answer()).body == b"hello"
        await until(lambda: site.server.connection_count == 0)


async def test_a_stop_waits_a_moment_for_those_who_have_not_taken_their_answer() -> None:
    async with serving(hurried_s=0.3) as site:
        taken, silent = await site.connect(), await site.connect()
        for wire in (taken, silent):
            wire.say(post("/refuse", 1 << 20))
        await until(lambda: len(site.app.dispatched) == 2)
        site.server.stop_accepting()
        begin_s = time.monotonic()
        assert (await taken.answer()).status == 401
        taken.close()
        assert await site.server.wait_idle(5, asyncio.Event())
        assert time.monotonic() - begin_s < 0.3 + MARGIN_S
        assert (await silent.answer()).status == 401


async def test_no_request_behind_an_early_answer_is_heard() -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(post("/refuse", 5) + b"hello" + b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await wire.answer()).status == 401
        assert await wire.ended()
        assert site.app.dispatched == ["POST /refuse"]
