"""PURE. A reply and a fault, put together: the steps on the connection."""

import gzip
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from zuebee.sim.faults import Wish
from zuebee.sim.messages import HTML, Headers, Reply, error_body, error_reply
from zuebee.sim.steps import (
    DONE,
    Send,
    Step,
    Stop,
    Wait,
    after_events,
    chunked,
    dripped,
    gzipped,
    without_done,
)

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_INTERIM = (
    CONTINUE,
    b"HTTP/1.1 102 Processing\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n",
)
_GARBAGE = b"HTTP/9.9 999 Nobody Asked\r\ncontent-length: banana\r\n\r\n\x00\xff\x00"
_PAGE = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>\n"
_NOT_JSON = b'{"id":"chatcmpl-broken","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":'
_INTERIM_GAP_S = 0.01

_REASONS = {
    200: b"OK",
    302: b"Found",
    400: b"Bad Request",
    401: b"Unauthorized",
    404: b"Not Found",
    405: b"Method Not Allowed",
    413: b"Content Too Large",
    429: b"Too Many Requests",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
}


class Played(NamedTuple):
    """The steps of an exchange, whether another may follow it on the connection, and the status that is sent."""

    steps: Iterator[Step]
    keep_alive: bool
    status: int


def head(status: int, headers: Headers) -> bytes:
    """Return the head of a response; every status line says HTTP/1.1."""
    reason = _REASONS.get(status, b"Error" if status >= 400 else b"Status")
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    return b"HTTP/1.1 %d %b\r\nserver: zuebee-sim\r\n%b\r\n" % (status, reason, lines)


def play(reply: Reply, fault: Wish, *, keep_alive: bool, chunks: bool = True) -> Played:
    """Return what happens on the connection when the reply meets the fault.

    `chunks`: the client understands the chunked coding; without it, streams end with the connection.
    """
    reply = _spoiled(reply, fault)
    name = fault.name
    events = reply.events
    delimited = name == "close_delimited" or (events is not None and not chunks)
    keep_alive = keep_alive and not delimited
    headers = list(reply.headers)
    content: Iterator[Step]
    if events is None:
        content, size = _body_steps(reply, fault)
        if not delimited:
            headers.append((b"content-length", b"%d" % size))
    else:
        content = _broken(events, fault)
        if name == "gzip":
            content = gzipped(content)
        if not delimited:
            content = chunked(content)
            headers.append((b"transfer-encoding", b"chunked"))
    if name == "gzip":
        headers.append((b"content-encoding", b"gzip"))
    if not keep_alive:
        headers.append((b"connection", b"close"))
    first = [Wait(reply.delay_s)] if reply.delay_s else []
    steps = chain(_before_head(fault), first, (Send(head(reply.status, headers)),), content)
    if name == "garbage_after":
        steps = chain(steps, (Send(_GARBAGE),))
    elif name == "close_after":
        steps = chain(steps, (Wait(fault.for_s or 0), Stop.CLOSE))
    return Played(dripped(steps, fault.interval_s) if name == "slow_drip" else steps, keep_alive, reply.status)


def _before_head(fault: Wish) -> Iterator[Step]:
    """Yield what happens before the head of the response."""
    if fault.name == "interim_1xx":
        for interim in _INTERIM:
            yield Send(interim)
            yield Wait(_INTERIM_GAP_S)
    elif fault.name in ("hang", "reset") and fault.after_events is None:
        yield from _stop(fault)
    elif fault.name == "refuse":
        yield Stop.RESET


def _stop(fault: Wish) -> Iterator[Step]:
    """Yield the way in which a fault stops the exchange."""
    if fault.name == "hang" and fault.for_s is not None:
        yield Wait(fault.for_s)
    else:
        yield {"hang": Stop.HANG, "reset": Stop.RESET, "truncate": Stop.CLOSE}[fault.name]


def _spoiled(reply: Reply, fault: Wish) -> Reply:
    """Return the reply that faults of status and content put in the place of the honest one."""
    if fault.status is not None:
        return _status(fault.status, fault.retry_after_s)
    if fault.name == "html":
        return Reply(headers=[HTML], body=_PAGE)
    if fault.name == "redirect":
        return Reply(status=302, headers=[(b"location", fault.location.encode())])
    if fault.name in ("error_first", "error_mid") and reply.events is None:
        return Reply(body=error_body(500, "The simulated model failed."))
    if fault.name == "malformed" and reply.events is None:
        return Reply(body=_NOT_JSON)
    if fault.name == "big_event" and reply.events is None:
        return Reply(body=_big_json(fault.size_bytes))
    return reply


def _status(status: int, retry_after_s: int | None) -> Reply:
    reply = error_reply(status, f"The simulated fault {status}.")
    if retry_after_s is None and status == 429:
        retry_after_s = 1
    if retry_after_s is not None:
        reply.headers.append((b"retry-after", b"%d" % retry_after_s))
    return reply


def _big_json(size_bytes: int) -> bytes:
    return b'{"id":"chatcmpl-big","object":"chat.completion.chunk","choices":[],"padding":"%b"}' % (b"x" * size_bytes)


def _data(payload: bytes) -> Send:
    return Send(b"data: %b\n\n" % payload, 1)


def _broken(events: Iterator[Step], fault: Wish) -> Iterator[Step]:
    """Return the events of a stream as the fault changes them."""
    name, after = fault.name, fault.after_events
    failure = (_data(error_body(500, "The simulated model failed.")), Send(DONE, 1))
    match name:
        case "hang" | "reset" if after is not None:
            return after_events(events, after, _stop(fault), go_on=name == "hang")
        case "truncate":
            return after_events(events, _default(after, 1), _stop(fault), go_on=False)
        case "malformed":
            return after_events(events, _default(after, 1), (_data(_NOT_JSON),), go_on=True)
        case "big_event":
            return after_events(events, _default(after, 1), (_data(_big_json(fault.size_bytes)),), go_on=True)
        case "error_first":
            return iter(failure)
        case "error_mid":
            return after_events(events, _default(after, 3), failure, go_on=False)
        case "no_done":
            return without_done(events)
    return events


def _default(value: int | None, default: int) -> int:
    return default if value is None else value


def _body_steps(reply: Reply, fault: Wish) -> tuple[Iterator[Step], int]:
    """Return the steps of a body and the length that the head says.

    Faults that strike after some events strike a body in its middle.
    """
    data, tokens = reply.body, reply.tokens
    if fault.name == "gzip":
        data = gzip.compress(data, mtime=0)
    half = len(data) // 2
    in_body = fault.name in ("hang", "reset") and fault.after_events is not None
    if in_body or fault.name == "truncate":
        rest = Send(data[half:], 0, tokens)
        return chain((Send(data[:half]),), _stop(fault), (rest,)), max(len(data), 1)
    return iter((Send(data, 0, tokens),)), len(data)
