"""A client of one dialect, a backend of another: what each of the two sees, and what it costs."""

import json
from typing import Any

import pytest

from tests.support.fakes import events_of, make_job
from tests.support.loopback import HANG, Loopback, chunked, loopback, whole
from zuebee.config.settings import BackendSettings
from zuebee.contracts.inference import End, Event, Head, Job, Usage
from zuebee.lib.units import Timeout
from zuebee.models.estimate import PromptSizes
from zuebee.models.service import BackendInference

CHAT = b'{"model":"m","messages":[{"role":"user","content":"hi"}]%b}'
MESSAGE = json.dumps(
    {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "hello"}],
        "usage": {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 3},
    }
).encode()  # fmt: skip
EVENTS = [
    {"type": "message_start", "message": {"id": "msg_1", "model": "claude-x", "usage": {"input_tokens": 5}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hé"}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "llo"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
    {"type": "message_stop"},
]


def sse(events: list[dict[str, Any]]) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (each["type"].encode(), json.dumps(each, ensure_ascii=False).encode())
        for each in events
    )


def inference(server: Loopback, **changes: Any) -> BackendInference:
    fields: dict[str, Any] = {
        "url": server.url, "type": "anthropic", "api_key": "theirs", "first_byte_timeout_s": Timeout(2)
    }  # fmt: skip
    return BackendInference(BackendSettings(**{**fields, **changes}), "a", None, 5.0, PromptSizes())


async def ask(target: BackendInference, job: Job) -> list[Event]:
    events = [event async for event in events_of(target, job)]
    first = events[0]
    return [*events, *first.rest] if isinstance(first, Head) and first.rest is not None else events


def chat(extra: bytes = b"", **changes: Any) -> Job:
    return make_job(body=CHAT % extra, model="m", **changes)


def streamed(**changes: Any) -> Job:
    return chat(b',"stream":true', stream=True, **changes)


def end_of(events: list[Event]) -> End:
    assert isinstance(events[-1], End)
    return events[-1]


def text_of(stream: bytes) -> str:
    chunks = [json.loads(line[6:]) for line in stream.split(b"\n\n") if line.startswith(b"data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def test_the_backend_sees_its_own_dialect_and_its_own_key() -> None:
    async with loopback(whole(MESSAGE)) as server:
        job = chat(query=b"x=1", headers=[(b"authorization", b"Bearer callers"), (b"openai-beta", b"b")])
        await ask(inference(server, model_names={"m": "claude-x"}), job)
        [(head, body)] = server.requests
    assert head.startswith(b"POST /v1/messages HTTP/1.1\r\n")
    assert b"x-api-key: theirs\r\n" in head
    assert b"anthropic-version: 2023-06-01\r\n" in head
    assert b"callers" not in head
    sent = json.loads(body)
    assert (sent["model"], sent["messages"][0]["role"]) == ("claude-x", "user")
    assert sent["max_tokens"] > 0


async def test_an_answer_is_written_anew_and_paid_as_the_backend_counted() -> None:
    async with loopback(whole(MESSAGE)) as server:
        events = await ask(inference(server), chat())
    head, body = events[0], events[1]
    assert isinstance(head, Head)
    assert isinstance(body, bytes)
    assert dict(head.headers)[b"content-length"] == b"%d" % len(body)
    answer = json.loads(body)
    assert (answer["object"], answer["choices"][0]["message"]["content"]) == ("chat.completion", "hello")
    assert answer["created"] > 0
    assert end_of(events).usage == Usage(7, 3, "provider", 2)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"<html>", b'{"content":7}'])
async def test_what_is_no_answer_of_its_dialect_is_a_broken_backend(body: bytes) -> None:
    async with loopback(whole(body)) as server:
        end = end_of(await ask(inference(server), chat()))
    assert end.refusal is not None
    assert (end.refusal.status, end.cause) == (502, "broken")


async def test_an_answer_that_says_it_failed_is_told_as_such() -> None:
    said = b'{"type":"error","error":{"type":"overloaded_error","message":"busy"}}'
    async with loopback(whole(said)) as server:
        end = end_of(await ask(inference(server), chat()))
    assert end.refusal is not None
    assert (end.refusal.status, end.refusal.message) == (503, "busy")


async def test_without_usage_the_text_is_counted() -> None:
    said = json.loads(MESSAGE)
    del said["usage"]
    said["content"][0]["text"] = "x" * 400
    async with loopback(whole(json.dumps(said).encode())) as server:
        usage = end_of(await ask(inference(server), chat(prompt_tokens=9))).usage
    assert usage == Usage(9, 100, "estimate")


async def test_a_stream_says_the_same_however_it_is_cut() -> None:
    data = sse(EVENTS)
    seen = set()
    for cut in range(1, len(data), 7):
        async with loopback(chunked(data[:cut], data[cut:])) as server:
            events = await ask(inference(server), streamed())
        end = end_of(events)
        assert (end.refusal, end.last_words, end.usage) == (None, b"data: [DONE]\n\n", Usage(5, 3, "provider"))
        seen.add(text_of(b"".join(event for event in events if isinstance(event, bytes))))
    assert seen == {"Héllo"}


async def test_a_stream_that_breaks_off_is_not_whole_and_pays_for_what_came() -> None:
    async with loopback(chunked(sse(EVENTS[:5]))) as server:
        end = end_of(await ask(inference(server), streamed()))
    assert end.refusal is not None
    assert (end.refusal.code, end.last_words) == ("incomplete_answer", b"")
    assert end.usage is not None
    assert end.usage.source == "partial"
    assert end.usage.prompt_tokens == 5


async def test_a_failure_in_a_stream_is_the_backends() -> None:
    failure = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
    async with loopback(chunked(sse([*EVENTS[:5], failure]))) as server:
        end = end_of(await ask(inference(server), streamed()))
    assert end.refusal is not None
    assert (end.refusal.message, end.cause) == ("busy", "overload")


async def test_what_cannot_be_carried_is_refused_by_name_before_anything_is_sent() -> None:
    async with loopback(whole(MESSAGE)) as server:
        end = end_of(await ask(inference(server), chat(b',"n":3')))
        assert server.requests == []
    assert end.refusal is not None
    assert (end.refusal.status, end.refusal.param, end.sent) == (400, "n", False)


async def test_what_is_left_out_is_named() -> None:
    async with loopback(whole(MESSAGE)) as server:
        [head, *_] = await ask(inference(server), chat(b',"seed":3'))
    assert isinstance(head, Head)
    assert dict(head.headers)[b"x-zuebee-dropped-fields"] == b"seed"


async def test_a_name_that_the_caller_chose_stays_in_its_header() -> None:
    async with loopback(whole(MESSAGE)) as server:
        [head, *_] = await ask(inference(server), chat(b',"a\\r\\nset-cookie: x, ' + b"y" * 500 + b'":3'))
    assert isinstance(head, Head)
    named = dict(head.headers)[b"x-zuebee-dropped-fields"]
    assert named.startswith(b"a??set-cookie:?x?")
    assert len(named) == 64


@pytest.mark.parametrize("operation", ["completions", "embeddings", "count_tokens"])
async def test_only_chats_are_translated(operation: str) -> None:
    async with loopback(whole(MESSAGE)) as server:
        end = end_of(await ask(inference(server), chat(operation=operation)))
        assert server.requests == []
    assert end.refusal is not None
    assert end.refusal.status == 404


async def test_the_same_dialect_passes_byte_for_byte_with_its_query_and_versions() -> None:
    body = b'{ "model":"m", "max_tokens":5,\n "messages":[], "new":[1,  2] }'
    headers = [(b"anthropic-version", b"2026-10-21"), (b"anthropic-beta", b"a,b")]
    async with loopback(whole(MESSAGE)) as server:
        job = make_job(
            body=body, model="m", dialect="anthropic", path="/v1/messages", query=b"beta=true", headers=headers
        )
        events = await ask(inference(server), job)
        [(head, sent)] = server.requests
    assert sent == body
    assert head.startswith(b"POST /v1/messages?beta=true HTTP/1.1\r\n")
    assert head.count(b"anthropic-version") == 1
    assert b"anthropic-version: 2026-10-21\r\nanthropic-beta: a,b\r\n" in head
    assert events[1] == MESSAGE
    assert end_of(events).usage == Usage(7, 3, "provider", 2)


async def test_a_stream_of_the_same_dialect_passes_byte_for_byte() -> None:
    data = sse(EVENTS)
    async with loopback(chunked(*(data[at : at + 50] for at in range(0, len(data), 50)))) as server:
        job = make_job(body=CHAT % b',"stream":true', model="m", dialect="anthropic", path="/v1/messages", stream=True)
        job.stream_usage = True
        events = await ask(inference(server), job)
    end = end_of(events)
    assert b"".join(event for event in events if isinstance(event, bytes)) + end.last_words == data
    assert (end.refusal, end.usage) == (None, Usage(5, 3, "provider"))


async def test_a_model_has_another_name_at_the_backend_and_all_else_is_as_it_came() -> None:
    body = b'{ "model" : "m", "messages":[{"role":"user","content":"\\"model\\": \\"m\\""}] }'
    async with loopback(whole(MESSAGE)) as server:
        job = make_job(body=body, model="m", dialect="anthropic", path="/v1/messages")
        await ask(inference(server, model_names={"m": "claude \u00fc"}), job)
        [(_, sent)] = server.requests
    assert sent == body.replace(b'"m", "messages', '"claude \u00fc", "messages'.encode())


async def test_a_bound_that_is_refused_is_taken_out_again() -> None:
    refusal = whole(b'{"type":"error","error":{"type":"invalid_request_error","message":"too long"}}', 400)
    async with loopback(refusal, whole(MESSAGE)) as server:
        target = inference(server, type="vllm", dialects=("openai",))
        job = make_job(body=CHAT % b"", model="m", dialect="anthropic", path="/v1/messages", answer_bound=77)
        await ask(target, job)
        first, second = (json.loads(body) for _, body in server.requests)
    assert 77 in first.values()
    assert 77 not in second.values()


async def test_a_server_that_says_nothing_behind_the_reason_to_stop_gets_its_last_words_said() -> None:
    async with loopback([*chunked(sse(EVENTS[:-1]))[:-1], HANG]) as server:
        end = end_of(await ask(inference(server), streamed()))
    assert (end.refusal, end.last_words) == (None, b"data: [DONE]\n\n")
