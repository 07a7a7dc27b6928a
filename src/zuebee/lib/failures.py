"""How exchanges over HTTP, Redis and gRPC may fail, and how long one over HTTP may take."""

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


# How Redis fails. Apart from its client, so that who only catches these need not import the library.


class RedisError(Exception):
    """Redis refused a command. The message holds no value and no address."""


class RedisDown(RedisError):
    """Redis cannot be used just now: no connection, no answer in time, or it is being left alone."""


# Why a call to a gRPC service failed.


class GrpcFailure(Exception):
    """No answer. `kind`: the name of its status in lower case (`unavailable`, `deadline_exceeded` ...).

    What the service says beside it is not kept: it may hold what it was asked.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind
