"""PURE. A refusal as an HTTP answer in the caller's dialect."""

import math
from typing import Final

from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Head, Headers
from zuebee.dialects import openai

JSON: Final = (b"content-type", b"application/json")
STREAM_HEADERS: Final[Headers] = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]

_CLIENTS_OWN: Final = (408, 409)
"""Statuses after which clients try again by themselves, for what only they can know; the gateway never does."""
NOT_BEGUN: Final = (429, 503, 529)


def error_reply(refusal: Refusal, request_id: str) -> tuple[int, Headers, bytes]:
    """Status, headers and body.

    `x-should-retry` is obeyed by OpenAI's SDKs, which else would retry by status alone; `retry-after` is in whole
    seconds (RFC 9110, section 10.2.3), `retry-after-ms` exact.
    """
    body = openai.render_error(refusal)
    headers: Headers = [
        JSON,
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
        (b"x-should-retry", b"true" if refusal.should_retry else b"false"),
    ]
    if refusal.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(refusal.retry_after_s))))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(refusal.retry_after_s * 1000)))
    headers += refusal.headers
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return refusal.status, headers, body


def relayed_headers(head: Head, limits: Headers, request_id: str) -> Headers:
    """The header fields of a relayed answer: the backend's, `limits` in place of its own, and what the gateway adds."""
    headers = head.headers
    if limits:
        # The backend's own limits are the gateway's affair.
        headers = [field for field in headers if not field[0].startswith(b"x-ratelimit-")]
        headers += limits
    headers.append((b"x-request-id", request_id.encode()))
    if head.status >= 400:
        headers += relayed_error_headers(head.status, headers, head.attempts)
    elif head.events:
        headers = [field for field in headers if field[0] not in (b"cache-control", b"x-accel-buffering")]
        headers += STREAM_HEADERS
    return headers


def relayed_error_headers(status: int, headers: Headers, attempts: int) -> Headers:
    """What is added to an error answer that a backend gave after `attempts`: whether the client should try again."""
    if status in _CLIENTS_OWN or any(name == b"x-should-retry" for name, _ in headers):
        return []
    # Where the gateway has tried again, the client's retries would multiply its own: an outage must not become a storm.
    return [(b"x-should-retry", b"true" if status in NOT_BEGUN and attempts == 1 else b"false")]
