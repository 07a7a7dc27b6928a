import json

import pytest

from zuebee.contracts.errors import NO_KEY, Refusal
from zuebee.contracts.inference import Head
from zuebee.edge.client import (
    STREAM_HEADERS,
    error_reply,
    relayed_error_headers,
    relayed_headers,
    unread_reply,
)


def test_an_error_reply() -> None:
    status, headers, body = error_reply(Refusal(429, "rate_limit_error", "c", "m", None, 1.2001, True), "req_1")
    assert status == 429
    assert dict(headers) == {
        b"content-type": b"application/json",
        b"content-length": str(len(body)).encode(),
        b"x-request-id": b"req_1",
        b"x-should-retry": b"true",
        b"retry-after": b"2",
        b"retry-after-ms": b"1201",
    }
    assert json.loads(body)["error"]["code"] == "c"


@pytest.mark.parametrize(("wait_s", "seconds"), [(0.0, b"1"), (1.0, b"1"), (40.0, b"40"), (59.01, b"60")])
def test_a_wait_is_never_named_too_short(wait_s: float, seconds: bytes) -> None:
    headers = dict(error_reply(Refusal(429, "rate_limit_error", "c", "m", None, wait_s), "r")[1])
    assert headers[b"retry-after"] == seconds
    assert int(headers[b"retry-after-ms"]) >= wait_s * 1000


def test_what_was_not_read_is_answered_the_same_and_its_server_counts_the_bytes() -> None:
    refusal, headers, body = unread_reply(431, "headers_too_large", "Too many.", "req_1")
    assert (refusal.status, refusal.type, refusal.code) == (431, "invalid_request_error", "headers_too_large")
    _, counted, same = error_reply(refusal, "req_1")
    assert (headers, body) == ([field for field in counted if field[0] != b"content-length"], same)
    assert len(headers) == len(counted) - 1


def test_who_needs_a_key_is_told_how() -> None:
    headers = dict(error_reply(NO_KEY, "r")[1])
    assert headers[b"www-authenticate"] == b"Bearer"
    assert headers[b"x-should-retry"] == b"false"
    assert b"retry-after" not in headers


@pytest.mark.parametrize(
    ("status", "again"), [(400, b"false"), (429, b"true"), (500, b"false"), (503, b"true"), (529, b"true")]
)
def test_whether_to_try_a_backends_error_again(status: int, again: bytes) -> None:
    assert relayed_error_headers(status, [], 1) == [(b"x-should-retry", again)]
    assert relayed_error_headers(status, [], 2) == [(b"x-should-retry", b"false")]  # it was tried again already
    assert relayed_error_headers(status, [(b"x-should-retry", b"theirs")], 1) == []


@pytest.mark.parametrize("status", [408, 409])
def test_what_only_the_client_can_know_is_left_to_it(status: int) -> None:
    """OpenAI's SDKs try these again, and would obey a `false`."""
    assert relayed_error_headers(status, [], 1) == relayed_error_headers(status, [], 2) == []


def test_a_relayed_answer_tells_the_gateways_limits_and_not_the_backends() -> None:
    theirs = [(b"content-type", b"application/json"), (b"x-ratelimit-limit-tokens", b"9")]
    ours = [(b"x-ratelimit-limit-requests", b"60")]
    head = Head(200, list(theirs), "a", lambda: None)
    assert relayed_headers(head, ours, "req_1") == [theirs[0], *ours, (b"x-request-id", b"req_1")]
    head = Head(200, list(theirs), "a", lambda: None)
    assert relayed_headers(head, [], "req_1") == [*theirs, (b"x-request-id", b"req_1")]


def test_a_relayed_stream_is_not_to_be_held_back() -> None:
    head = Head(200, [(b"cache-control", b"max-age=9")], "a", lambda: None, events=True)
    assert relayed_headers(head, [], "req_1") == [(b"x-request-id", b"req_1"), *STREAM_HEADERS]
