"""Several requests on one connection, and what happens to an answer when its client misbehaves or leaves."""

import asyncio
import socket
from typing import Any

import pytest

from tests.support.asgi_server import serving
from tests.support.scripted_server import until

GET = b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"
STREAM = b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n"


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def post(body: bytes, fields: bytes = b"") -> bytes:
    return b"POST /echo HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n%b" % (fields, len(body), body)


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(get("/wait/1") + get("/hello/2") + post(b"three") + get("/hello/4"))
        await until(lambda: site.app.dispatched == ["GET /wait/1"])
        await asyncio.sleep(0.02)
        assert len(site.app.dispatched) == 1  # one at a time
        site.app.go.set()
        assert [(await wire.answer()).body for _ in range(4)] == [b"/wait/1", b"/hello/2", b"three", b"/hello/4"]


async def test_a_request_is_the_same_however_the_network_cuts_it() -> None:
    request = post(b"hello", b"X-One: A\r\n").replace(b"/echo", b"/echo/a%20b?c=d")
    chunked = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked += b"2;x\r\nhe\r\n3\r\nllo\r\n0\r\nX: y\r\n\r\n"
    async with serving() as site:
        wire = await site.connect()
        for one in (request, chunked):
            for cut in range(1, len(one)):
                wire.say(one[:cut])
                await asyncio.sleep(0)
                wire.say(one[cut:])
                assert (await wire.answer()).body == b"hello"
            expected = site.app.scopes[-1]
            assert all(scope["headers"] == expected["headers"] for scope in site.app.scopes)
            assert {scope["query_string"] for scope in site.app.scopes} == {expected["query_string"]}
            site.app.scopes.clear()
        assert site.server.connection_count == 1


async def test_fields_behind_a_body_do_not_become_fields_of_any_request() -> None:
    async with serving() as site:
        wire = await site.connect()
        head = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        wire.say(head + b"1\r\nz\r\n0\r\nAuthorization: Bearer stolen\r\nHost: b\r\n\r\n" + GET)
        assert [(await wire.answer()).body for _ in range(2)] == [b"z", b"/hello"]
        assert [scope["headers"] for scope in site.app.scopes] == [
            [(b"host", b"a"), (b"transfer-encoding", b"chunked")],
            [(b"host", b"a")],
        ]


async def test_expect_is_answered_when_the_body_is_wanted() -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(post(b"", b"Expect: 100-Continue\r\n").replace(b"Length: 0", b"Length: 5"))
        assert (await wire.answer()).status == 100
        wire.say(b"hello")
        assert (await wire.answer()).body == b"hello"
        wire.say(post(b"again"))  # nobody asked this time
        assert (await wire.answer()).status == 200


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket"])
@pytest.mark.parametrize("packets", [1, 2])
async def test_a_wish_to_upgrade_is_passed_over_and_the_body_is_not(upgrade: bytes, packets: int) -> None:
    fields = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: " + upgrade + b"\r\nHTTP2-Settings: AAMAAABk\r\n"
    request = post(b"hello", fields)
    async with serving() as site:
        wire = await site.connect()
        cut = len(request) if packets == 1 else len(request) - 5
        wire.say(request[:cut])
        await asyncio.sleep(0.02)
        wire.say(request[cut:])
        answer = await wire.answer()
        assert (answer.status, answer.body) == (200, b"hello")
        wire.say(GET)
        assert (await wire.answer()).body == b"/hello"
        assert len(site.app.dispatched) == 2


async def test_a_request_behind_a_wish_to_upgrade_is_heard_once_and_one_behind_the_last_is_not() -> None:
    fields = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    async with serving() as site:
        wire = await site.connect()
        wire.say(post(b"hello", fields) + get("/hello/2"))
        assert [(await wire.answer()).body for _ in range(2)] == [b"hello", b"/hello/2"]
        wire.say(post(b"hello", fields.replace(b"Upgrade\r", b"Upgrade, close\r", 1)) + get("/hidden"))
        assert (await wire.answer()).body == b"hello"
        assert await wire.ended()
        assert site.app.dispatched == ["POST /echo", "GET /hello/2", "POST /echo"]


async def test_a_client_that_leaves_ends_the_work_for_it_at_once() -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(get("/wait/1") + get("/wait/2"))
        await until(lambda: site.server.running_count == 1)
        wire.close()
        await until(lambda: site.server.running_count == 0)
        assert site.app.cancelled == ["/wait/1"]
        assert site.app.dispatched == ["GET /wait/1"]  # the second was never begun


@pytest.mark.parametrize("size_bytes", [5, 300_000])
async def test_a_client_that_leaves_after_its_upload_is_noticed_whatever_its_size(size_bytes: int) -> None:
    async with serving() as site:
        wire = await site.connect()
        body = b"y" * size_bytes
        wire.say(post(body).replace(b"/echo", b"/wait_for/body"))
        await until(lambda: site.app.bodies == [body])
        wire.close()
        await until(lambda: site.app.cancelled == ["/wait_for/body"])


@pytest.mark.parametrize(
    ("nonsense", "status"),
    [
        (b"\x00\x01\x02\r\n\r\n", b"400 "),
        (b"GET / HTTP/9.9\r\n\r\n", b"400 "),
        (b"GET /hello HTTP/1.1\r\n\r\n", b"400 "),
        (b"GET /hello HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 5000, b"431 "),
    ],
)
async def test_nonsense_behind_a_request_waits_for_its_answer(nonsense: bytes, status: bytes) -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(STREAM)
        head = await wire.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        wire.say(nonsense)
        assert await wire.reader.readexactly(10) == b"5\r\nbegun\r\n"
        site.app.go.set()
        rest = await wire.rest()
        assert rest.startswith(b"5\r\nended\r\n0\r\n\r\nHTTP/1.1 " + status)
        assert rest.count(b"HTTP/1.1 ") == 1
        assert site.app.cancelled == []


async def test_a_request_is_never_answered_twice() -> None:
    async with serving(body_timeout_s=0.1) as site:
        # Answered before its body came; then the body stops, or turns out malformed.
        late = await site.connect()
        late.say(b"POST /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        broken = await site.connect()
        broken.say(b"POST /hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for wire in (late, broken):
            assert (await wire.answer()).status == 200
        broken.say(b"nonsense\r\n")
        assert [await wire.ended() for wire in (late, broken)] == [True, True]


async def test_nothing_is_read_after_the_last_request_of_a_connection() -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(GET.replace(b"Host", b"Connection: close\r\nHost") + get("/hidden"))
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await wire.ended()
        assert site.app.dispatched == ["GET /hello"]


async def test_a_large_upload_waits_for_an_application_that_does_not_read() -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(b"POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 67108864\r\n\r\n")
        await until(lambda: site.server.running_count == 1)
        connection: Any = site.server.table.guests[0]
        # The network in between holds little.
        for end, bound in ((wire.writer, socket.SO_SNDBUF), (connection.transport, socket.SO_RCVBUF)):
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, bound, 65536)
        for _ in range(64):
            wire.say(b"y" * (1 << 20))
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert wire.writer.transport.get_write_buffer_size() > 63 << 20


async def test_a_request_may_go_on_without_its_client() -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(get("/outlive"))
        await until(lambda: site.app.dispatched != [])
        wire.close()
        await until(lambda: site.server.connection_count == 0)
        assert site.server.running_count == 1
        site.app.go.set()
        await until(lambda: site.app.bodies == [b"done"])
        await until(lambda: site.server.running_count == 0)
        assert (site.app.asked, site.app.cancelled, site.app.written_bytes) == (1, [], 0)


async def test_one_that_goes_on_can_still_be_cancelled() -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(get("/outlive"))
        await until(lambda: site.app.dispatched != [])
        wire.close()
        await until(lambda: site.server.connection_count == 0)
        site.app.scopes[0]["zuebee.cancel"]()
        await until(lambda: site.app.cancelled == ["/outlive"])
        await until(lambda: site.server.running_count == 0)


async def test_who_does_not_want_to_go_on_is_cancelled() -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(get("/outlive/no") + get("/hello"))
        await until(lambda: site.app.dispatched != [])
        wire.close()
        await until(lambda: site.app.cancelled == ["/outlive/no"])
        assert (site.app.asked, site.server.running_count) == (1, 0)
        assert site.app.dispatched == ["GET /outlive/no"]


async def test_one_that_goes_on_starts_nothing_that_waited_behind_it() -> None:
    async with serving() as site:
        wire = await site.connect()
        wire.say(get("/outlive") + get("/hello"))
        await until(lambda: site.app.dispatched != [])
        await asyncio.sleep(0.02)
        wire.close()
        await until(lambda: site.server.connection_count == 0)
        site.app.go.set()
        await until(lambda: site.server.running_count == 0)
        assert site.app.dispatched == ["GET /outlive"]
