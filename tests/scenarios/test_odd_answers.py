"""Odd requests and odd answers through a running gateway, as the openai package and gRPC callers see them."""

import json
from collections.abc import Iterator

import openai
import pytest

from tests.support.client import HELLO
from tests.support.grpc_peers import Caller, answered, calling, chunks, failed, hello
from tests.support.processes import KEY, Gateway, running
from tests.support.raw_http import ask as ask_raw
from tests.support.raw_http import request
from tests.support.records import record_of
from tests.support.scripted import ScriptedServer, http_answer, scripted

ANSWER = b'{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":7,"completion_tokens":5}}'
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null%b}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
EXTRA = b'data: {"choices":null,"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"
TOO_LONG = {
    "message": "This model's context has 8192 tokens.",
    "type": "invalid_request_error",
    "param": "messages",
    "code": "context_length_exceeded",
}
ERROR = b"data: " + json.dumps({"error": TOO_LONG}).encode() + b"\n\n"


@pytest.fixture(scope="module")
def backend() -> Iterator[ScriptedServer]:
    with scripted(lambda _: http_answer(ANSWER)) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(backend: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {
        "backends": [{"url": backend.url}],
        "routing": {"retry": {"enabled": False}},
        "health_check": {"enabled": False},
        "grpc": {"listen": "127.0.0.1:0"},
    }
    with running(tmp_path_factory.mktemp("gateway"), config) as process:
        yield process


@pytest.fixture(scope="module")
def caller(gateway: Gateway) -> Iterator[Caller]:
    with calling(gateway) as client:
        yield client


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=gateway.url + "/v1", max_retries=0, timeout=10.0) as made:
        yield made


def says(backend: ScriptedServer, body: bytes, *headers: str) -> None:
    """What the backend answers from now on."""
    backend.answer = lambda _: http_answer(body, *(headers or ("content-type: text/event-stream",)))


HALVES = [rb"\ud83d", rb"\ude00\ud83d", rb"\\\ud83d", rb"x" * 70_000 + rb"\udfff"]


@pytest.mark.parametrize("half", HALVES, ids=["high", "turned", "escaped", "large"])
@pytest.mark.parametrize("stream", [False, True])
async def test_half_a_character_in_a_request_passes(
    backend: ScriptedServer, gateway: Gateway, half: bytes, stream: bool
) -> None:
    says(backend, LAST + DONE) if stream else says(backend, ANSWER, "content-type: application/json")
    for options in (b"", b'"stream_options":{"\\ud83d":1},'):
        begin = b'{"model":"m",%b' % (options if stream else b"")
        body = begin + b'"stream":%b,"messages":[{"role":"user","content":"%b"}]}'
        body %= (b"true" if stream else b"false", half)
        answer = await ask_raw(gateway.port, request(body))
        assert answer.status == 200, answer
        sent = backend.received[-1].body
        if not stream:
            assert sent == body
        elif options:
            assert sent == body.replace(b'{"\\ud83d', b'{"include_usage":true,"\\ud83d')
        else:
            assert sent == b'{"stream_options":{"include_usage":true},' + body[1:]


@pytest.mark.parametrize("body", [b'{"model":"m\\ud83d"}', b'{"model":"m","x":"\\ud83d",}', b'{"model":"m","x":NaN}'])
async def test_what_nobody_can_read_the_same_way_is_refused(gateway: Gateway, body: bytes) -> None:
    assert (await ask_raw(gateway.port, request(body))).status == 400


def test_the_openai_package_reads_odd_streams(backend: ScriptedServer, client: openai.OpenAI) -> None:
    odd = [rb"\ud83d", rb"\ude00", b"x" * (2 << 20)]
    body = b"".join(CHUNK % (text, b',"logprobs":{"content":[{"logprob":-Infinity}]}') for text in odd)
    for end in (DONE, b"data: [DONE]", b"data: [DONE]\n"):
        for label in ("content-type: Text/Event-Stream", "content-type: text/plain", "x-nothing: 1"):
            says(backend, body + LAST + EXTRA + end, label)
            got = list(client.chat.completions.create(**HELLO, stream=True))
            text = "".join(chunk.choices[0].delta.content or "" for chunk in got)
            assert text == "\ud83d\ude00" + "x" * (2 << 20)
            assert all(chunk.usage is None for chunk in got)


def test_the_openai_package_finds_the_code_of_an_error(backend: ScriptedServer, client: openai.OpenAI) -> None:
    says(backend, ERROR)
    with pytest.raises(openai.BadRequestError) as first:
        client.chat.completions.create(**HELLO, stream=True)
    says(backend, CHUNK % (b"a", b"") + ERROR)
    with pytest.raises(openai.APIError) as later:
        list(client.chat.completions.create(**HELLO, stream=True))
    for error in (first.value, later.value):
        assert (error.code, error.type, error.param) == ("context_length_exceeded", TOO_LONG["type"], "messages")


def test_the_record_says_what_was_counted_by_size(
    backend: ScriptedServer, gateway: Gateway, client: openai.OpenAI
) -> None:
    says(backend, CHUNK % (b"x", b',"a":+1') + LAST + DONE)
    with client.chat.completions.with_streaming_response.create(**HELLO, stream=True) as answer:
        assert b"".join(answer.iter_bytes()) == CHUNK % (b"x", b',"a":+1') + LAST + DONE
    row = record_of(gateway, answer.headers["x-request-id"])
    assert (row["termination_reason"], row["usage_source"]) == ("complete", "estimate")
    assert row["completion_tokens"] > 10


def test_a_stream_that_ends_in_the_middle_is_not_complete(
    backend: ScriptedServer, gateway: Gateway, client: openai.OpenAI
) -> None:
    each = CHUNK.replace(b"null", b'""')
    says(backend, each % (b"a", b"") + each % (b"b", b""))
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(**HELLO, stream=True))


def test_grpc_callers_get_the_text_of_odd_answers(backend: ScriptedServer, caller: Caller) -> None:
    big = b"y" * (3 << 20)
    odd_events = [CHUNK % (rb"a\ud83d", b',"logprobs":NaN'), CHUNK % (b"[NaN]", b""), CHUNK % (big, b""), LAST]
    says(backend, b"".join(odd_events) + b"data: [DONE]")
    got, failure = chunks(caller.stream(hello(model="m")))
    assert failure is None
    assert "".join(chunk.delta_text for chunk in got) == "a\ufffd[NaN]" + big.decode()
    says(backend, ANSWER.replace(b"hi", rb"h\ud83di"), "content-type: application/json")
    assert answered(caller.ask_whole(hello(model="m"))[0]).output_text == "h\ufffdi"
    says(backend, ERROR)
    error = failed(chunks(caller.stream(hello(model="m")))[1])
    assert (error.status, error.reason) == ("INVALID_ARGUMENT", "CONTEXT_LENGTH_EXCEEDED")
