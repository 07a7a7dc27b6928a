"""Bodies that are no chat: refused before a backend hears of them. Bodies that are large: intact, or 413."""

import base64
import gzip
import json
import random
from collections.abc import Iterator

import pytest

from tests.support.processes import Gateway, Sim, running, simulated
from tests.support.raw_http import ask, chat, head, request, wire

Place = tuple[Gateway, Sim]

LIMIT_BYTES = 11 << 20


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("bodies")
    with simulated(folder / "sim") as sim:
        server = {"max_body_size": LIMIT_BYTES}
        config = {"backends": [{"url": sim.url}], "server": server, "health_check": {"enabled": False}}
        with running(folder / "gateway", config) as gateway:
            yield gateway, sim


NO_CHAT = {
    "nothing": b"",
    "blanks": b" \n ",
    "no JSON": b"hello",
    "half of it": b'{"model":"sim-small","messages":[',
    "two documents": b'{"model":"a"}{"model":"b"}',
    "a trailing comma": b'{"model":"sim-small",}',
    "a comment": b'{"model":"sim-small"/**/}',
    "not a number": b'{"model":"sim-small","temperature":NaN}',
    "a list": b'[{"model":"sim-small"}]',
    "a string": b'"sim-small"',
    "null": b"null",
    "a number as model": b'{"model":5}',
    "a word as stream": b'{"model":"sim-small","stream":"perhaps"}',
    "a list as options": b'{"model":"sim-small","stream":true,"stream_options":[]}',
    "two models": b'{"model":"sim-small","messages":[],"model":"sim-large"}',
    "two models, one in disguise": b'{"model":"sim-small","m\\u006fdel":"sim-large"}',
    "two streams": b'{"model":"sim-small","stream":true,"stream":false}',
    "Latin-1": b'{"model":"caf\xe9"}',
    "Latin-1 in the prompt": b'{"model":"sim-small","messages":[{"role":"user","content":"caf\xe9"}]}',
    "cut UTF-8": b'{"model":"\xe2\x82"}',
    "UTF-16": '{"model":"sim-small"}'.encode("utf-16"),
    "a lone NUL": b'{"model":"sim-small"}\0',
    "nested too deep": b'{"model":"sim-small","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nested too deep and open": b'{"model":"sim-small","x":' + b'{"a":' * 100_000,
}


@pytest.mark.parametrize("body", NO_CHAT.values(), ids=NO_CHAT)
async def test_what_is_no_request_is_refused(place: Place, body: bytes) -> None:
    gateway, sim = place
    before = sim.stats()["requests_started"]
    async with wire(gateway.port) as client:
        answer = await client.ask(request(body))
        assert answer.status == 400, answer
        assert answer.headers["x-should-retry"] == "false"
        assert answer.error["type"] == "invalid_request_error"
        assert answer.error["message"]
        # The connection survives: the request was read to its end.
        assert (await client.ask(request(chat(stream=False)))).status == 200
    assert sim.stats()["requests_started"] == before + 1


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity, gzip"])
async def test_compressed_bodies_are_refused(place: Place, coding: str) -> None:
    gateway, sim = place
    before = sim.stats()["requests_started"]
    answer = await ask(gateway.port, request(gzip.compress(json.dumps(chat()).encode()), content_encoding=coding))
    assert (answer.status, answer.error["code"]) == (415, "unsupported_encoding")
    assert sim.stats()["requests_started"] == before


def big_body(size_bytes: int) -> bytes:
    """A chat of just so many bytes, none like its neighbour."""
    text = base64.b64encode(random.Random(size_bytes).randbytes(size_bytes)).decode()
    empty = json.dumps({**chat(2, stream=False), "padding": ""})
    return empty.replace('""', f'"{text[: size_bytes - len(empty)]}"').encode()


def chunked(body: bytes, size_bytes: int) -> bytes:
    parts = (body[at : at + size_bytes] for at in range(0, len(body), size_bytes))
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize("in_chunks", [False, True], ids=["declared", "chunked"])
async def test_ten_megabytes_arrive_intact(place: Place, in_chunks: bool) -> None:
    gateway, sim = place
    body = big_body(10 << 20)
    assert len(body) == 10 << 20
    data = head(transfer_encoding="chunked") + chunked(body, 70_001) if in_chunks else request(body)
    answer = await ask(gateway.port, data)
    assert answer.status == 200
    sent = sim.control("GET", "/_sim/requests")[-1]
    assert base64.b64decode(sent["body_base64"]) == body
    assert ["content-length", str(len(body))] in sent["headers"]


@pytest.mark.parametrize("excess", [1, 30 << 20], ids=["by a byte", "by far"])
@pytest.mark.parametrize("in_chunks", [False, True], ids=["declared", "chunked"])
async def test_more_than_the_limit_is_refused_so_that_the_sender_hears_it(
    place: Place, in_chunks: bool, excess: int
) -> None:
    gateway, sim = place
    before = sim.stats()["requests_started"]
    body = b'{"model":"' + b"a" * (LIMIT_BYTES + excess - 10)
    data = head(transfer_encoding="chunked") + chunked(body, 100_000) if in_chunks else request(body)
    base_bytes = gateway.resident_bytes
    async with wire(gateway.port) as client:
        answer = await client.ask(data)
        assert await client.closed() == b""
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert (answer.headers["connection"], answer.headers["x-should-retry"]) == ("close", "false")
    assert gateway.resident_bytes - base_bytes < 3 * LIMIT_BYTES
    assert sim.stats()["requests_started"] == before


async def test_a_declared_length_over_the_limit_is_not_waited_for(place: Place) -> None:
    gateway, _ = place
    answer = await ask(gateway.port, head(content_length=str(LIMIT_BYTES + 1)))
    assert answer.status == 413
