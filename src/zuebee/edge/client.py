"""The side of a request that its caller sees: as the pipeline knows it, its address, replies and endings."""

import math
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

from zuebee.contracts.admission import Settlement, TerminationReason
from zuebee.contracts.errors import BACKEND_ERROR, CLIENT_LEFT, Refusal
from zuebee.contracts.inference import End, Head, Headers, Job, Sink, Usage
from zuebee.dialects.hub.wires import OPENAI, Wire
from zuebee.lib.networks import parse_address, parse_networks, within

Enter: TypeAlias = Callable[[], Awaitable[Refusal | None]]
"""Takes a place among the running requests for one whose body is not all here, or refuses it."""


class Client(Protocol):
    """Reads one request and writes its answer. One that `translates` may find that an answer cannot be told.

    `wire`: its dialect. `takes_comments`: while a stream has nothing to say, comments can show that it is alive.
    """

    takes_comments: bool

    @property
    def translates(self) -> bool:
        """Whether to ask `unfit` before an answer is accounted for."""
        ...

    @property
    def wire(self) -> Wire:
        """The client's dialect."""
        ...

    async def unfit(self, last: bytes) -> Refusal | None:
        """Take the `last` of an answer that is no error, before it is accounted for. A refusal: it cannot be told.

        The last may be given or written again.
        """
        ...

    async def read_job(self, enter: Enter | None = None, holder: str = "", patience_s: float = 0.0) -> Job | Refusal:
        """The request, once its body is there.

        Where that has to be waited for (longer than `patience_s`), `enter` is asked before. What is here of it counts
        as `holder`'s.
        """
        ...

    async def start(self, status: int, headers: Headers, *, events: bool) -> None:
        """Send the head of the answer; `events`: its body goes out as it comes."""
        ...

    async def start_early(self, headers: Headers) -> None:
        """Send the head of a stream that is to come, if all goes well; nothing but comments was there of it yet."""
        ...

    async def write(self, data: bytes) -> None:
        """Send a part of its body; waits while the client is slow."""
        ...

    def sink(self) -> Sink | None:
        """Where the events after the first may be pushed, if that can be; it counts what it was given."""
        ...

    async def finish(self, last: bytes = b"") -> None:
        """End the body, with `last` as its last part."""
        ...

    def cancel(self) -> None:
        """Cancel the task that serves this request."""
        ...

    def outlive(self, goes_on: Callable[[], bool]) -> None:
        """Ask `goes_on` when the client leaves: True lets the task run on, and nobody sees what it writes."""
        ...

    async def refuse(self, refusal: Refusal, extra: Headers | None = None) -> None:
        """Send an error answer with `extra` header fields. Only when nothing was sent yet."""
        ...

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer. Only when nothing was sent yet."""
        ...


# A refusal as an HTTP answer in the caller's dialect.

JSON: Final = (b"content-type", b"application/json")
STREAM_HEADERS: Final[Headers] = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]

_CLIENTS_OWN: Final = (408, 409)
"""Statuses after which clients try again by themselves, for what only they can know; the gateway never does."""
NOT_BEGUN: Final = (429, 503, 529)


def error_reply(refusal: Refusal, request_id: str, wire: Wire = OPENAI) -> tuple[int, Headers, bytes]:
    """Status, headers and body.

    `x-should-retry` is obeyed by OpenAI's SDKs, which else would retry by status alone; `retry-after` is in whole
    seconds (RFC 9110, section 10.2.3), `retry-after-ms` exact.
    """
    body = wire.render_error(refusal, request_id)
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


def unread_reply(status: int, code: str, message: str, request_id: str) -> tuple[Refusal, Headers, bytes]:
    """What a request is told that was not read to its end; the server that did not read it counts the bytes."""
    refusal = Refusal(status, "invalid_request_error", code, message)
    _, headers, body = error_reply(refusal, request_id)
    return refusal, [field for field in headers if field[0] != b"content-length"], body


def wrong_method(allowed: str) -> Refusal:
    """405: the path is right, the method is not (RFC 9110, section 15.5.6)."""
    return Refusal(405, "invalid_request_error", "method_not_allowed", f"This endpoint takes {allowed} only.")


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


# How a request ended, in the words of its record.


class Conclusion(NamedTuple):
    """The termination reason, and the code of what went wrong."""

    termination_reason: TerminationReason
    code: str


_COMPLETE: Final = Conclusion("complete", "")
_REFUSED: Final = Conclusion("refused", BACKEND_ERROR)
_LEFT: Final = Conclusion("client_gone", CLIENT_LEFT.code)


def reason_of(end: End) -> TerminationReason:
    """What came of a reply that is not whole."""
    match end.cause:
        case "timeout":
            return "timeout"
        case "none":
            return "refused"
        case _:
            return "upstream_broken"


def may_have_begun(end: End) -> bool:
    """Whether a backend may have worked on what it did not answer: it had the request, and did not say no."""
    return end.sent and end.cause in ("timeout", "gone", "died", "broken")


def prompt_only(settlement: Settlement) -> Usage:
    """The backend may have read the prompt; nobody can say what that cost."""
    grant = settlement.grant
    return Usage(0 if grant is None else grant.prompt_tokens, 0, "estimate")


def conclusion(end: End, status: int, *, client_gone: bool) -> Conclusion:
    """The termination reason and the code of an answer that had begun with this status."""
    if end.refusal is not None:
        return Conclusion(reason_of(end), end.refusal.code)
    if status >= 400:
        return _REFUSED
    return _LEFT if client_gone else _COMPLETE


# The address of a client: the peer, or what trusted proxies say of it.

MAX_HOPS = 32
_WITH_PORT = re.compile(r"\[([^\[\]]*)\](?::\d+)?|([0-9.]+):\d+")
"""Some proxies write the port of their caller along, and IPv6 in brackets then."""


class TrustedProxies:
    """Believes `X-Forwarded-For` from the given networks only, and of it the rightmost address that is not theirs."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = parse_networks(networks)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def client(self, peer: str, headers: Headers) -> str:
        """The client's address; the peer's where nobody trusted says otherwise."""
        if not self._networks or not within(peer, self._networks):
            return peer
        forwarded = b",".join(value for name, value in headers if name == b"x-forwarded-for").decode("latin-1")
        address = peer
        for hop in reversed(forwarded.split(",")[-MAX_HOPS:]):
            hop = hop.strip().strip('"')
            if port := _WITH_PORT.fullmatch(hop):
                hop = port.expand(r"\1\2")  # one of the two is there
            if parse_address(hop) is None:
                return address
            address = hop
            if not within(hop, self._networks):
                return address
        return address
