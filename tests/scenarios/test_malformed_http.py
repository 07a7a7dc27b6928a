"""Requests that no honest client sends: each is refused in OpenAI's words, and no backend hears of it."""

import asyncio
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import KEY, Gateway, Sim, running, simulated
from tests.support.raw_http import CHAT, Answer, Wire, ask, chat, head, request, wire

Place = tuple[Gateway, Sim]

BODY = json.dumps(chat(stream=False)).encode()
AUTH = b"Authorization: Bearer " + KEY.encode() + b"\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOST = b"Host: gateway\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
END = b"\r\n"
REST = AUTH + LENGTH + END + BODY


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("malformed")
    with simulated(folder / "sim") as sim:
        limits = {"max_headers": 50, "max_header_bytes": "16KB", "header_timeout": "2s", "body_timeout": "2s"}
        config = {"backends": [{"url": sim.url}], "server": limits, "health_check": {"enabled": False}}
        with running(folder / "gateway", config) as gateway:
            yield gateway, sim


def check_error(answer: Answer) -> None:
    """An error as OpenAI's packages expect it, which no package will try again."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-should-retry"] == "false"
    assert answer.error.keys() == {"message", "type", "param", "code"}
    assert answer.error["message"]
    assert answer.error["code"]


# What is wrong, its bytes, and the statuses that may answer it.
MALFORMED: dict[str, tuple[bytes, set[int]]] = {
    "no host": (POST + REST, {400}),
    "two hosts": (POST + HOST + HOST + REST, {400}),
    "host with a path": (POST + b"Host: a/b\r\n" + REST, {400}),
    "host with a user": (POST + b"Host: user@gateway\r\n" + REST, {400}),
    "host with a space": (POST + b"Host: a b\r\n" + REST, {400}),
    "host with a bad port": (POST + b"Host: a:80b\r\n" + REST, {400}),
    "host in UTF-8": (POST + "Host: gätëway\r\n".encode() + REST, {400}),
    "length and chunks": (POST + HOST + AUTH + LENGTH + CHUNKED + END + b"0\r\n\r\n", {400}),
    "chunks and length": (POST + HOST + AUTH + CHUNKED + LENGTH + END + b"0\r\n\r\n", {400}),
    "two lengths": (POST + HOST + LENGTH + b"Content-Length: 5\r\n" + REST, {400}),
    "a list of lengths": (POST + HOST + AUTH + b"Content-Length: 5, 5\r\n\r\nhello", {400}),
    "a negative length": (POST + HOST + AUTH + b"Content-Length: -1\r\n\r\n", {400}),
    "a hexadecimal length": (POST + HOST + AUTH + b"Content-Length: 0x5\r\n\r\nhello", {400}),
    "a signed length": (POST + HOST + AUTH + b"Content-Length: +5\r\n\r\nhello", {400}),
    "an enormous length": (POST + HOST + AUTH + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", {400}),
    "an unknown coding": (POST + HOST + AUTH + b"Transfer-Encoding: cow\r\n\r\n", {501}),
    "chunks not last": (POST + HOST + AUTH + b"Transfer-Encoding: chunked, gzip\r\n\r\n", {400}),
    "a chunk without a size": (POST + HOST + AUTH + CHUNKED + END + b"\r\nhello\r\n", {400}),
    "a chunk with a bad size": (POST + HOST + AUTH + CHUNKED + END + b"zz\r\n", {400}),
    "a chunk size with a sign": (POST + HOST + AUTH + CHUNKED + END + b"-5\r\nhello\r\n", {400}),
    "a chunk size too long": (POST + HOST + AUTH + CHUNKED + END + b"f" * 20 + b"\r\n", {400}),
    "a chunk longer than said": (POST + HOST + AUTH + CHUNKED + END + b"2\r\nhello\r\n0\r\n\r\n", {400}),
    "a bare CR in a header": (POST + HOST + b"X-A: a\rX-B: b\r\n" + REST, {400}),
    "a NUL in a header": (POST + HOST + b"X-A: a\0b\r\n" + REST, {400}),
    "a folded header": (POST + HOST + b"X-A: a\r\n b\r\n" + REST, {400}),
    "a header without a name": (POST + HOST + b": a\r\n" + REST, {400}),
    "a space before the colon": (POST + HOST + b"X-A : a\r\n" + REST, {400}),
    "a header without a colon": (POST + HOST + b"X-A\r\n" + REST, {400}),
    "too many headers": (POST + HOST + b"".join(b"X-%d: a\r\n" % i for i in range(60)) + REST, {431}),
    "a header too long": (POST + HOST + b"X-A: " + b"a" * 20_000 + END + REST, {431}),
    "headers too long": (POST + HOST + b"".join(b"X-%d: %b\r\n" % (i, b"a" * 1000) for i in range(20)) + REST, {431}),
    "a target too long": (b"POST /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + HOST + REST, {414}),
    "an unknown method": (b"BREW /v1/chat/completions HTTP/1.1\r\n" + HOST + END, {400}),
    "a method in small letters": (b"post /v1/chat/completions HTTP/1.1\r\n" + HOST + REST, {400}),
    "a space in the target": (b"POST /v1/chat completions HTTP/1.1\r\n" + HOST + REST, {400}),
    "no target": (b"POST  HTTP/1.1\r\n" + HOST + REST, {400}),
    "a target without a slash": (b"POST v1/chat/completions HTTP/1.1\r\n" + HOST + REST, {400}),
    "an unknown version": (b"POST /v1/chat/completions HTTP/1.7\r\n" + HOST + REST, {400}),
    "HTTP/2 in the clear": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400}),
    "HTTP/0.9": (b"GET /v1/models\r\n\r\n", {505}),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 64, {400}),
    "the asterisk": (b"OPTIONS * HTTP/1.1\r\n" + HOST + END, {400, 404, 405}),
    "a tunnel": (b"CONNECT example.org:443 HTTP/1.1\r\n" + HOST + END, {400, 404, 405}),
    "a trace": (b"TRACE / HTTP/1.1\r\n" + HOST + END, {404, 405}),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_malformed_requests_are_refused(place: Place, name: str) -> None:
    gateway, sim = place
    data, statuses = MALFORMED[name]
    before = sim.stats()["requests_started"]
    answer = await ask(gateway.port, data)
    assert answer.status in statuses, answer
    check_error(answer)
    assert sim.stats()["requests_started"] == before
    assert (await ask(gateway.port, request(BODY))).status == 200


@pytest.mark.parametrize(
    "hidden",
    [
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
        request(BODY),
    ],
    ids=["a GET", "a POST"],
)
async def test_nothing_is_smuggled_behind_a_refused_request(place: Place, hidden: bytes) -> None:
    gateway, sim = place
    before = sim.stats()["requests_started"]
    async with wire(gateway.port) as client:
        client.send(POST + HOST + AUTH + b"Content-Length: 4\r\n" + CHUNKED + END + b"0\r\n\r\n" + hidden)
        said = await client.closed()
    assert said.startswith(b"HTTP/1.1 400 ")
    assert said.count(b"HTTP/1.1 ") == 1
    assert sim.stats()["requests_started"] == before


@pytest.mark.parametrize("host", ["", "evil.example", "127.0.0.1:1", "[::1]:80", "169.254.169.254", "a" * 200])
async def test_the_host_decides_nothing(place: Place, host: str) -> None:
    gateway, sim = place
    answer = await ask(gateway.port, request(BODY, host=host))
    assert answer.status == 200
    sent = sim.control("GET", "/_sim/requests")[-1]["headers"]
    assert [value for name, value in sent if name == "host"] == [sim.url.removeprefix("http://")]


UNKNOWN = [
    "/",
    "/v1",
    "/v1/",
    "/v1/../v1/chat/completions",
    "/v1/%2e%2e/v1/chat/completions",
    "/v1/chat%2fcompletions%00",
    "/V1/chat/completions",
    "/v1/chat/completions;a=b",
    "/v1/files",
    "/_sim/stats",
    "/health/../_sim/stats",
    "/tokenize",
    "/metrics/x",
]


@pytest.mark.requirement("A045")
@pytest.mark.parametrize("path", UNKNOWN)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_unknown_paths_end_here(place: Place, method: str, path: str) -> None:
    gateway, sim = place
    before = len(sim.control("GET", "/_sim/requests"))
    answer = await ask(gateway.port, head(path, method, content_length=str(len(BODY))) + BODY)
    assert answer.status == 404
    check_error(answer)
    assert len(sim.control("GET", "/_sim/requests")) == before


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", CHAT, "POST"),
        ("PUT", CHAT, "POST"),
        ("DELETE", "/v1/completions", "POST"),
        ("TRACE", CHAT, "POST"),
        ("OPTIONS", "/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/metrics", "GET, HEAD"),
    ],
)
async def test_wrong_methods_are_told_the_right_one(place: Place, method: str, path: str, allow: str) -> None:
    gateway, _ = place
    answer = await ask(gateway.port, head(path, method))
    assert (answer.status, answer.headers["allow"]) == (405, allow)
    check_error(answer)


async def test_an_absolute_target_must_name_the_host(place: Place) -> None:
    gateway, _ = place
    assert (await ask(gateway.port, request(BODY, path=f"http://gateway{CHAT}"))).status == 200
    assert (await ask(gateway.port, request(BODY, path=f"http://elsewhere.example{CHAT}"))).status == 400


@pytest.mark.requirement("A314")
async def test_what_is_refused_unread_is_counted(place: Place) -> None:
    gateway, _ = place
    refused = 'zuebee_refusals_total{code="headers_too_large"}'
    before = gateway.metrics().get(refused, 0.0)
    assert (await ask(gateway.port, MALFORMED["too many headers"][0])).status == 431
    assert gateway.metrics()[refused] == before + 1


async def test_requests_in_a_row_are_answered_in_order(place: Place) -> None:
    gateway, _ = place
    async with wire(gateway.port) as client:
        first = request({**chat(3, stream=False), "model": "sim-large"})
        client.send(first + request(BODY) + head("/nowhere", "GET"))
        answers = [await client.ask(b"") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 404]
    assert [json.loads(answer.body).get("model") for answer in answers] == ["sim-large", "sim-small", None]


async def test_a_request_that_comes_byte_by_byte_is_a_request(place: Place) -> None:
    gateway, _ = place
    async with wire(gateway.port) as client:
        for byte in request(BODY):
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert await client.read_head() == 200


async def test_a_client_that_asks_is_told_to_go_on(place: Place) -> None:
    gateway, _ = place
    async with wire(gateway.port) as client:
        client.send(head(content_length=str(len(BODY)), expect="100-continue"))
        assert await client.read_head() == 100
        assert (await client.ask(BODY)).status == 200


@pytest.mark.parametrize("offer", ["websocket", "h2c"])
@pytest.mark.parametrize("pieces", [1, 2, 300])
async def test_an_upgrade_is_not_followed_and_the_request_answered(place: Place, offer: str, pieces: int) -> None:
    gateway, _ = place
    asked = {"connection": "Upgrade, HTTP2-Settings", "upgrade": offer, "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABk"}
    data = request(BODY, **asked)
    step = -(-len(data) // pieces)
    async with wire(gateway.port) as client:
        for at in range(0, len(data), step):
            client.send(data[at : at + step])
            await asyncio.sleep(0)
        first = await client.ask(b"")
        second = await client.ask(request(BODY))
    assert (first.status, second.status) == (200, 200)


async def test_tls_to_a_plain_port_fails_at_once(place: Place) -> None:
    gateway, _ = place
    context = ssl.create_default_context()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        async with asyncio.timeout(5), wire(gateway.port, context) as client:
            assert isinstance(client, Wire)


def test_the_process_is_still_well(place: Place, tmp_path: Path) -> None:
    gateway, _ = place
    assert "Traceback" not in gateway.output
    assert "ERROR" not in gateway.output
    assert gateway.metrics()["zuebee_requests_running"] == 0
