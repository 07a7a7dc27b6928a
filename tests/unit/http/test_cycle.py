"""How answers look on the wire."""

import asyncio
import logging
from typing import Any

import pytest

from tests.support.asgi_server import serving


async def test_an_answer_of_unknown_length_is_chunked_and_leaves_the_connection_open() -> None:
    async with serving() as site:
        wire = await site.connect()
        for _ in range(2):
            site.app.go.clear()
            wire.say(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
            head = await wire.reader.readuntil(b"\r\n\r\n")
            assert b"transfer-encoding: chunked\r\n" in head
            assert await wire.reader.readexactly(10) == b"5\r\nbegun\r\n"
            site.app.go.set()
            assert await wire.reader.readexactly(15) == b"5\r\nended\r\n0\r\n\r\n"


async def test_an_old_client_gets_no_chunks_but_the_end_of_the_connection() -> None:
    async with serving() as site:
        site.app.go.set()
        answer = await site.ask(b"GET /stream HTTP/1.0\r\n\r\n")
        assert "transfer-encoding" not in answer.headers
        assert (answer.body, answer.headers["connection"]) == (b"begunended", "close")


async def test_an_answer_to_head_is_a_head() -> None:
    async with serving() as site:
        wire = await site.connect()
        for path in (b"/hello", b"/stream"):
            site.app.go.set()
            wire.say(b"HEAD " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await wire.answer(to_head=True)).status == 200
        wire.say(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await wire.answer()).body == b"/hello"


async def test_every_answer_has_a_date() -> None:
    async with serving() as site:
        assert (await site.ask(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")).headers["date"].endswith(" GMT")


@pytest.mark.parametrize(("path", "begun"), [(b"/crash", b""), (b"/crash_late", b"5\r\nbegun\r\n")])
async def test_a_broken_application_ends_the_connection_and_not_the_server(
    path: bytes, begun: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as site:
        wire = await site.connect()
        with caplog.at_level(logging.ERROR):
            wire.say(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await wire.rest()).partition(b"\r\n\r\n")[2] == begun
        assert "the application is broken" in caplog.text
        assert (await site.ask(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")).status == 200


@pytest.mark.parametrize("field", [(b"x-evil", b"a\r\nset-cookie: b"), (b"x\n", b"a"), (b"x", b"a\r")])
async def test_a_line_break_in_a_field_is_never_sent(field: tuple[bytes, bytes]) -> None:
    async with serving() as site:

        async def do_evil(scope: dict[str, Any], receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [field]})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        site.app.do_evil = do_evil  # type: ignore[attr-defined]
        wire = await site.connect()
        wire.say(b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await wire.ended()


async def test_a_stream_waits_for_its_client() -> None:
    async with serving() as site:
        wire = await site.connect(limit_bytes=1024)
        wire.say(b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(0.1)
        before_bytes = site.app.written_bytes
        await asyncio.sleep(0.1)
        assert 0 < before_bytes == site.app.written_bytes
        for _ in range(200):
            await wire.reader.read(1 << 20)
        assert site.app.written_bytes > before_bytes
