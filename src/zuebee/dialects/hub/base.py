"""PURE. What a dialect of chat can do: the port between the rooms and the wire formats of clients and providers.

Two lanes. In the same dialect on both sides a body passes byte for byte, and only a `Peek` looks at it. Otherwise the
body is read into the hub form (`canonical`) by the one dialect and written by the other; so are answers, whole and
streamed, the other way round.
"""

from typing import Protocol

from zuebee.contracts.errors import Refusal
from zuebee.dialects.hub.canonical import ChatAnswer, ChatRequest, Delta, Omissions


class StreamReader(Protocol):
    """Reads a backend's stream, event by event. It keeps what it must know of the events before."""

    def read(self, event: str, data: bytes) -> list[Delta]:
        """What one server-sent event adds: its type (`event:`, empty without one) and its data. Raises Malformed."""
        ...

    def end(self) -> list[Delta]:
        """What it means that the body has ended: `Over`, where the stream is whole without words for its end."""
        ...


class StreamWriter(Protocol):
    """Writes a stream for a client, in the client's dialect."""

    def write(self, delta: Delta) -> bytes:
        """The server-sent events that tell of it, each with its empty line; b"" if nothing is to be said yet.

        `Over` gives the last words. `FailureDelta` gives none: the edge tells of failures (`Dialect.error_event`).
        """
        ...


class BackendDialect(Protocol):
    """Talks to backends."""

    name: str

    def write_request(self, request: ChatRequest, notes: Omissions) -> bytes:
        """The body for a backend. Raises NotCarried for what changes the answer; what does not is noted as dropped."""
        ...

    def read_answer(self, body: bytes) -> ChatAnswer:
        """A backend's whole answer of status 200. Raises Malformed."""
        ...

    def read_error(self, status: int, body: bytes) -> Refusal:
        """What a backend's error answer says; its own status, with a code and a message that its client can read."""
        ...

    def stream_reader(self) -> StreamReader:
        """For one backend's stream."""
        ...


class ClientDialect(Protocol):
    """Talks to clients."""

    name: str

    def read_request(self, body: bytes) -> ChatRequest:
        """The request that a client wrote. Raises Malformed, which names the field."""
        ...

    def write_answer(self, answer: ChatAnswer, request: ChatRequest) -> bytes:
        """The answer for the client that asked `request`."""
        ...

    def stream_writer(self, request: ChatRequest) -> StreamWriter:
        """For the client that asked `request`."""
        ...


class Converter(BackendDialect, ClientDialect, Protocol):
    """Both directions of one dialect."""
