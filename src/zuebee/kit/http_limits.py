"""PURE. What a server asks of those who send it requests: limits, deadlines, and the words for who breaks them."""

from collections.abc import Callable
from typing import Final, NamedTuple

from zuebee.kit.http_turns import Turnstile

Fault = tuple[int, str, str]
"""Status, code and message for a client that broke a rule."""

INVALID_HTTP = (400, "invalid_http", "The request is not valid HTTP/1.1.")
INVALID_HOST = (400, "invalid_host", "The Host header field is missing, repeated or not valid.")
INVALID_TARGET = (400, "invalid_target", "The request target is not valid, or not of this Host.")
URI_TOO_LONG = (414, "uri_too_long", "The request target is too long.")
HEADERS_TOO_LARGE = (431, "headers_too_large", "The request has too many or too large header fields.")
OVERDUE = (408, "request_timeout", "The request took too long to arrive.")
UNKNOWN_CODING = (501, "unsupported_transfer_encoding", "Of transfer encodings, only chunked is known here.")
UNKNOWN_METHOD = (501, "unsupported_method", "CONNECT is not answered here.")
UNKNOWN_VERSION = (505, "unsupported_http_version", "Only HTTP/1.0 and HTTP/1.1 are spoken here.")

RenderError = Callable[[int, str, str, str], tuple[list[tuple[bytes, bytes]], bytes]]
"""(status, code, message, peer) -> headers and body of an error answer. `peer` is the client's address, or empty where
the application already has the request and answers for it."""


MAX_HELD_BYTES: Final = 32 << 20
"""All connections together hold no more of heads that are not whole and of requests whose turn has not come."""


class ReceiveLimits(NamedTuple):
    """What a client may send, and by when."""

    header_timeout_s: float
    body_timeout_s: float
    body_min_bytes_per_s: int
    write_timeout_s: float
    max_headers: int
    max_header_bytes: int
    max_connections: int
    max_connections_per_address: int
    max_discarded_bytes: int


class Refused(Exception):
    """A request that is not worth reading on."""


def _nothing() -> None:
    """Nobody listens."""


class Phase:
    """What all connections of a server know of its life, and of one another.

    `date`: the Date of the answers that begin now. `turns`: for clients that send several requests at once.
    `held_bytes`: what all have sent of requests that are not looked at yet; `relieve` is called when it is too much.
    """

    def __init__(self) -> None:
        self.draining = False
        self.running = 0
        self.date = b""
        self.turns = Turnstile()
        self.held_bytes = 0
        self.relieve: Callable[[], None] = _nothing
