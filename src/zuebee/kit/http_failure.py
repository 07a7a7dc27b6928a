"""How an exchange with a server may fail, and how long it may take."""

from typing import Literal

Failure = Literal[
    "connect", "overflow", "connect_timeout", "first_byte_timeout", "idle_timeout", "total_timeout",
    "reader_timeout", "reset", "truncated", "ended_early", "malformed",
]  # fmt: skip
"""`truncated`: the connection ended in an answer. `ended_early`: the answer came to its end, but it is not whole."""


class HttpFailure(Exception):
    """An exchange that did not end well. `sent`: the request may have reached the server."""

    def __init__(self, kind: Failure, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.kind: Failure = kind
        self.message = message
        self.sent = sent


class Timeouts:
    """Seconds an exchange may take: to the first byte, between bytes, and in all."""

    __slots__ = ("first_byte_s", "idle_s", "total_s")

    def __init__(self, first_byte_s: float, idle_s: float, total_s: float) -> None:
        self.first_byte_s = first_byte_s
        self.idle_s = idle_s
        self.total_s = total_s
