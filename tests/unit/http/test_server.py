"""The life of a listener: start, drain, stop; and TLS."""

import asyncio
import ssl
from unittest import mock

import pytest

from tests.support.asgi_server import LIMITS, App, render_error, serving
from tests.support.certificates import client_context, server_context
from tests.support.scripted_server import until
from zuebee.http import server
from zuebee.http.server import HttpServer

GET = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"


async def test_a_port_that_is_taken_is_an_error_of_the_system() -> None:
    async with serving() as site:
        other = HttpServer(App(), limits=LIMITS, keep_alive_s=1, render_error=render_error)
        with pytest.raises(OSError, match="address"):
            await other.start("127.0.0.1", site.port)
        await other.close()


async def test_draining_ends_connections_with_their_answers_and_still_takes_new_ones() -> None:
    async with serving() as site:
        idle, busy = await site.connect(), await site.connect()
        idle.say(GET)
        assert "connection" not in (await idle.answer()).headers
        busy.say(WAIT)
        await until(lambda: site.server.running_count == 1)
        site.server.begin_drain()
        site.app.go.set()
        for wire, request in ((busy, b""), (idle, GET), (await site.connect(), GET)):
            wire.say(request)
            answer = await wire.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await wire.ended()


async def test_stopping_refuses_new_connections_closes_idle_ones_and_lets_answers_finish() -> None:
    async with serving() as site:
        silent, idle, busy, streaming = [await site.connect() for _ in range(4)]
        idle.say(GET)
        await idle.answer()
        busy.say(WAIT)
        streaming.say(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: site.server.running_count == 2)
        await until(lambda: site.server.connection_count == 4)
        site.server.stop_accepting()
        assert [await wire.ended() for wire in (silent, idle)] == [True, True]
        with pytest.raises(ConnectionError):
            await site.connect()
        waiting = asyncio.ensure_future(site.server.wait_idle(5, asyncio.Event()))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        site.app.go.set()
        assert await waiting
        assert ((await busy.answer()).body, (await streaming.answer()).body) == (b"/wait", b"begunended")
        assert [await wire.ended() for wire in (busy, streaming)] == [True, True]


async def test_waiting_ends_at_its_time_or_when_hurried() -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(WAIT)
        await until(lambda: site.server.running_count == 1)
        assert not await site.server.wait_idle(0.05, asyncio.Event())
        hurry = asyncio.Event()
        waiting = asyncio.ensure_future(site.server.wait_idle(60, hurry))
        await asyncio.sleep(0.05)
        hurry.set()
        assert not await waiting


async def test_waiting_covers_what_was_answered_and_not_yet_sent() -> None:
    async with serving() as site:
        wire = await site.connect(limit_bytes=1024)
        wire.say(b"GET /large/16000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await until(lambda: bool(site.app.dispatched) and site.server.running_count == 0)
        assert not await site.server.wait_idle(0.05, asyncio.Event())
        waiting = asyncio.ensure_future(site.server.wait_idle(5, asyncio.Event()))
        assert len((await wire.answer()).body) == 16_000_000
        assert await waiting


async def test_closing_cuts_what_still_runs() -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(WAIT)
        await until(lambda: site.server.running_count == 1)
        await site.server.close()
        assert await wire.ended()
        assert (site.app.cancelled, site.server.running_count) == (["/wait"], 0)


async def test_the_memory_of_a_crowd_is_given_back_once_it_has_gone() -> None:
    with mock.patch.object(server, "give_back") as give_back:
        async with serving(crowd=8) as site:
            wires = [await site.connect() for _ in range(10)]
            await until(lambda: site.server.connection_count == 10)
            await asyncio.sleep(0.05)
            assert give_back.call_count == 0
            for wire in wires:
                wire.close()
            await until(lambda: give_back.call_count == 1)
            await asyncio.sleep(0.1)
            assert give_back.call_count == 1


async def test_tls_is_served_and_the_scheme_is_told() -> None:
    async with serving(tls=server_context("127.0.0.1")) as site:
        wire = await site.connect(client_context())
        for _ in range(2):
            wire.say(GET)
            assert (await wire.answer()).status == 200
        assert site.app.scopes[0]["scheme"] == "https"
        with pytest.raises(ssl.SSLCertVerificationError):
            await site.connect(ssl.create_default_context())
        plain = await site.connect()
        plain.say(GET)
        assert not (await plain.rest()).startswith(b"HTTP")
        assert len(site.app.dispatched) == 2
