"""PURE. A reply and a fault, put together: the steps on the connection."""

import gzip
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from zuebee.sim.base import (
    DONE,
    HTML,
    Headers,
    Reply,
    Send,
    Step,
    Stop,
    Wait,
    after_events,
    chunked,
    dripped,
    error_body,
    error_reply,
    gzipped,
    without_done,
)

# Faults: their names and parameters, the ways of asking for one, and the book of armed ones.

MODEL_PREFIX = "sim-fault-"
HEADER = b"x-sim-fault"
ANY_PATH = "*"

FAULTS = {
    "refuse": "the connection is reset, and new connections are refused for `for_s` seconds",
    "hang": "nothing more is sent: before the head, or after `after_events` events",
    "reset": "the connection ends with a TCP reset: before the head, or after `after_events` events",
    "truncate": "the connection is closed properly, but before the message is complete",
    "malformed": "an event (or a body) that is not JSON, after `after_events` events; the stream goes on",
    "slow_drip": "the whole response is sent one byte at a time, `interval_s` apart",
    "html": "200 with an HTML page",
    "error_first": "200, and the first event (or the body) is an error",
    "error_mid": "an error event after `after_events` events ends the stream",
    "no_done": "the stream ends without `[DONE]`",
    "close_delimited": "neither content-length nor chunks: the body ends where the connection does",
    "garbage_after": "bytes that nobody asked for follow the complete message",
    "close_after": "the connection is closed after a message that promised to keep it, `for_s` seconds later",
    "big_event": "one event (or a body) of `size_bytes`, after `after_events` events",
    "usage": "the usage figures are hostile in the way that `kind` says",
    "interim_1xx": "interim responses (100, 102, 103) come before the final one",
    "redirect": "302 to `location`",
    "gzip": "the body is compressed with gzip, whatever the request accepts",
}
"""Every fault by name, and what it does. A status from 400 to 599 is a fault, too: `429`, `500`, `503`."""

_STATUS = re.compile(r"[45]\d\d")
_MAX_WAIT_S = 3600

Seconds = Annotated[float, msgspec.Meta(ge=0, le=_MAX_WAIT_S)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
UsageKind = Literal[
    "negative",
    "huge",
    "string",
    "float",
    "exponent",
    "nan",
    "infinity",
    "bool",
    "nested",
    "list",
    "null_figures",
    "cached",
    "null",
    "missing",
]


class FaultError(ValueError):
    """A fault was asked for that does not exist or with parameters that make no sense; says which."""


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a request may ask of the simulation in its field `sim`: a fault, a length, a pace."""

    fault: str | int | None = None
    after_events: Count | None = None
    for_s: Seconds | None = None
    """`hang`: go on after so long. `refuse`: how long (1 s). `close_after`: how long after the message (0 s)."""
    retry_after_s: Count | None = None
    """The `retry-after` header of an error status; 1 for 429 when not given."""
    interval_s: Seconds = 0.002
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=64 * 1024 * 1024)] = 1024 * 1024
    kind: UsageKind = "negative"
    location: Annotated[str, msgspec.Meta(pattern=r"^[!-~]+$")] = "/_sim/redirected"
    tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    """Length of the answer in tokens, before `max_tokens` cuts it."""
    cached_tokens: Count | None = None
    """Tokens of the prompt that the usage says came from the cache; None says nothing of a cache."""
    prompt_tokens: Count | None = None
    """Tokens that the prompt has, whatever its text: pictures, a hidden system prompt; None: they are counted."""
    tokens_per_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    first_token_delay_s: Seconds | None = None

    def __post_init__(self) -> None:
        name = self.name
        if name and name not in FAULTS and not _STATUS.fullmatch(name):
            raise FaultError(f"unknown fault {name!r}; there are: {', '.join(FAULTS)}, and any status from 400 to 599")

    @property
    def name(self) -> str:
        """The fault asked for, or an empty string."""
        return "" if self.fault is None else str(self.fault)

    @property
    def status(self) -> int | None:
        """The error status asked for, if the fault is one."""
        return int(self.name) if _STATUS.fullmatch(self.name) else None


class Armed(Wish, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A fault for coming requests, as `POST /_sim/faults` takes it."""

    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How many requests it strikes; None means all until it is deleted."""
    path: str | None = None
    """The path it strikes, `*` for all; None means the inference paths, so that health checks pass."""


NO_WISH = Wish()


def parse_header(value: str) -> Wish:
    """Return the wish of a header `name;after=3;kind=huge`; raise FaultError for nonsense."""
    name, *parameters = (part.strip() for part in value.split(";"))
    fields: dict[str, Any] = {"fault": name}
    for parameter in parameters:
        key, _, text = parameter.partition("=")
        fields["after_events" if key == "after" else key] = text
    try:
        return msgspec.convert(fields, Wish, strict=False)
    except msgspec.ValidationError as error:
        raise FaultError(str(error)) from None


def asked(body: Wish | None, headers: Iterable[tuple[bytes, bytes]], model: str | None) -> Wish | None:
    """Return what the request itself asks for: its body first, then its header, then its model's name."""
    if body is not None and body.name:
        return body
    for name, value in headers:
        if name == HEADER:
            return parse_header(value.decode("latin-1"))
    if model is not None and model.startswith(MODEL_PREFIX):
        return Wish(fault=model.removeprefix(MODEL_PREFIX))
    return None


class FaultBook:
    """The faults armed for coming requests, oldest first; at most `LIMIT`."""

    LIMIT = 100

    def __init__(self) -> None:
        self._armed: list[Armed] = []

    def arm(self, armed: Armed) -> None:
        """Add a fault; raise FaultError when the book is full."""
        if len(self._armed) >= self.LIMIT:
            raise FaultError(f"{self.LIMIT} faults are armed already")
        self._armed.append(armed)

    def clear(self) -> None:
        """Forget all faults."""
        self._armed.clear()

    def list(self) -> list[Armed]:
        """Return the armed faults with the number of times left."""
        return list(self._armed)

    def strike(self, path: str, *, inference: bool) -> Armed | None:
        """Return the first fault armed for this request, used up by one time, or None."""
        for place, armed in enumerate(self._armed):
            if armed.path in (path, ANY_PATH) or (armed.path is None and inference):
                if armed.times == 1:
                    del self._armed[place]
                elif armed.times is not None:
                    self._armed[place] = msgspec.structs.replace(armed, times=armed.times - 1)
                return armed
        return None


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
