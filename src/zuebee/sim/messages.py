"""PURE. Requests as they came over the wire, and the replies to them, with the error bodies of a model server."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from zuebee.sim.steps import Step

Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
HTML = (b"content-type", b"text/html; charset=utf-8")
EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")

_ERROR_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    413: "BadRequestError",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}


@dataclass(slots=True, kw_only=True)
class Request:
    """One request: the header names are lower case, the target is as it was sent."""

    method: str
    target: bytes
    headers: Headers
    body: bytes
    connection: int
    """The number of the connection, counted from 1."""
    keep_alive: bool = True
    chunks: bool = True
    """Whether the client understands the chunked coding (HTTP/1.1)."""

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition(b"?")[0].decode("latin-1")

    def header(self, name: bytes) -> str | None:
        """Return the first value of a header, or None."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None


@dataclass(slots=True, kw_only=True)
class Reply:
    """What is to be sent: a body, or events (each step that sends is one server-sent event)."""

    status: int = 200
    headers: Headers = field(default_factory=lambda: [JSON])
    body: bytes = b""
    events: Iterator[Step] | None = None
    delay_s: float = 0.0
    """How long the head of the reply takes."""
    tokens: int = 0
    """Completion tokens that `body` delivers."""


class Refused(Exception):
    """A request that is answered with an error body."""

    def __init__(self, status: int, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param

    @property
    def reply(self) -> Reply:
        """The error as the server sends it."""
        return error_reply(self.status, self.message, param=self.param)


def error_body(status: int, message: str, *, param: str | None = None) -> bytes:
    """Return the JSON of an error as vLLM writes it: `code` is the HTTP status."""
    kind = _ERROR_TYPES.get(status, "InternalServerError" if status >= 500 else "BadRequestError")
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": param, "code": status}})


def error_reply(status: int, message: str, *, param: str | None = None) -> Reply:
    """Return a reply that carries an error."""
    return Reply(status=status, body=error_body(status, message, param=param))


def json_reply(value: Any, *, status: int = 200) -> Reply:
    """Return a reply that carries `value` as JSON."""
    return Reply(status=status, body=msgspec.json.encode(value))
