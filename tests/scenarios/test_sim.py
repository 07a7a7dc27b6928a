"""The simulated model server, seen from the wire and by the openai package."""

import asyncio
import base64
import contextlib
import gzip
import json
import socket
import ssl
import struct
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import trustme
import uvloop

from zuebee.sim.server import SimSettings, serve

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"model": "sim-small", "messages": [{"role": "user", "content": "Hello there"}]}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
        },
    },
}
TIMEOUT_S = 5.0
SILENCE_S = 0.3


@contextlib.contextmanager
def running(settings: SimSettings, run: Callable[[Any], Any] = asyncio.run) -> Iterator[str]:
    """Run a server in a thread with its own event loop, and give its address."""
    ready, stop = threading.Event(), asyncio.Event()
    found: dict[str, Any] = {}

    async def main() -> None:
        found["loop"] = asyncio.get_running_loop()
        await serve(settings, lambda url: (found.update(url=url), ready.set())[0], stop)

    thread = threading.Thread(target=run, args=(main(),))
    thread.start()
    try:
        assert ready.wait(TIMEOUT_S)
        yield found["url"]
    finally:
        found["loop"].call_soon_threadsafe(stop.set)
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    run = asyncio.run if request.param == "asyncio" else uvloop.run
    with running(SimSettings(tokens=8, tokens_per_s=0), run) as address:
        yield address


@pytest.fixture(autouse=True)
def _fresh(request: pytest.FixtureRequest) -> None:
    if "url" in request.fixturenames:
        address = request.getfixturevalue("url")
        call(address, "DELETE", "/_sim/faults")
        call(address, "POST", "/_sim/reset")


def call(url: str, method: str, path: str, body: Any = None) -> Any:
    """Make a call of the control endpoints."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, data, method=method), timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def until(check: Callable[[], bool]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + TIMEOUT_S
    while not check():
        assert time.monotonic() < end, "did not come about in time"
        time.sleep(0.01)


class Wire:
    """A raw connection."""

    def __init__(self, url: str) -> None:
        host, port = url.split("//")[1].split(":")
        self.socket = socket.create_connection((host, int(port)), TIMEOUT_S)

    def send(
        self, body: Any = None, path: str = CHAT, headers: str = "", method: str = "POST", version: str = "1.1"
    ) -> None:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/{version}\r\nhost: sim\r\n{headers}content-length: {len(data)}\r\n\r\n"
        self.socket.sendall(head.encode() + data)

    def read(self, wait_s: float = TIMEOUT_S) -> tuple[bytes, str]:
        """Return all that comes, and how it ended: `eof`, `reset` or `silence`."""
        got = b""
        self.socket.settimeout(wait_s)
        while True:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return got, "reset"
            except TimeoutError:
                return got, "silence"
            if not data:
                return got, "eof"
            got += data

    def message(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of one complete response, and leave what follows it unread."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._exactly(1)
        status_line, *lines = head.decode("latin-1").strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(self._line(), 16):
                body += self._exactly(size)
                assert self._exactly(2) == b"\r\n"
            assert self._exactly(2) == b"\r\n"
        else:
            body = self._exactly(int(headers.get("content-length", 0)))
        return int(status_line.split()[1]), headers, body

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            line += self._exactly(1)
        return line

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            assert piece, "the connection ended within a message"
            data += piece
        return data


@pytest.fixture
def wire(url: str) -> Iterator[Wire]:
    connection = Wire(url)
    with connection.socket:
        yield connection


def events(body: bytes) -> list[str]:
    """Return the data of the events in a stream."""
    return [part.removeprefix("data: ") for part in body.decode().split("\n\n") if part]


def faulty(name: str | int, *, stream: bool, **fields: Any) -> dict[str, Any]:
    return {**HELLO, "stream": stream, "sim": {"fault": name, **fields}}


# Honest answers, as the openai package sees them.


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S) as made:
        yield made


def test_chat_is_the_same_every_time_and_streams_the_same_text(client: openai.OpenAI) -> None:
    answers = [client.chat.completions.create(**HELLO) for _ in range(2)]
    text = answers[0].choices[0].message.content
    assert text
    assert text == answers[1].choices[0].message.content
    assert answers[0].id != answers[1].id
    stream = client.chat.completions.create(**HELLO, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
    other = client.chat.completions.create(model="sim-small", messages=[{"role": "user", "content": "Other"}])
    assert other.choices[0].message.content != text


def test_max_tokens_cuts_the_answer_and_says_length(client: openai.OpenAI) -> None:
    short = client.chat.completions.create(**HELLO, max_tokens=3)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)
    whole = client.chat.completions.create(**HELLO, max_tokens=100)
    assert (whole.choices[0].finish_reason, whole.usage.completion_tokens) == ("stop", 8)
    assert whole.choices[0].message.content.startswith(short.choices[0].message.content)


def test_a_stop_string_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**HELLO).choices[0].message.content
    word = whole.split()[3]
    cut = client.chat.completions.create(**HELLO, stop=[word]).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.index(word)], "stop")


@pytest.mark.parametrize("choices", [1, 3])
def test_usage_of_a_stream_comes_in_an_event_of_its_own(client: openai.OpenAI, choices: int) -> None:
    usage = client.chat.completions.create(**HELLO, n=choices).usage
    stream = client.chat.completions.create(**HELLO, n=choices, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage == usage
    assert usage.completion_tokens == 8 * choices
    assert {chunk.choices[0].index for chunk in chunks[:-1]} == set(range(choices))


def test_continuous_usage_counts_up_in_every_event(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(client.chat.completions.create(**HELLO, stream=True, stream_options=options))
    assert [chunk.usage.completion_tokens for chunk in chunks] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8]


def test_continuous_usage_alone_means_nothing(wire: Wire) -> None:
    wire.send({**HELLO, "stream": True, "stream_options": {"continuous_usage_stats": True}})
    assert b"usage" not in wire.message()[2]


def test_text_completions_of_several_prompts(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "sim-large", "prompt": ["One two", "Three four"], "max_tokens": 4}
    answer = client.completions.create(**ask)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2 + 3, 8)
    texts = ["", ""]
    for chunk in client.completions.create(**ask, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in answer.choices]


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_the_user_mentions_is_called(client: openai.OpenAI, stream: bool) -> None:
    messages: Any = [{"role": "user", "content": "Use get_weather for Berlin"}]
    ask: dict[str, Any] = {"model": "sim-small", "messages": messages, "tools": [WEATHER]}
    if stream:
        with client.chat.completions.stream(**ask) as chunks:
            answer: Any = chunks.get_final_completion()
    else:
        answer = client.chat.completions.create(**ask)
    assert answer.choices[0].finish_reason == "tool_calls"
    (made,) = answer.choices[0].message.tool_calls
    assert made.function.name == "get_weather"
    assert set(json.loads(made.function.arguments)) == {"city", "unit"}
    messages += [
        {"role": "assistant", "tool_calls": [made.model_dump(exclude={"function": {"parsed_arguments"}})]},
        {"role": "tool", "tool_call_id": made.id, "content": "sunny"},
    ]
    after = client.chat.completions.create(**ask)
    assert after.choices[0].finish_reason == "stop"


def test_tools_are_called_only_when_asked_for(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {**HELLO, "tools": [WEATHER]}
    assert client.chat.completions.create(**ask).choices[0].finish_reason == "stop"
    assert client.chat.completions.create(**ask, tool_choice="required").choices[0].finish_reason == "tool_calls"
    with pytest.raises(openai.BadRequestError, match="tool_choice"):
        client.chat.completions.create(**ask, tool_choice={"type": "function", "function": {"name": "other"}})


def test_embeddings_as_numbers_and_packed(client: openai.OpenAI) -> None:
    numbers = client.embeddings.create(model="sim-small", input=["a", "b"], dimensions=5, encoding_format="float")
    packed = client.embeddings.create(model="sim-small", input=["a", "b"], dimensions=5)
    for one, other in zip(numbers.data, packed.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert sum(number * number for number in one.embedding) == pytest.approx(1)
    assert numbers.data[0].embedding != numbers.data[1].embedding
    assert numbers.usage.prompt_tokens == 2


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["sim-small", "sim-large"]
    assert client.models.retrieve("sim-large").id == "sim-large"


def test_mistakes_get_the_errors_of_a_real_server(client: openai.OpenAI, wire: Wire) -> None:
    with pytest.raises(openai.NotFoundError, match="`gpt-9` does not exist"):
        client.chat.completions.create(**{**HELLO, "model": "gpt-9"})
    for body, words in (
        (b'{"model": ', "not valid JSON"),
        ({"model": "sim-small"}, "messages"),
        ({**HELLO, "messages": []}, "messages"),
        ({**HELLO, "max_tokens": 0}, "max_tokens"),
        ({**HELLO, "max_tokens": 10_000_000}, "maximum context length"),
        ({**HELLO, "stream_options": {"include_usage": True}}, "Stream options"),
        ({**HELLO, "sim": {"fault": "earthquake"}}, "earthquake"),
    ):
        wire.send(body)
        status, _, answer = wire.message()
        assert (status, json.loads(answer)["error"]["code"]) == (400, 400)
        assert words in json.loads(answer)["error"]["message"]
    for method, path, expected in (("GET", "/health", 200), ("GET", CHAT, 405), ("GET", "/nowhere", 404)):
        wire.send(path=path, method=method)
        assert wire.message()[0] == expected


def test_only_the_right_key_is_served_when_one_is_set() -> None:
    with running(SimSettings(api_key="right", tokens_per_s=0)) as url:
        for key, error in (("right", contextlib.nullcontext()), ("wrong", pytest.raises(openai.AuthenticationError))):
            with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client, error:
                client.chat.completions.create(**HELLO)


def test_tls() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with running(SimSettings(ssl=context, tokens_per_s=0)) as url:
        assert url.startswith("https://")
        with urllib.request.urlopen(f"{url}/v1/models", context=trust) as answer:
            assert answer.status == 200


# HTTP.


def test_connections_are_kept_and_pipelined_requests_answered_in_order(wire: Wire) -> None:
    for tokens in (1, 2, 3):
        wire.send({**HELLO, "max_tokens": tokens, "stream": tokens == 2})
    bodies = [wire.message()[2] for _ in range(3)]
    assert json.loads(bodies[0])["usage"]["completion_tokens"] == 1
    assert len(events(bodies[1])) == 1 + 2 + 1 + 1
    assert json.loads(bodies[2])["usage"]["completion_tokens"] == 3


def test_a_thousand_pipelined_requests_do_not_exhaust_the_stack(wire: Wire) -> None:
    one = b"GET /health HTTP/1.1\r\nhost: sim\r\n\r\n"
    threading.Thread(target=wire.socket.sendall, args=(one * 1000,)).start()
    assert [wire.message()[0] for _ in range(1000)] == [200] * 1000


def test_expect_continue_is_answered_before_the_body(wire: Wire) -> None:
    body = json.dumps(HELLO).encode()
    wire.socket.sendall(
        f"POST {CHAT} HTTP/1.1\r\nhost: sim\r\nexpect: 100-continue\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    )
    assert wire.message()[0] == 100
    wire.socket.sendall(body)
    assert wire.message()[0] == 200


def test_chunked_request_bodies_are_read(wire: Wire) -> None:
    body = json.dumps(HELLO).encode()
    wire.socket.sendall(f"POST {CHAT} HTTP/1.1\r\nhost: sim\r\ntransfer-encoding: chunked\r\n\r\n".encode())
    for byte in body:
        wire.socket.sendall(b"1\r\n%c\r\n" % byte)
    wire.socket.sendall(b"0\r\n\r\n")
    assert wire.message()[0] == 200


def test_old_clients_get_no_chunks(wire: Wire) -> None:
    wire.send({**HELLO, "stream": True}, version="1.0")
    got, end = wire.read()
    assert b"transfer-encoding" not in got
    assert (got.endswith(b"data: [DONE]\n\n"), end) == (True, "eof")


def test_what_is_no_http_is_answered_400_and_closed(wire: Wire) -> None:
    wire.socket.sendall(b"how do you do\r\n\r\n")
    got, end = wire.read()
    assert (got.split()[1], end) == (b"400", "eof")


def test_a_body_over_the_limit_is_answered_413() -> None:
    with running(SimSettings(max_body_bytes=1000)) as url:
        wire = Wire(url)
        with wire.socket:
            wire.send(b"x" * 1001)
            assert wire.message()[0] == 413


def test_tokens_come_at_the_set_pace(wire: Wire) -> None:
    begun = time.monotonic()
    wire.send({**HELLO, "stream": True, "sim": {"tokens": 20, "tokens_per_s": 100, "first_token_delay_s": 0.2}})
    assert len(events(wire.message()[2])) == 1 + 20 + 1 + 1
    assert 0.4 <= time.monotonic() - begun < 0.8
    begun = time.monotonic()
    wire.send({**HELLO, "sim": {"tokens": 20, "tokens_per_s": 100}})
    wire.message()
    assert 0.2 <= time.monotonic() - begun < 0.6


def test_a_client_that_does_not_read_stops_the_stream(url: str, wire: Wire) -> None:
    wire.send({**HELLO, "stream": True, "sim": {"tokens": 100_000}})  # 23 MB, more than the kernel buffers

    def sent() -> int:
        count: int = call(url, "GET", "/_sim/stats")["tokens_sent"]
        return count

    until(lambda: sent() > 0)
    counts = [sent()]
    until(lambda: (time.sleep(0.2), counts.append(sent()))[1] or counts[-1] == counts[-2])
    assert counts[-1] < 80_000
    tail = b""
    while not tail.endswith(b"0\r\n\r\n"):
        tail = (tail + wire.socket.recv(1 << 20))[-100:]
    assert b"data: [DONE]" in tail
    assert sent() == 100_000


# Faults, as they look on the wire. The first argument of each case says whether the request streams.


def test_hang_before_the_head_and_within_the_message(url: str) -> None:
    for stream in (False, True):
        wire = Wire(url)
        with wire.socket:
            wire.send(faulty("hang", stream=stream))
            assert wire.read(SILENCE_S) == (b"", "silence")
        wire = Wire(url)
        with wire.socket:
            wire.send(faulty("hang", stream=stream, after_events=2))
            got, end = wire.read(SILENCE_S)
            assert (got.startswith(b"HTTP/1.1 200"), got.count(b"data: "), end) == (True, 2 * stream, "silence")
    until(lambda: call(url, "GET", "/_sim/stats")["requests_aborted"] == 4)


def test_hang_for_a_while_goes_on(wire: Wire) -> None:
    begun = time.monotonic()
    wire.send(faulty("hang", stream=True, for_s=0.2))
    assert len(events(wire.message()[2])) == 11
    wire.send(faulty("hang", stream=False, for_s=0.2, after_events=1))
    assert json.loads(wire.message()[2])["choices"]
    assert time.monotonic() - begun >= 0.4


@pytest.mark.parametrize("stream", [False, True])
def test_reset_before_the_head_and_within_the_message(url: str, stream: bool) -> None:
    for after, events_seen in ((None, 0), (0, 0), (3, 3 * stream)):
        wire = Wire(url)
        with wire.socket:
            wire.send(faulty("reset", stream=stream, after_events=after))
            got, end = wire.read()
            assert (got.count(b"data: "), end) == (events_seen, "reset")
            assert bool(got) == (after is not None)


def test_truncate_closes_without_the_end_of_the_message(url: str) -> None:
    wire = Wire(url)
    with wire.socket:
        wire.send(faulty("truncate", stream=True, after_events=2))
        got, end = wire.read()
        assert (got.count(b"data: "), got.endswith(b"0\r\n\r\n"), end) == (2, False, "eof")
    wire = Wire(url)
    with wire.socket:
        wire.send(faulty("truncate", stream=False))
        got, end = wire.read()
        head, _, body = got.partition(b"\r\n\r\n")
        promised = int(head.split(b"content-length: ")[1].split()[0])
        assert (0 < len(body) < promised, end) == (True, "eof")


def test_malformed(wire: Wire) -> None:
    wire.send(faulty("malformed", stream=True, after_events=3))
    data = events(wire.message()[2])
    assert len(data) == 12
    assert data[-1] == "[DONE]"
    for place, part in enumerate(data[:-1]):
        with pytest.raises(ValueError) if place == 3 else contextlib.nullcontext():  # noqa: PT011
            json.loads(part)
    wire.send(faulty("malformed", stream=False))
    status, _, body = wire.message()
    assert status == 200
    with pytest.raises(ValueError):  # noqa: PT011
        json.loads(body)


def test_error_statuses(wire: Wire) -> None:
    for status, retry_after_s, expected in ((429, None, "1"), (429, 7, "7"), (500, None, None), (503, 2, "2")):
        wire.send(faulty(status, stream=True, retry_after_s=retry_after_s))
        got, headers, body = wire.message()
        assert (got, headers.get("retry-after")) == (status, expected)
        assert json.loads(body)["error"]["code"] == status


def test_slow_drip_sends_single_bytes(wire: Wire) -> None:
    wire.send(faulty("slow_drip", stream=True, tokens=1, interval_s=0.001))
    first, begun = wire.socket.recv(65536), time.monotonic()
    assert len(first) < 10
    got, end = wire.read(SILENCE_S)
    assert got.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert end == "silence"
    assert time.monotonic() - begun - SILENCE_S >= 0.0009 * len(got)


def test_html(wire: Wire) -> None:
    wire.send(faulty("html", stream=True))
    status, headers, body = wire.message()
    assert (status, headers["content-type"].split(";")[0], body[:9]) == (200, "text/html", b"<!DOCTYPE")


def test_error_events(wire: Wire) -> None:
    for name, after, honest in (("error_first", None, 0), ("error_mid", None, 3), ("error_mid", 5, 5)):
        wire.send(faulty(name, stream=True, after_events=after))
        status, headers, body = wire.message()
        data = events(body)
        assert (status, headers["content-type"].split(";")[0]) == (200, "text/event-stream")
        assert (len(data), "error" in json.loads(data[honest]), data[-1]) == (honest + 2, True, "[DONE]")
        wire.send(faulty(name, stream=False))
        assert "error" in json.loads(wire.message()[2])


def test_no_done_still_has_its_finish_reason_and_usage(wire: Wire) -> None:
    wire.send({**faulty("no_done", stream=True), "stream_options": {"include_usage": True}})
    data = events(wire.message()[2])
    assert json.loads(data[-2])["choices"][0]["finish_reason"] == "stop"
    assert json.loads(data[-1])["usage"]["completion_tokens"] == 8


@pytest.mark.parametrize("stream", [False, True])
def test_close_delimited(wire: Wire, stream: bool) -> None:
    wire.send(faulty("close_delimited", stream=stream))
    got, end = wire.read()
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert b"content-length" not in head
    assert b"chunked" not in head
    assert end == "eof"
    assert events(body)[-1] == "[DONE]" if stream else json.loads(body)["choices"]


@pytest.mark.parametrize("stream", [False, True])
def test_garbage_after_the_message(wire: Wire, stream: bool) -> None:
    wire.send(faulty("garbage_after", stream=stream))
    assert wire.message()[0] == 200
    got, end = wire.read(SILENCE_S)
    assert (got.startswith(b"HTTP/9.9"), end) == (True, "silence")


def test_big_event(wire: Wire) -> None:
    wire.send(faulty("big_event", stream=True, size_bytes=3_000_000))
    data = events(wire.message()[2])
    assert len(json.loads(data[1])["padding"]) == 3_000_000
    assert data[-1] == "[DONE]"
    wire.send(faulty("big_event", stream=False, size_bytes=3_000_000))
    assert len(wire.message()[2]) > 3_000_000


@pytest.mark.parametrize("stream", [False, True])
def test_hostile_usage(wire: Wire, stream: bool) -> None:
    expected = {"negative": -7, "huge": 2**63, "string": "seven", "float": 6.5}
    options = {"stream_options": {"include_usage": True}} if stream else {}
    for kind in ("negative", "huge", "string", "float", "null", "missing"):
        wire.send({**faulty("usage", stream=stream, kind=kind), **options})
        body = wire.message()[2]
        last = json.loads(events(body)[-2] if stream else body)
        if kind == "missing":
            assert "usage" not in last
        else:
            assert (last["usage"] or {}).get("completion_tokens") == expected.get(kind)


def test_interim_responses(wire: Wire) -> None:
    wire.send(faulty("interim_1xx", stream=False))
    assert [wire.message()[0] for _ in range(4)] == [100, 102, 103, 200]


def test_redirect(wire: Wire) -> None:
    wire.send(faulty("redirect", stream=False, location="http://example.invalid/"))
    status, headers, _ = wire.message()
    assert (status, headers["location"]) == (302, "http://example.invalid/")


def test_gzip_nobody_accepted(wire: Wire) -> None:
    wire.send(faulty("gzip", stream=True))
    _, headers, body = wire.message()
    assert headers["content-encoding"] == "gzip"
    assert events(zlib.decompress(body, wbits=31))[-1] == "[DONE]"
    wire.send(faulty("gzip", stream=False))
    assert json.loads(gzip.decompress(wire.message()[2]))["choices"]


def refused(url: str) -> bool:
    try:
        Wire(url).socket.close()
    except ConnectionRefusedError:
        return True
    return False


def test_refuse_closes_the_door_for_a_while(url: str) -> None:
    idle = Wire(url)
    with idle.socket:
        idle.send(path="/health", method="GET")
        idle.message()
        call(url, "POST", "/_sim/faults", {"fault": "refuse", "for_s": 0.3})
        assert refused(url)
        assert idle.read()[1] in ("eof", "reset")
    until(lambda: not refused(url))
    wire = Wire(url)
    with wire.socket:
        wire.send(faulty("refuse", stream=False, for_s=0.1))
        assert wire.read() == (b"", "reset")
        assert refused(url)
    until(lambda: not refused(url))


# Ways of asking.


def test_a_fault_is_asked_for_by_header_by_model_and_by_body_which_comes_first(wire: Wire) -> None:
    for body, headers, expected in (
        (HELLO, "x-sim-fault: 503;retry_after_s=4\r\n", 503),
        ({**HELLO, "model": "sim-fault-500"}, "", 500),
        ({**HELLO, "model": "sim-fault-500"}, "x-sim-fault: 503\r\n", 503),
        ({**faulty(429, stream=False), "model": "sim-fault-500"}, "x-sim-fault: 503\r\n", 429),
        (HELLO, "x-sim-fault: earthquake\r\n", 400),
        ({**HELLO, "model": "sim-fault-earthquake"}, "", 400),
    ):
        wire.send(body, headers=headers)
        assert wire.message()[0] == expected


def test_armed_faults_strike_as_often_as_told_and_only_their_path(url: str, wire: Wire) -> None:
    call(url, "POST", "/_sim/faults", {"fault": "500", "times": 2})
    call(url, "POST", "/_sim/faults", {"fault": 503, "path": "/health"})

    def status(path: str, method: str = "GET", body: Any = None) -> int:
        wire.send(body, path=path, method=method)
        return wire.message()[0]

    assert [status(CHAT, "POST", HELLO) for _ in range(3)] == [500, 500, 200]
    assert [status("/health") for _ in range(3)] == [503, 503, 503]
    assert status("/v1/models") == 200
    assert [armed["path"] for armed in call(url, "GET", "/_sim/faults")["armed"]] == ["/health"]
    call(url, "DELETE", "/_sim/faults")
    assert status("/health") == 200


# Observation.


def test_requests_are_shown_as_they_came(url: str, wire: Wire) -> None:
    body = b' {"model":"sim-small",  "messages":[{"role":"user","content":"x"}],"unknown":1}\n'
    wire.send(body, path=CHAT + "?a=b", headers="X-One: 1\r\nX-One: 2\r\n")
    assert wire.message()[0] == 200
    (seen,) = call(url, "GET", "/_sim/requests")
    assert (seen["method"], seen["target"]) == ("POST", CHAT + "?a=b")
    assert base64.b64decode(seen["body_base64"]) == body
    assert [value for name, value in seen["headers"] if name == "x-one"] == ["1", "2"]


def test_accounts_say_what_was_delivered_and_how_it_ended(url: str) -> None:
    endings = {"whole": "complete", "cut": "fault", "left": "aborted"}
    asks = {
        "whole": {**HELLO, "stream": True},
        "cut": faulty("reset", stream=True, after_events=4),
        "left": faulty("hang", stream=True, after_events=3),
    }
    for name, ask in asks.items():
        wire = Wire(url)
        with wire.socket:
            wire.send(ask, headers=f"x-request-id: {name}\r\nconnection: close\r\n")
            wire.read(SILENCE_S)
    until(lambda: call(url, "GET", "/_sim/stats")["streams_open"] == 0)
    rows = {row["request_id"]: row for row in call(url, "GET", "/_sim/account")}
    assert {name: row["ended"] for name, row in rows.items()} == endings
    assert [rows[name]["completion_tokens"] for name in endings] == [8, 3, 2]
    assert {row["prompt_tokens"] for row in rows.values()} == {3 + 4 + 3}
    assert call(url, "GET", "/_sim/account?request_id=cut") == [rows["cut"]]
    stats = call(url, "GET", "/_sim/stats")
    expected = {"connections_accepted": 3, "connections_open": 0, "requests_started": 3, "requests_finished": 1}
    expected |= {"requests_faulted": 1, "requests_aborted": 1, "streams_aborted": 1, "tokens_sent": 13}
    assert {name: stats[name] for name in expected} == expected


def test_a_client_that_resets_its_connection_is_counted_as_gone(url: str) -> None:
    wire = Wire(url)
    wire.send({**HELLO, "stream": True, "sim": {"tokens": 1000, "tokens_per_s": 100}})
    wire.socket.recv(100)
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.socket.close()
    until(lambda: call(url, "GET", "/_sim/stats")["streams_aborted"] == 1)
    assert call(url, "GET", "/_sim/account")[0]["completion_tokens"] < 1000
