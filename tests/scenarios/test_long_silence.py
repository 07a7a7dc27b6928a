"""A stream whose first event is long in coming is kept alive, whatever comes then, and costs what it should."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.support.client import Answer, Client, ask
from tests.support.processes import KEY, Gateway, running, until
from tests.support.scripted import Received, ScriptedServer, http_answer, scripted

HEARTBEAT_S, SILENCE_S = 0.2, 0.7
COMMENT = b": keep-alive\n"
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def chunk(text: str, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None, **more}
    said = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"id: 7\ndata: " + json.dumps(said).encode() + b"\n\n"


STREAM = b"".join((chunk("Hi"), chunk(" there", finish_reason="stop"), b"data: [DONE]\n\n"))
EVENTS = "content-type: text/event-stream"
WHOLE = json.dumps(
    {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": USAGE,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi there", "tool_calls": [CALL]},
                     "finish_reason": "stop"}],
    }, indent=1,
).encode()  # fmt: skip
LONG = json.dumps({"choices": [{"index": 0, "message": {"content": "x" * (2 << 20)}}], "usage": USAGE}, indent=1)
ERROR = b'{"error": {"message": "it is broken", "type": "server_error", "code": "sim_%s"}}'


def answer(request: Received) -> bytes:
    """What the model's name says, after a silence."""
    model = json.loads(request.body)["model"]
    time.sleep(SILENCE_S if model != "quick" else 0)
    match model:
        case "whole":
            return http_answer(WHOLE)
        case "long":
            return http_answer(LONG.encode())
        case "detail":
            return http_answer(b'{"detail": "no such thing"}', status="422 Unprocessable Entity")
        case "page":
            return http_answer(b"<html>Bad gateway</html>", "content-type: text/html", status="502 Bad Gateway")
        case "dies":
            return b""
        case "gzip":
            return http_answer(b"\x1f\x8b", "content-type: application/json", "content-encoding: gzip")
        case "event":
            return http_answer(b'data: {"error": {"message": "it is broken", "code": "event"}}\n\n', EVENTS)
        case "400" | "429" | "500" | "503":
            return http_answer(ERROR % model.encode(), status=f"{model} Bad")
        case _:
            return http_answer(STREAM, EVENTS)


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    def serve(request: Received) -> bytes:
        if not (data := answer(request)):
            raise OSError  # the connection is closed
        return data

    with scripted(serve) as running_server:
        yield running_server


def settings(server: ScriptedServer, **more: Any) -> dict[str, Any]:
    return {
        "backends": [{"url": server.url}],
        "routing": {"retry": {"enabled": False}},
        "health_check": {"enabled": False},
        "stream": {"keepalive_interval": f"{HEARTBEAT_S:g}s"},
        "api_keys": [{"key": KEY, "name": "test"}],
        "billing": {"prices": [{"model": "*", "input_per_million": 1000, "output_per_million": 1000}]},
        **more,
    }


@pytest.fixture(scope="module")
def gateway(server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), settings(server)) as process:
        yield process


def asked(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], "stream": True, **more}


def streamed(answer: Answer) -> list[bytes]:
    """The events of a stream that was kept alive before the first one."""
    assert (answer.status, answer.whole) == (200, True)
    assert (answer.header("content-type") or "").startswith("text/event-stream")
    assert (answer.header("cache-control"), answer.header("x-accel-buffering")) == ("no-cache", "no")
    assert 1 <= answer.body.count(COMMENT) <= 8
    return answer.body.replace(COMMENT, b"").split(b"\n\n")[:-1]


def record(gateway: Gateway, answer: Answer) -> dict[str, Any]:
    request_id = answer.header("x-request-id")
    (row,) = until(lambda: [r for r in gateway.usage_rows() if r["request_id"] == request_id], "the usage record")
    return dict(row)


@pytest.mark.requirement("A035")
def test_a_stream_is_alive_before_its_first_event_and_then_the_same(gateway: Gateway) -> None:
    with Client(gateway.url) as client:
        answer = client.ask(asked("slow"))
        assert b"\n\n".join([*streamed(answer), b""]) == STREAM
        assert client.ask(asked("quick")).body == STREAM, "and its connection takes the next request"
    row = record(gateway, answer)
    assert (row["status"], row["termination_reason"], row["completion_tokens"]) == (200, "complete", 2)


def test_what_comes_at_once_has_no_comments(gateway: Gateway) -> None:
    assert ask(gateway.url, asked("quick")).body == STREAM
    whole = ask(gateway.url, asked("whole", stream=False))
    assert whole.body == WHOLE, "and who asks for no stream gets none"


@pytest.mark.parametrize(
    ("model", "code", "termination_reason"),
    [
        ("400", "sim_400", "refused"), ("429", "sim_429", "refused"), ("500", "sim_500", "refused"),
        ("503", "sim_503", "refused"),
        ("event", "event", "upstream_broken"), ("detail", "backend_error", "refused"),
        ("page", "backend_error", "refused"), ("dies", "backend_broken", "upstream_broken"),
        ("gzip", "bad_answer", "refused"),
    ],
)  # fmt: skip
def test_a_failure_is_an_event_from_then_on(gateway: Gateway, model: str, code: str, termination_reason: str) -> None:
    answer = ask(gateway.url, asked(model))
    (event,) = streamed(answer)
    error = json.loads(event.removeprefix(b"data: "))["error"]
    assert (error["code"], bool(error["message"])) == (code, True)
    row = record(gateway, answer)
    assert (row["status"], row["termination_reason"], row["code"], row["completion_tokens"] or 0) == (
        200,
        termination_reason,
        code,
        0,
    )
    assert (row["cost_nano"] > 0) is (model == "dies"), "only what may have been begun costs its prompt"


@pytest.mark.parametrize("counts", [False, True])
def test_an_answer_in_one_piece_becomes_an_event(gateway: Gateway, counts: bool) -> None:
    more = {"stream_options": {"include_usage": True}} if counts else {}
    answer = ask(gateway.url, asked("whole", **more))
    event, done = streamed(answer)
    said = json.loads(event.removeprefix(b"data: "))
    (choice,) = said["choices"]
    assert (said["object"], done) == ("chat.completion.chunk", b"data: [DONE]")
    assert choice["delta"] == {"role": "assistant", "content": "Hi there", "tool_calls": [{**CALL, "index": 0}]}
    assert said.get("usage") == (USAGE if counts else None)
    row = record(gateway, answer)
    assert (row["termination_reason"], row["prompt_tokens"], row["completion_tokens"]) == ("complete", 5, 2)


def test_an_answer_too_long_to_hold_becomes_one_too(gateway: Gateway) -> None:
    answer = ask(gateway.url, asked("long"))
    event, done = streamed(answer)
    assert json.loads(event.removeprefix(b"data: ")) == json.loads(LONG)
    assert done == b"data: [DONE]"
    assert record(gateway, answer)["completion_tokens"] == 2


def test_another_backend_helps_and_nobody_sees_it(server: ScriptedServer, gateway: Gateway, tmp_path: Any) -> None:
    with scripted(lambda _: (time.sleep(SILENCE_S), http_answer(ERROR % b"503", status="503 Busy"))[1]) as busy:
        config = settings(
            server,
            backends=[{"url": busy.url}, {"url": server.url}],
            routing={"fallback": [{"models": [], "primary": busy.url, "fallback": [server.url]}]},
        )
        with running(tmp_path, config) as process:
            answer = ask(process.url, asked("slow"))
            assert answer.body.replace(COMMENT, b"") == STREAM
            assert answer.body.count(COMMENT) >= 2


def test_who_leaves_before_the_first_event_pays_the_prompt(gateway: Gateway) -> None:
    with Client(gateway.url) as client:
        opened = client.open(asked("slow"))
        request_id = dict(opened.headers)["x-request-id"]
    (row,) = until(lambda: [r for r in gateway.usage_rows() if r["request_id"] == request_id], "the usage record")
    assert (row["status"], row["termination_reason"], row["completion_tokens"]) == (200, "client_gone", 0)
    assert row["prompt_tokens"] > 0


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_openai_package_reads_it(gateway: Gateway, kind: str) -> None:
    options: dict[str, Any] = {"api_key": KEY, "base_url": f"{gateway.url}/v1", "max_retries": 0}
    if kind == "sync":
        with openai.OpenAI(**options) as client:
            chunks = list(client.chat.completions.create(**asked("slow")))
            with pytest.raises(openai.APIError, match="it is broken"):
                list(client.chat.completions.create(**asked("500")))
    else:
        async with openai.AsyncOpenAI(**options) as client:
            chunks = [each async for each in await client.chat.completions.create(**asked("slow"))]
            with pytest.raises(openai.APIError, match="it is broken"):
                [each async for each in await client.chat.completions.create(**asked("500"))]
    assert "".join(each.choices[0].delta.content or "" for each in chunks) == "Hi there"


@pytest.mark.parametrize(("comment", "fails"), [(COMMENT, False), (COMMENT + b"\n", True)])
def test_a_comment_has_no_empty_line_for_the_openai_package(comment: bytes, fails: bool) -> None:
    body = chunk("Hi") + comment + chunk(" there") + b"data: [DONE]\n\n"
    transport = httpx.MockTransport(
        lambda _: httpx.Response(200, headers={"content-type": "text/event-stream"}, content=body)
    )
    with openai.OpenAI(api_key="sk-x", base_url="http://x", http_client=httpx.Client(transport=transport)) as client:
        stream = client.chat.completions.create(**asked("slow"))
        if fails:
            with pytest.raises(json.JSONDecodeError):
                list(stream)
        else:
            assert len(list(stream)) == 2


@pytest.mark.parametrize(("model", "again"), [("slow", 200), ("500", 500), ("503", 200)])
def test_with_an_idempotency_key_it_runs_once(server: ScriptedServer, gateway: Gateway, model: str, again: int) -> None:
    name, before = [("Idempotency-Key", f"silence-{model}")], len(server.received)

    def one(_: int) -> Answer:
        return ask(gateway.url, asked(model), headers=name)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(one, range(2))
    assert len(server.received) - before == 1
    for answer in (first, second):
        assert answer.status == 200
        assert COMMENT in answer.body
    assert streamed(first) == streamed(second)
    later = one(0)
    assert later.status == again
    if model == "503":
        assert len(server.received) - before == 2, "what nobody began is free to be tried again"
        return
    assert len(server.received) - before == 1
    if model == "slow":
        assert later.body == STREAM
    else:
        assert later.code == "sim_500"
