import asyncio
import gzip
import json
import zlib
from contextlib import aclosing
from typing import Any

import pytest

from tests.support.fakes import events_of, make_job, told
from tests.support.loopback import HANG, RESET, Loopback, chunked, loopback, whole
from tests.support.samples import VLLM
from zuebee.config.settings import BackendSettings
from zuebee.contracts.inference import End, Event, Head, Job, Quiet, Usage
from zuebee.http.pool import HttpFailure
from zuebee.lib.units import Timeout
from zuebee.models.estimate import PromptSizes
from zuebee.models.service import MAX_HELD_BYTES, BackendInference

ANSWER = b'{"choices":[{"message":{"content":"hi"}}], "usage":{"prompt_tokens":7,"completion_tokens":5}}'
STREAM = VLLM["chat_stream_usage"]
EVENTS = [event + b"\n\n" for event in STREAM.split(b"\n\n")[:-1]]
CHUNKS = [event for event in EVENTS if b'"choices":[]' not in event and b"[DONE]" not in event]


def inference(server: Loopback, quiet_s: float = 5.0, **changes: Any) -> BackendInference:
    fields: dict[str, Any] = {"url": server.url, "api_key": "theirs", "first_byte_timeout_s": Timeout(2)}
    sizes = changes.pop("sizes", None) or PromptSizes()
    return BackendInference(BackendSettings(**{**fields, **changes}), "a", None, quiet_s, sizes)


async def ask(target: BackendInference, job: Job | None = None) -> list[Event]:
    """The events of a reply; an answer that came with its head is taken apart."""
    events = [event async for event in events_of(target, job or make_job())]
    first = events[0]
    return [*events, *first.rest] if isinstance(first, Head) and first.rest is not None else events


def streamed(stream_usage: bool = False) -> Job:
    return make_job(body=b'{"model":"m","stream":true}', stream=True, stream_usage=stream_usage)


def end_of(events: list[Event]) -> End:
    last = events[-1]
    assert isinstance(last, End)
    assert sum(isinstance(event, End) for event in events) == 1
    return last


def code_of(events: list[Event]) -> str:
    refusal = end_of(events).refusal
    return refusal.code if refusal else ""


def data_of(events: list[Event]) -> bytes:
    last = events[-1]
    words = last.last_words if isinstance(last, End) else b""
    return b"".join(event for event in events if isinstance(event, bytes)) + words


# --- answers in one piece ---


@pytest.mark.requirement("A128", "A145", "A146", "A148")
async def test_an_answer_passes_byte_for_byte_and_its_connection_is_kept() -> None:
    async with loopback(whole(ANSWER, extra=b"x-extra: 1\r\n")) as server:
        target = inference(server)
        body = b'{ "model" : "m",\r\n "unknown":[1,  2] }'
        for _ in range(3):
            events = await ask(target, make_job(body=body, query=b"q=1"))
            first = events[0]
            assert isinstance(first, Head)
            assert (first.status, first.backend, first.backend_url) == (200, "a", server.url)
            assert end_of(events).backend_url == server.url
            assert (b"x-extra", b"1") in first.headers
            assert data_of(events) == ANSWER
            assert end_of(events).usage == first.usage_so_far() == Usage(7, 5, "provider")
        target.close()
    assert server.connections == 1
    assert {sent for _, sent in server.requests} == {body}
    assert all(head.startswith(b"POST /v1/chat/completions?q=1 HTTP/1.1\r\n") for head, _ in server.requests)


@pytest.mark.requirement("A048")
@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
async def test_an_error_answer_passes_as_it_is(status: int) -> None:
    error = b'{"error":{"message":"no"}}'
    for job in (make_job(), streamed()):
        async with loopback(whole(error, status, extra=b"retry-after: 3\r\n")) as server:
            events = await ask(inference(server), job)
        first = events[0]
        assert isinstance(first, Head)
        assert first.status == status
        assert (b"retry-after", b"3") in first.headers
        assert data_of(events) == error
        assert end_of(events).usage is None


@pytest.mark.parametrize("stream", [False, True])
async def test_what_came_from_the_servers_cache_is_told_apart(stream: bool) -> None:
    usage = b'"usage":{"prompt_tokens":7,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4}}'
    extra = b'data: {"choices":[],' + usage + b"}\n\n"
    script = chunked(CHUNKS[0], extra, EVENTS[-1]) if stream else whole(b'{"choices":[],' + usage + b"}")
    async with loopback(script) as server:
        events = await ask(inference(server), streamed() if stream else make_job())
    assert end_of(events).usage == Usage(7, 5, "provider", 4)


async def test_without_usage_it_is_estimated_and_said_so() -> None:
    async with loopback(whole(b'{"choices":[{"message":{"content":"12345678"}}]}')) as server:
        usage = end_of(await ask(inference(server), make_job(prompt_tokens=100))).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.source) == (100, "estimate")
    assert usage.completion_tokens > 0


@pytest.mark.parametrize(
    ("body", "status", "extra"),
    [
        (ANSWER, 201, b""),
        (gzip.compress(ANSWER), 200, b"content-encoding: gzip\r\n"),
        (zlib.compress(ANSWER), 200, b"content-encoding: deflate\r\n"),
    ],
    ids=["another success", "gzip", "deflate"],
)
async def test_an_answer_in_an_odd_form_has_its_price_all_the_same(body: bytes, status: int, extra: bytes) -> None:
    async with loopback(whole(body, status, extra=extra)) as server:
        events = await ask(inference(server))
    assert data_of(events) == body
    assert end_of(events).usage == Usage(7, 5, "provider")


async def test_a_long_answer_that_breaks_off_has_cost_what_came() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999999\r\n\r\n"
    async with loopback([head, b'{"choices":[{"text":"' + b"x" * (MAX_HELD_BYTES * 2)]) as server:
        events = await ask(inference(server))
    first, end = events[0], end_of(events)
    assert isinstance(first, Head)
    assert code_of(events) == "incomplete_answer"
    assert end.usage is not None
    assert end.usage == first.usage_so_far()
    assert end.usage.source == "partial"
    assert end.usage.completion_tokens == len(data_of(events)) // 4


@pytest.mark.parametrize("chunks", [False, True])
async def test_a_long_answer_passes_without_being_held(chunks: bool) -> None:
    body = b'{"data":"' + b"x" * (MAX_HELD_BYTES * 3) + b'","usage":{"prompt_tokens":9,"total_tokens":9}}'
    script = chunked(body, content_type=b"application/json") if chunks else whole(body)
    async with loopback(script) as server:
        events = await ask(inference(server))
    assert data_of(events) == body
    assert max(len(event) for event in events if isinstance(event, bytes)) < 2 * MAX_HELD_BYTES
    assert end_of(events).usage == Usage(9, 0, "provider")


@pytest.mark.parametrize(
    ("script", "code", "cause"),
    [
        ([RESET], "backend_broken", "died"),
        ([b""], "backend_broken", "died"),
        ([b"SSH-2.0-OpenSSH\r\n"], "bad_answer", "broken"),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"], "incomplete_answer", "died"),
        (chunked(b'{"a', end=False, content_type=b"application/json"), "incomplete_answer", "died"),
        (whole(b'{"choices":'), "bad_answer", "broken"),
        (whole(b"<html>", content_type=b"text/html"), "bad_answer", "broken"),
        (whole(b"", 302, extra=b"location: http://elsewhere/\r\n"), "bad_answer", "unwelcome"),
        (whole(b"", 303, extra=b"location: http://elsewhere/\r\n"), "bad_answer", "broken"),
        (whole(b'{"error":"sk-theirs is wrong"}', 401), "backend_refused_key", "unwelcome"),
    ],
)
async def test_what_is_no_answer(script: list[Any], code: str, cause: str) -> None:
    for job in (make_job(), streamed()):
        async with loopback(script) as server:
            events = await ask(inference(server), job)
        assert (code_of(events), end_of(events).cause) == (code, cause)
        assert len(events) == 1
        refusal = end_of(events).refusal
        assert refusal is not None
        assert server.url.removeprefix("http://") not in refusal.message
        assert "theirs" not in refusal.message


@pytest.mark.requirement("A049")
@pytest.mark.parametrize(
    ("script", "settings", "code"),
    [
        ([HANG], {"first_byte_timeout_s": Timeout(0.05)}, "backend_timeout"),
        ([*chunked(CHUNKS[0], end=False), HANG], {"idle_timeout_s": Timeout(0.05)}, "backend_stalled"),
        ([*chunked(CHUNKS[0], end=False), HANG], {"timeout_s": Timeout(0.05)}, "backend_timeout"),
    ],
    ids=["first byte", "idle", "total"],
)
async def test_deadlines(script: list[Any], settings: dict[str, Any], code: str) -> None:
    async with loopback(script) as server:
        events = await ask(inference(server, **settings), streamed())
        async with asyncio.timeout(5):
            await server.left.wait()
    assert (code_of(events), end_of(events).cause) == (code, "timeout")


async def test_nobody_there() -> None:
    async with loopback([HANG]) as server:
        pass
    end = end_of(await ask(inference(server)))
    assert end.refusal is not None
    assert (end.refusal.code, end.cause, end.sent) == ("backend_unreachable", "connect_failure", False)
    assert end.refusal.should_retry


# --- streams ---


@pytest.mark.requirement("A034", "A295", "A297")
@pytest.mark.parametrize("asked", [False, True])
async def test_a_stream_passes_and_is_metered(asked: bool) -> None:
    async with loopback(chunked(*EVENTS)) as server:
        target = inference(server)
        for _ in range(2):
            events = await ask(target, streamed(asked))
            assert isinstance(events[0], Head)
            assert data_of(events) == (STREAM if asked else b"".join([*CHUNKS, EVENTS[-1]]))
            wanted = End(Usage(7, 6, "provider"), backend="a", backend_url=server.url, last_words=EVENTS[-1])
            assert told(end_of(events)) == told(wanted)
        target.close()
    sent = json.loads(server.requests[0][1])
    assert sent.get("stream_options") == (None if asked else {"include_usage": True})
    assert server.connections == 1


@pytest.mark.requirement("A035")
async def test_each_event_passes_before_the_next_is_there() -> None:
    async with (
        loopback([*chunked(CHUNKS[0], end=False), HANG]) as server,
        aclosing(events_of(inference(server), streamed())) as events,
    ):
        assert isinstance(await anext(events), Head)
        assert await anext(events) == CHUNKS[0]


@pytest.mark.requirement("A297", "A298")
@pytest.mark.parametrize("mode", ["auto", "always", "never"])
async def test_a_server_that_refuses_the_option(mode: str) -> None:
    refusal = whole(b'{"error":"unknown field stream_options"}', 422)
    plain = chunked(*CHUNKS, EVENTS[-1])
    async with loopback(*([plain] if mode == "never" else [refusal, plain, plain])) as server:
        target = inference(server, include_usage=mode)
        first, second = await ask(target, streamed()), await ask(target, streamed())
    options = ["stream_options" in json.loads(body) for _, body in server.requests]
    if mode == "always":
        assert isinstance(first[0], Head)
        assert first[0].status == 422
        assert all(options)
        return
    assert options == ([True, False, False] if mode == "auto" else [False, False])
    usage = end_of(second).usage
    assert usage is not None
    assert usage.source == "estimate"
    assert usage.completion_tokens == len(CHUNKS)


async def test_a_bad_request_that_names_the_option_stops_nothing() -> None:
    refusal = whole(b'{"error":"n must be a number, not \\"stream_options\\""}', 400)
    async with loopback(refusal, refusal, chunked(*EVENTS)) as server:
        target = inference(server)
        first = await ask(target, streamed())
        await ask(target, streamed())
    assert isinstance(first[0], Head)
    assert first[0].status == 400
    assert ["stream_options" in json.loads(body) for _, body in server.requests] == [True, False, True]


@pytest.mark.requirement("A048")
@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([CHUNKS[0]], "incomplete_answer"),
        ([CHUNKS[0], 0.05, RESET], "backend_broken"),
        ([CHUNKS[0], b"data: {\n\n"], "bad_answer"),
        ([CHUNKS[0], b'data: {"error":{"message":"boom","type":"Oops","code":500}}\n\n'], "Oops"),
    ],
)
async def test_a_stream_that_breaks_off(parts: list[Any], code: str) -> None:
    async with loopback(chunked(*parts, end=False)) as server:
        events = await ask(inference(server), streamed())
    assert data_of(events) == CHUNKS[0]
    assert code_of(events) == code
    assert end_of(events).cause != "none"
    usage = end_of(events).usage
    assert usage is not None
    assert (usage.completion_tokens, usage.source) == (1, "partial")


async def test_a_stream_that_fails_before_its_first_event_has_no_head() -> None:
    for parts in ([b'data: {"error":"no"}\n\n'], [b": hello\n\n"], [b"data: {\n\n"]):
        async with loopback(chunked(*parts)) as server:
            events = await ask(inference(server), streamed())
        assert len(events) == 1
        assert end_of(events).cause != "none"


async def test_an_error_event_that_blames_the_client_is_not_the_backends_fault() -> None:
    async with loopback(chunked(b'data: {"error":{"message":"too long","code":400}}\n\n')) as server:
        end = end_of(await ask(inference(server), streamed()))
    assert end.refusal is not None
    assert (end.refusal.status, end.refusal.message, end.cause) == (400, "too long", "none")


async def test_a_stream_without_done_is_whole_if_it_finished() -> None:
    async with loopback(chunked(*CHUNKS)) as server:
        events = await ask(inference(server), streamed())
    assert code_of(events) == ""
    assert b"[DONE]" not in data_of(events)


async def test_silence_is_told() -> None:
    async with loopback(chunked(CHUNKS[0], 0.2, *EVENTS[1:])) as server:
        events = await ask(inference(server, quiet_s=0.02), streamed())
    assert any(isinstance(event, Quiet) for event in events)
    assert code_of(events) == ""


@pytest.mark.parametrize("taken", [1, 2])
async def test_who_leaves_stops_the_backend(taken: int) -> None:
    async with loopback([*chunked(CHUNKS[0], end=False), HANG]) as server:
        target = inference(server)
        async with aclosing(events_of(target, streamed())) as events:
            for _ in range(taken):
                event = await anext(events)
                if isinstance(event, Head):
                    usage = event.usage_so_far
        async with asyncio.timeout(5):
            await server.left.wait()
        so_far = usage()
        assert so_far is not None
        assert (so_far.completion_tokens, so_far.source) == (1, "partial")


async def test_estimates_learn_from_real_usage() -> None:
    sizes, job = PromptSizes(), make_job(body=b"x" * 70)
    before = sizes.sizes("", job)
    async with loopback(*[whole(ANSWER)] * 20) as server:
        target = inference(server, sizes=sizes)
        for _ in range(20):
            await ask(target, job)
    after = sizes.sizes("", job)
    assert 7 <= after[0] < before[0], "the backend counts 7"


CHAT = b'{"messages":[{"role":"user","content":"hello"}]}'


async def test_a_bound_is_written_into_the_body() -> None:
    async with loopback(whole(ANSWER)) as server:
        await ask(inference(server), make_job(body=CHAT, answer_bound=33))
    assert server.requests[0][1] == b'{"max_tokens":33,' + CHAT[1:]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [400, 422])
async def test_a_bound_that_is_refused_is_left_out_once(status: int, stream: bool) -> None:
    good = chunked(*EVENTS) if stream else whole(ANSWER)
    async with loopback(whole(b'{"error":{"message":"too long"}}', status), good) as server:
        job = make_job(body=CHAT, answer_bound=33, stream=stream, stream_usage=True)
        events = await ask(inference(server), job)
    assert end_of(events).refusal is None
    assert [body for _, body in server.requests] == [b'{"max_tokens":33,' + CHAT[1:], CHAT]
    assert job.answer_bound == 0, "and whoever looks after the answer knows"


async def test_what_is_refused_for_another_reason_is_the_answer() -> None:
    async with loopback(*[whole(b'{"error":{"message":"no"}}', 400)] * 2) as server:
        events = await ask(inference(server), make_job(body=CHAT, answer_bound=33))
    assert len(server.requests) == 2
    assert isinstance(events[0], Head)
    assert events[0].status == 400


# --- the gateway's own requests ---


async def test_own_requests() -> None:
    async with loopback(whole(b"ok"), whole(b"", 503), [RESET]) as server:
        target = inference(server)
        assert await target.get("/health", "GET", 1.0) == (200, b"ok")
        assert await target.get("/health", "GET", 1.0) == (503, b"")
        with pytest.raises(HttpFailure):
            await target.get("/health", "GET", 1.0)
    assert b"authorization: Bearer theirs" in server.requests[0][0]


@pytest.mark.slow
async def test_a_whole_answer_has_the_time_of_a_whole_exchange() -> None:
    """Its first byte comes when all of it is made; that of a stream is waited for as long as it was."""
    late = Timeout(0.05)
    for script in ([0.3, *whole(ANSWER)], [b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", 0.3, b"null"]):
        async with loopback(script) as server:
            events = await ask(inference(server, first_byte_timeout_s=late))
            assert isinstance(events[0], Head) or code_of(events) == "bad_answer"
    async with loopback([0.3, *whole(ANSWER)]) as server:
        assert code_of(await ask(inference(server, first_byte_timeout_s=late), streamed())) == "backend_timeout"
    async with loopback([HANG]) as server:
        assert code_of(await ask(inference(server, timeout_s=late))) == "backend_timeout"


async def test_what_a_base_url_asks_for_is_in_no_record() -> None:
    async with loopback(whole(ANSWER)) as server:
        target = inference(server, url=f"{server.url}/v1beta/openai?key=secret")
        events = await ask(target)
        first = events[0]
        assert isinstance(first, Head)
        assert first.backend_url == end_of(events).backend_url == f"{server.url}/v1beta/openai"
        target.close()
    assert server.requests[0][0].startswith(b"POST /v1beta/openai/chat/completions?key=secret HTTP/1.1\r\n")
