"""Answers that are labelled, packed or spelled otherwise than they should be: they pass, and are metered."""

import gzip
import json
import zlib
from contextlib import aclosing
from typing import Any

import pytest
from backports import zstd

from tests.support.fakes import events_of, make_job
from tests.support.loopback import HANG, chunked, loopback, whole
from tests.unit.models.test_service import ANSWER, CHUNKS, EVENTS, ask, code_of, data_of, end_of, inference, streamed
from zuebee.contracts.inference import Head, Usage
from zuebee.dialects.openai import render_error, render_error_event
from zuebee.models.answer import MAX_PASSED_PLAIN_BYTES, MAX_UNPACKED_BYTES
from zuebee.models.lanes import MAX_HELD_BYTES

SHOWN = b"".join([*CHUNKS, EVENTS[-1]])
FIGURES = Usage(7, 6, "provider")


def labelled(content_type: bytes | None, *parts: bytes, status: int = 200, extra: bytes = b"") -> list[Any]:
    label = b"" if content_type is None else b"Content-Type: %b\r\n" % content_type
    head = b"HTTP/1.1 %d X\r\n%b%btransfer-encoding: chunked\r\n\r\n" % (status, label, extra)
    return [head, *chunked(*parts)[1:]]


TYPES = [
    b"Text/Event-Stream", b"TEXT/EVENT-STREAM;charset=UTF-8", b"text/plain", b"application/json", b"text/html", b"",
    b"application/octet-stream", b"application/x-ndjson", b"nonsense", None,
]  # fmt: skip


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("begin", [b"", b": hello\n\n", b"\n\n", b"\xef\xbb\xbf", b"event: x\n", b"retry: 3\n"])
async def test_a_stream_is_one_whatever_it_is_called(content_type: bytes | None, begin: bytes) -> None:
    if content_type is not None and content_type.lower().startswith(b"text/event-stream") and begin == b"\n\n":
        return  # blanks are no event, and pass or not
    body = begin + b"".join(EVENTS)
    for parts in ([begin + EVENTS[0], *EVENTS[1:]], [body], [body[:2], body[2:]]):
        async with loopback(labelled(content_type, *parts)) as server:
            events = await ask(inference(server), streamed())
        assert isinstance(events[0], Head)
        assert events[0].events
        assert data_of(events) == begin + SHOWN
        assert end_of(events).usage == FIGURES
        kept = [value for name, value in events[0].headers if name == b"content-type"]
        assert kept == ([] if content_type is None else [content_type])


async def test_a_stream_without_a_label_passes_event_by_event() -> None:
    async with (
        loopback([*labelled(None, EVENTS[0])[:-1], HANG]) as server,
        aclosing(events_of(inference(server), streamed())) as events,
    ):
        assert isinstance(await anext(events), Head)
        assert await anext(events) == EVENTS[0]


@pytest.mark.parametrize("status", [201, 203, 206, 299])
async def test_any_success_may_be_a_stream(status: int) -> None:
    async with loopback(labelled(b"text/event-stream", *EVENTS, status=status)) as server:
        events = await ask(inference(server), streamed())
    assert isinstance(events[0], Head)
    assert (events[0].status, data_of(events), end_of(events).usage) == (status, SHOWN, FIGURES)


@pytest.mark.parametrize("content_type", TYPES)
async def test_an_answer_in_one_piece_is_one_whatever_it_is_called(content_type: bytes | None) -> None:
    for job in (make_job(), streamed()):
        async with loopback(labelled(content_type, ANSWER)) as server:
            events = await ask(inference(server), job)
        assert (data_of(events), code_of(events), end_of(events).usage) == (ANSWER, "", Usage(7, 5, "provider"))


async def test_a_page_is_no_answer_however_it_is_spelled() -> None:
    for content_type in (b"text/html", b"Text/HTML; charset=utf-8"):
        for job in (make_job(), streamed()):
            async with loopback(labelled(content_type, b"<html>busy</html>")) as server:
                assert code_of(await ask(inference(server), job)) == "bad_answer"


async def test_a_long_answer_that_is_no_stream_passes() -> None:
    body = ANSWER.replace(b"hi", b"x" * (2 * MAX_HELD_BYTES))
    async with loopback(whole(body)) as server:
        events = await ask(inference(server), streamed())
    assert (data_of(events), end_of(events).usage) == (body, Usage(7, 5, "provider"))


# --- packed ---


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKED = {
    "gzip": (gzip.compress, b"gzip"),
    "x-gzip": (gzip.compress, b"X-GZip"),
    "zlib": (zlib.compress, b"deflate"),
    "bare": (bare, b"deflate"),
    "zstd": (zstd.compress, b"zstd"),
}


@pytest.mark.parametrize("size", [100, MAX_UNPACKED_BYTES + 100, 5 * MAX_UNPACKED_BYTES])
@pytest.mark.parametrize("name", PACKED)
async def test_a_packed_answer_has_its_price_at_any_size(name: str, size: int) -> None:
    pack, coding = PACKED[name]
    plain = ANSWER.replace(b"hi", b"x" * size)
    body = pack(plain)
    async with loopback(whole(body, extra=b"content-encoding: %b\r\n" % coding)) as server:
        events = await ask(inference(server))
    if name == "zstd" and size <= MAX_PASSED_PLAIN_BYTES:
        body = plain  # not every client can read it
    assert (data_of(events), end_of(events).usage) == (body, Usage(7, 5, "provider"))
    assert (b"content-encoding" in dict(next(each for each in events if isinstance(each, Head)).headers)) is (
        body is not plain
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gzip", "zstd"])
async def test_a_packed_answer_that_is_too_long_to_hold_has_its_price(name: str) -> None:
    noise = b"".join(b"%x" % (n * 2654435761 % 2**32) for n in range(600_000))
    pack, coding = PACKED[name]
    plain = ANSWER.replace(b"hi", noise)
    body = pack(plain)
    assert len(body) > MAX_HELD_BYTES
    async with loopback(whole(body, extra=b"content-encoding: %b\r\n" % coding)) as server:
        events = await ask(inference(server))
    shown = plain if name == "zstd" else body
    assert (data_of(events), end_of(events).usage) == (shown, Usage(7, 5, "provider"))


@pytest.mark.parametrize("body", [b"\x1f\x8bnonsense", b"\x28\xb5\x2f\xfd zstd", b"no gzip"])
async def test_what_cannot_be_unpacked_passes_and_is_estimated(body: bytes) -> None:
    async with loopback(whole(body, extra=b"content-encoding: gzip\r\n")) as server:
        events = await ask(inference(server))
    usage = end_of(events).usage
    assert (data_of(events), code_of(events)) == (body, "")
    assert usage is not None


@pytest.mark.parametrize("name", PACKED)
async def test_a_packed_stream_is_unpacked(name: str) -> None:
    pack, coding = PACKED[name]
    body = pack(b"".join(EVENTS))
    script = labelled(b"text/event-stream", body[:30], body[30:], extra=b"content-encoding: %b\r\n" % coding)
    async with loopback(script) as server:
        events = await ask(inference(server), streamed())
    assert isinstance(events[0], Head)
    assert b"content-encoding" not in dict(events[0].headers)
    assert (data_of(events), end_of(events).usage) == (SHOWN, FIGURES)


async def test_a_stream_in_an_unknown_coding_passes_as_it_comes() -> None:
    async with loopback(
        labelled(b"text/event-stream", b"\x0b\x02", b"\x80br", extra=b"content-encoding: br\r\n")
    ) as server:
        events = await ask(inference(server), streamed())
    assert isinstance(events[0], Head)
    assert (data_of(events), code_of(events)) == (b"\x0b\x02\x80br", "")
    assert end_of(events).usage is not None


# --- spelled ---


@pytest.mark.parametrize(
    "odd", [rb'"a":"\ud83d",', b'"a":NaN,', b'"a":[-Infinity],', b'"a":"\x01",', b'"a":+1,', b'"a":[1,],']
)
async def test_an_answer_that_no_strict_reader_takes_has_its_price(odd: bytes) -> None:
    body = b"{" + odd + ANSWER[1:]
    unpriced = b"{" + odd + b'"choices":[{"message":{"content":"12345678"}}]}'
    for job in (make_job(), streamed()):
        async with loopback(whole(body), whole(unpriced)) as server:
            target = inference(server)
            events, estimated = await ask(target, job), await ask(target, job)
        assert (data_of(events), end_of(events).usage) == (body, Usage(7, 5, "provider"))
        usage = end_of(estimated).usage
        assert data_of(estimated) == unpriced
        assert usage is not None
        assert usage.source == "estimate"
        assert usage.completion_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_of_length_and_chunks_the_chunks_count_and_the_connection_is_closed(stream: bool) -> None:
    body = b"".join(EVENTS) if stream else ANSWER
    long = ANSWER.replace(b"hi", b"x" * (2 * MAX_HELD_BYTES))
    for order in (
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 5\r\n",
    ):
        for sent in (body, body if stream else long):
            label = b"text/event-stream" if stream else b"application/json"
            head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b\r\n" % (label, order)
            script = [head, b"%x\r\n%b\r\n0\r\n\r\n" % (len(sent), sent)]
            async with loopback(script) as server:
                target = inference(server)
                for _ in range(2):
                    events = await ask(target, streamed() if stream else make_job())
                    assert isinstance(events[0], Head)
                    assert data_of(events) == (SHOWN if stream else sent)
                    assert dict(events[0].headers).get(b"content-length") in (None, b"%d" % len(sent))
            assert server.connections == 2


# --- errors ---


def error_of(kind: str | None, code: str | int | None, param: str | None = None, **more: int) -> dict[str, Any]:
    return {"message": "no", "type": kind, "param": param, "code": code, **more}


ERRORS = {
    "OpenAI's": (error_of("invalid_request_error", "context_length_exceeded", "messages"), 400),
    "vLLM's": (error_of("BadRequestError", 400), 400),
    "a code in digits": (error_of("x", "422"), 422),
    "a status": (error_of("x", "y", "n", status=413), 413),
    "by its type": (error_of("rate_limit_error", None), 429),
    "by nothing": (error_of("x", "y"), 502),
    "the server's": (error_of("InternalServerError", 500), 500),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("form", ["error", "object"])
async def test_an_error_keeps_what_it_says_and_as_the_first_event_its_status(name: str, form: str) -> None:
    error, status = ERRORS[name]
    payload = json.dumps({"error": error} if form == "error" else {"object": "error", **error}).encode()
    scripts = [chunked(b"data: %b\n\n" % payload), chunked(CHUNKS[0], b"data: %b\n\n" % payload), whole(payload)]
    for script, job in zip(scripts, (streamed(), streamed(), make_job()), strict=True):
        async with loopback(script) as server:
            events = await ask(inference(server), job)
        refusal = end_of(events).refusal
        assert refusal is not None
        assert refusal.status == status
        shown = {key: error[key] for key in ("message", "type", "param", "code")}
        assert json.loads(render_error(refusal))["error"] == shown
        assert json.loads(render_error_event(refusal)[6:])["error"] == shown
        assert (end_of(events).cause == "none") == (status < 500)


async def test_what_a_backend_says_of_the_gateways_key_is_not_told() -> None:
    for code in (401, "invalid_api_key"):
        error = json.dumps({"error": {"message": "sk-theirs is wrong", "code": code}}).encode()
        async with loopback(chunked(b"data: %b\n\n" % error)) as server:
            events = await ask(inference(server), streamed())
        assert (code_of(events), end_of(events).cause) == ("backend_refused_key", "unwelcome")
        assert "theirs" not in str(end_of(events).refusal)
