"""A client that sends the same head again and again is understood as if each were the first."""

import asyncio
import random

import pytest

from tests.support.asgi_server import LIMITS, serving
from tests.support.scripted_server import until

HEAD = b"POST /echo?a=b HTTP/1.1\r\nHost: a\r\nX-One: A\r\nContent-Length: %d\r\nX-Two: 2\r\n\r\n"


def request(body: bytes) -> bytes:
    return HEAD % len(body) + body


async def test_each_request_has_its_own_body_and_fields() -> None:
    async with serving() as site:
        wire = await site.connect()
        bodies = [b"x" * size for size in (5, 5, 17, 0, 1000, 5)]
        for body in bodies:
            wire.say(request(body))
            assert (await wire.answer()).body == body
        assert site.app.bodies == bodies
        for scope, body in zip(site.app.scopes, bodies, strict=True):
            length = (b"content-length", b"%d" % len(body))
            assert scope["headers"] == [(b"host", b"a"), (b"x-one", b"A"), length, (b"x-two", b"2")]
            assert scope["zuebee.fields"] == dict(scope["headers"])
            assert (scope["method"], scope["path"], scope["query_string"]) == ("POST", "/echo", b"a=b")
        attachments = [scope.get("zuebee.attachment") for scope in site.app.scopes]
        assert attachments[0] is None
        assert attachments[1] is not None, "the second one was known by its head"
        assert all(each is attachments[1] for each in attachments[1:])


@pytest.mark.parametrize("seed", range(20))
async def test_however_the_bytes_arrive_the_same_is_understood(seed: int) -> None:
    """Whole, in pieces and several at once, known heads between unknown ones."""
    chance = random.Random(seed)
    bodies = [chance.randbytes(chance.choice((0, 1, 5, 5, 300))) for _ in range(30)]
    heads = (
        HEAD,
        HEAD,
        HEAD,
        HEAD.replace(b"2\r\n\r\n", b"3\r\n\r\n"),
        HEAD.replace(b"HTTP/1.1", b"HTTP/1.1\r\nX-Zero: 0"),
    )
    said = [chance.choice(heads) % len(body) + body for body in bodies]
    async with serving() as site:
        wire = await site.connect()
        for number, data in enumerate(said):
            if chance.random() < 0.3:
                cut = chance.randint(1, len(data))
                wire.say(data[:cut])
                await asyncio.sleep(0.001)
                wire.say(data[cut:])
            elif chance.random() < 0.3:
                wire.say(b"\r\n" + data)
            else:
                wire.say(data)
            if chance.random() < 0.7 or number == len(said) - 1:
                await until(lambda: len(site.app.bodies) == number + 1)  # noqa: B023  (awaited at once)
        assert site.app.bodies == bodies
        for body in bodies:
            assert (await wire.answer()).body == body


async def test_what_follows_a_known_head_cannot_hide_in_its_body() -> None:
    async with serving() as site:
        wire = await site.connect()
        for _ in range(3):
            wire.say(request(b"hello"))
            await wire.answer()
        wire.say(HEAD % 5 + b"helloGET /seen HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await wire.answer()).body == b"hello"
        assert (await wire.answer()).body == b"/seen", "a request of its own, read by the parser"
        wire.say(HEAD % 100 + b"helloGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(0.05)
        assert "GET /hidden" not in site.app.dispatched, "a part of a body that is not whole"


async def test_a_known_head_with_a_length_that_is_none_is_refused() -> None:
    async with serving() as site:
        for wrong in (b"5, 5", b"-5", b"5\r\nContent-Length: 6", b"5\r\nTransfer-Encoding: chunked", b""):
            wire = await site.connect()
            for _ in range(2):
                wire.say(request(b"hello"))
                assert (await wire.answer()).status == 200
            wire.say(request(b"hello").replace(b": 5\r", b": %b\r" % wrong))
            assert (await wire.answer()).status == 400
            assert await wire.ended()


@pytest.mark.slow
async def test_a_client_that_is_idle_between_known_heads_is_left_alone_and_then_closed() -> None:
    async with serving(header_timeout_s=0.15, keep_alive_s=0.5) as site:
        wire = await site.connect()
        for _ in range(3):
            wire.say(request(b"hello"))
            await wire.answer()
            await asyncio.sleep(0.3)  # longer than a head may take, shorter than a silence
        assert await wire.ended()
        assert len(site.app.bodies) == 3


async def test_a_known_head_during_a_drain_is_answered_and_ends_the_connection() -> None:
    async with serving() as site:
        wire = await site.connect()
        for _ in range(2):
            wire.say(request(b"hello"))
            await wire.answer()
        site.server.begin_drain()
        wire.say(request(b"hello"))
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await wire.ended()


async def test_heads_that_never_come_again_cost_no_memory() -> None:
    async with serving() as site:
        wire = await site.connect()
        for number in range(LIMITS.max_headers):
            wire.say(request(b"hello").replace(b"X-Two: 2", b"X-Two: %d" % number))
            assert (await wire.answer()).body == b"hello"
        assert all("zuebee.attachment" not in scope for scope in site.app.scopes)
