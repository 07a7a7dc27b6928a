"""PURE. What a server asks of those who send it requests: limits, deadlines, and the words for who breaks them."""

from collections.abc import Callable
from typing import NamedTuple

Fault = tuple[int, str, str]
"""Status, code and message for a client that broke a rule."""

INVALID_HTTP = (400, "invalid_http", "The request is not valid HTTP/1.1.")
INVALID_HOST = (400, "invalid_host", "The Host header field is missing, repeated or not valid.")
INVALID_TARGET = (400, "invalid_target", "The request target is not valid, or not of this Host.")
URI_TOO_LONG = (414, "uri_too_long", "The request target is too long.")
HEADERS_TOO_LARGE = (431, "headers_too_large", "The request has too many or too large header fields.")
UNKNOWN_CODING = (501, "unsupported_transfer_encoding", "Of transfer encodings, only chunked is known here.")
UNKNOWN_METHOD = (501, "unsupported_method", "CONNECT is not answered here.")
UNKNOWN_VERSION = (505, "unsupported_http_version", "Only HTTP/1.0 and HTTP/1.1 are spoken here.")

RenderError = Callable[[int, str, str, str], tuple[list[tuple[bytes, bytes]], bytes]]
"""(status, code, message, peer) -> headers and body of an error answer. `peer` is the client's address, or empty where
the application already has the request and answers for it."""


class ReceiveLimits(NamedTuple):
    """What a client may send, and by when."""

    header_timeout_s: float
    body_timeout_s: float
    body_min_bytes_per_s: int
    write_timeout_s: float
    max_headers: int
    max_header_bytes: int
    max_connections: int


class Refused(Exception):
    """A request that is not worth reading on."""


class Phase:
    """What all connections of a server know of its life. `date`: the Date of the answers that begin now."""

    def __init__(self) -> None:
        self.draining = False
        self.running = 0
        self.date = b""
