"""Requests that come several at once, whole or in parts, good or bad: each is answered once, in its turn."""

import asyncio
import random
import time
from typing import NamedTuple

import pytest

from tests.support.asgi_server import LIMITS, Site, Wire, serving
from tests.support.scripted_server import until

TINY = b"GET /t HTTP/1.1\r\nHost:\r\n\r\n"


class Said(NamedTuple):
    """What a client says, the status and body that answer it, and whether the connection ends with that."""

    data: bytes
    status: int
    body: bytes
    ends: bool = False


def _get(choose: random.Random, n: int) -> Said:
    path = b"/hello/%d" % n
    extra = b"".join(b"X-%d: %b\r\n" % (i, b"y" * choose.randrange(40)) for i in range(choose.randrange(4)))
    return Said(b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (path, extra), 200, path)


def _body(choose: random.Random) -> bytes:
    parts = [b"y", b"\r\n", b"\r\n\r\n", TINY, b"0\r\n\r\n", b"\r", b"\n", b"z" * choose.choice([1, 300, 20_000])]
    return b"".join(choose.choices(parts, k=choose.randrange(12)))


def _post(choose: random.Random, n: int) -> Said:
    body = _body(choose)
    return Said(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body), 200, body)


def _chunked(choose: random.Random, n: int) -> Said:
    body, wire, at = _body(choose), b"", 0
    while at < len(body):
        part = body[at : at + choose.choice([1, 2, 3, 7, 100, 9000])][: len(body) - at]
        wire += b"%x%b\r\n%b\r\n" % (len(part), choose.choice([b"", b";a=b"]), part)
        at += len(part)
        if len(wire) > 30_000:
            body = body[:at]
    trailer = choose.choice([b"", b"X-After: b\r\n"])
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    return Said(head + wire + b"0\r\n" + trailer + b"\r\n", 200, body)


def _blank(choose: random.Random, n: int) -> Said:
    said = _get(choose, n)
    return said._replace(data=b"\r\n" * choose.randrange(1, 4) + said.data)


def _upgrading(choose: random.Random, n: int) -> Said:
    said = _post(choose, n)
    return said._replace(
        data=said.data.replace(b"Host: a\r\n", b"Host: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n", 1)
    )


def _last(choose: random.Random, n: int) -> Said:
    said = choose.choice([_get, _post])(choose, n)
    if choose.random() < 0.5:
        return said._replace(data=said.data.replace(b"HTTP/1.1", b"HTTP/1.0", 1), ends=True)
    return said._replace(data=said.data.replace(b"Host: a\r\n", b"Host: a\r\nConnection: close\r\n", 1), ends=True)


_BAD = [
    Said(b"\x00\x01\x02\r\n\r\n", 400, b"invalid_http", True),
    Said(b"GET /x HTTP/1.1\r\n\r\n", 400, b"invalid_host", True),
    Said(b"GET /x HTTP/1.1\r\nHost: a b\r\n\r\n", 400, b"invalid_host", True),
    Said(b"GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400, b"invalid_http", True),
    Said(b"GET /x HTTP/1.1\r\nHost: a\r\n X: folded\r\n\r\n", 400, b"invalid_http", True),
    Said(
        b"GET /x HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * LIMITS.max_headers + b"\r\n", 431, b"headers_too_large", True
    ),
    Said(b"GET /x HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 5000 + b"\r\n\r\n", 431, b"headers_too_large", True),
    Said(b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, b"uri_too_long", True),
    Said(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello", 400, b"invalid_http", True),
    Said(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, b"invalid_http", True),
    Said(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 400, b"invalid_target", True),
    Said(b"GET /x\r\n\r\n", 505, b"unsupported_http_version", True),
]


def _bad(choose: random.Random, n: int) -> Said:
    return choose.choice(_BAD)


_KINDS = (_get, _get, _get, _post, _post, _chunked, _chunked, _blank, _upgrading, _last, _bad)


def _pipeline(choose: random.Random) -> list[Said]:
    return [choose.choice(_KINDS)(choose, n) for n in range(choose.randrange(1, 25))]


async def _send(wire: Wire, data: bytes, choose: random.Random) -> None:
    """In pieces of any size, with and without a moment between them."""
    sizes = choose.choice([(1 << 20,), (1, 2, 3, 5, 50), (100, 5000), (16_384, 65_536)])
    at = 0
    while at < len(data) and not wire.writer.is_closing():  # it is where the server has parted from us
        size = choose.choice(sizes) if at < 20_000 else 1 << 20
        wire.say(data[at : at + size])
        at += size
        if choose.random() < 0.3:
            await asyncio.sleep(choose.choice([0, 0, 0.001]))


async def _play(site: Site, pipeline: list[Said], choose: random.Random) -> None:
    wire = await site.connect()
    expected = pipeline[: next((n + 1 for n, said in enumerate(pipeline) if said.ends), len(pipeline))]
    sending = asyncio.ensure_future(_send(wire, b"".join(said.data for said in pipeline), choose))
    for n, said in enumerate(expected):
        answer = await wire.answer()
        assert (answer.status, answer.body) == (said.status, said.body), f"answer {n}"
    await sending
    if expected[-1].ends:
        assert await wire.ended()
    wire.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
async def test_random_pipelines_are_answered_as_one_request_after_the_other(seed: int) -> None:
    choose = random.Random(seed)
    async with serving(max_header_bytes=4096) as site:
        for _ in range(40):
            await _play(site, _pipeline(choose), choose)
        await until(lambda: site.server.connection_count == 0)
        assert (site.server.running_count, site.app.cancelled) == (0, [])


@pytest.mark.slow
@pytest.mark.parametrize("cut", [10, 30, len(TINY) - 1])
async def test_a_request_whose_head_comes_in_two_parts_is_not_idle_while_it_runs(cut: int) -> None:
    async with serving(keep_alive_s=0.1) as site:
        wire = await site.connect()
        second = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"
        wire.say(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n" + second[:cut])
        await until(lambda: site.app.dispatched != [])
        site.app.go.set()
        assert (await wire.answer()).body == b"begunended"
        site.app.go.clear()
        wire.say(second[cut:])
        await until(lambda: site.app.dispatched[1:] == ["GET /wait"])
        await asyncio.sleep(0.25)
        site.app.go.set()
        assert (await wire.answer()).body == b"/wait"


@pytest.mark.slow
async def test_the_body_of_a_request_that_is_answered_already_is_no_idle_time() -> None:
    async with serving(keep_alive_s=0.15, body_min_bytes_per_s=10) as site:
        wire = await site.connect()
        wire.say(b"GET /hello HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        assert (await wire.answer()).status == 200
        for _ in range(10):
            await asyncio.sleep(0.04)
            wire.say(b"y")
        wire.say(TINY)
        assert (await wire.answer()).body == b"/t"


async def _longest_wait_s(done: asyncio.Event) -> float:
    """The longest work of the event loop for which anybody had to wait, in processor time: others may have the core."""
    longest_s = 0.0
    while not done.is_set():
        begin_s = time.thread_time()
        await asyncio.sleep(0)
        longest_s = max(longest_s, time.thread_time() - begin_s)
    return longest_s


@pytest.mark.alone
@pytest.mark.parametrize(
    "data",
    [
        TINY * 40_000,
        b"GET /large/4000 HTTP/1.1\r\nHost: a\r\n\r\n" * 20_000,
        b"\r\n" * 2000 + TINY,
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nz\r\n" * 300_000,
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"4\r\n\r\n\r\n\r\n" * 200_000,
    ],
    ids=["tiny", "answers", "line ends", "small chunks", "empty lines in chunks"],
)
@pytest.mark.usefixtures("heap_apart")
async def test_no_connection_holds_the_loop(data: bytes) -> None:
    async with serving(body_min_bytes_per_s=1, write_timeout_s=0.5) as site:
        wire = await site.connect(limit_bytes=1024)
        done = asyncio.Event()
        waiting = asyncio.ensure_future(_longest_wait_s(done))
        for at in range(0, len(data), 1 << 18):
            wire.say(data[at : at + (1 << 18)])
            await asyncio.sleep(0)
        await asyncio.sleep(0.4)
        done.set()
        assert await waiting < 0.15


async def test_who_does_not_take_the_answers_is_not_worked_for_and_cut() -> None:
    async with serving(write_timeout_s=0.3) as site:
        wire = await site.connect(limit_bytes=1024)
        wire.say(b"GET /large/100000 HTTP/1.1\r\nHost: a\r\n\r\n" * 5000)
        await until(lambda: len(site.app.dispatched) > 3)
        await asyncio.sleep(0.1)
        begun = len(site.app.dispatched)
        [connection] = site.server.table.guests
        assert begun < 200
        assert connection.transport.get_write_buffer_size() < 200_000
        assert connection.held_bytes < 1 << 19
        await asyncio.sleep(0.1)
        assert len(site.app.dispatched) == begun
        await until(lambda: site.server.connection_count == 0)
        assert len(site.app.dispatched) == begun


async def test_who_takes_the_answers_late_gets_them_all() -> None:
    async with serving(write_timeout_s=2) as site:
        wire = await site.connect(limit_bytes=1024)
        for n in range(300):
            wire.say(b"GET /large/%d HTTP/1.1\r\nHost: a\r\n\r\n" % (30_000 + n))
        await asyncio.sleep(0.2)
        assert len(site.app.dispatched) < 300
        for n in range(300):
            assert len((await wire.answer()).body) == 30_000 + n


async def test_many_who_send_much_at_once_leave_most_of_each_round_to_others() -> None:
    async with serving() as site:
        flooding = [await site.connect() for _ in range(40)]
        for wire in flooding:
            wire.say(TINY * 500)
        calm = await site.connect()
        calm.say(TINY)
        assert (await calm.answer()).status == 200
        assert len(site.app.dispatched) < 40 * 20
