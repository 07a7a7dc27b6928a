"""One request and its answer on a guarded connection.

Beside ASGI's way out it has a cheaper one: the head of an answer is written together with the first part of its body,
in one system call. Headers come from parsers that refuse line breaks or from the application itself;
they are checked once, as a whole.
"""

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any, Final, Protocol

from zuebee.kit.http_flow import Flow
from zuebee.kit.http_framing import STATUS_LINE, Fields
from zuebee.kit.http_limits import Phase

JOIN_BYTES: Final = 16 * 1024


class Line(Protocol):
    """The connection, as a cycle knows it."""

    @property
    def transport(self) -> asyncio.Transport: ...

    @property
    def flow(self) -> Flow: ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    @property
    def phase(self) -> Phase: ...

    def on_response_complete(self, cycle: "Cycle") -> None:
        """The answer is out; where the cycle does not keep the connection alive, this ends it."""
        ...


class Cycle:
    """Offers ASGI's `receive` and `send` to the application, and `write` for those in a hurry."""

    __slots__ = (
        "_body_waiter", "_chunked", "_connection", "_head", "_transport", "body", "disconnected", "expects_continue",
        "flow", "goes_on", "keep_alive", "more_body", "response_complete", "response_started", "scope", "written_bytes",
    )  # fmt: skip

    def __init__(
        self, connection: Line, scope: MutableMapping[str, Any], expects_continue: bool, keep_alive: bool
    ) -> None:
        self.scope = scope
        self.flow = connection.flow
        self._transport = connection.transport
        self.keep_alive = keep_alive
        self.body: bytes | bytearray = bytearray()
        self.more_body = True
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self.written_bytes = 0
        self.goes_on: Callable[[], bool] | None = None  # asked when the client leaves: shall the task run on?
        self._connection = connection
        self.expects_continue = expects_continue
        self._body_waiter: asyncio.Future[None] | None = None
        self._head = b""
        self._chunked = False

    def wake(self) -> None:
        """Something happened: more of the body, its end, or the client left."""
        waiter = self._body_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def receive(self) -> dict[str, Any]:
        """ASGI: what came of the body since the last call; waits when nothing did."""
        if self.expects_continue and not self.response_started:
            self.expects_continue = False
            self.flow.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while self.more_body and not self.body and not self.disconnected:
            self.flow.resume_reading()
            self._body_waiter = waiter = self._connection.loop.create_future()
            await waiter
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body = bytes(self.body)
        self.body = bytearray()
        # Also after the last part: while nobody reads, nobody sees the client leave.
        self.flow.resume_reading()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    def take_whole_body(self, max_bytes: int) -> bytes | None:
        """The body, if all of it is here, nobody has taken any of it and it is no larger; None: ask `receive`."""
        if self.more_body or self.disconnected or self.expects_continue or len(self.body) > max_bytes:
            return None
        body, self.body = bytes(self.body), b""
        if self.flow.read_paused:
            self.flow.resume_reading()
        return body

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """ASGI: `http.response.start`, then `http.response.body` until `more_body` is false."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self._start(message["status"], message["headers"])
            return
        body: bytes = message["body"]
        more_body = message["more_body"]
        if self.scope["method"] == "HEAD":
            data = self._head
        elif self._chunked:
            data = b"%b%x\r\n%b\r\n" % (self._head, len(body), body) if body else self._head
            if not more_body:
                data += b"0\r\n\r\n"
        else:
            data = self._head + body
        self._head = b""
        if data:
            self.flow.write(data)
        if not more_body:
            self._end()

    def write(self, data: bytes) -> bool:
        """Send a part of a body of unknown length at once; False when the client should be waited for (`drain`)."""
        if not self.disconnected:
            size = len(data)
            self.written_bytes += size
            if self._chunked:
                data = b"%x\r\n%b\r\n" % (size, data)
                size = len(data)
            self.flow.handed_bytes += size  # as `Flow.write` does: each chunk passes here
            self._transport.write(data)
        return not self.flow.write_paused

    def respond(self, status: int, headers: Fields, body: bytes) -> None:
        """Send a whole answer, its headers telling its length, without waiting."""
        if self.disconnected:
            return
        self._start(status, headers)
        if self.scope["method"] == "HEAD":
            self.flow.write(self._head)
        elif len(body) < JOIN_BYTES:
            self.flow.write(self._head + body)
        else:  # who asks for the same large body again and again shares it, also while it is unsent
            self.flow.write(self._head)
            self.flow.write(body)
        self._end()

    def _end(self) -> None:
        self.response_complete = True
        self._connection.on_response_complete(self)

    async def drain(self) -> None:
        """Wait until the client takes more, or is gone."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()

    def _start(self, status: int, headers: Fields) -> None:
        self.response_started = True
        lines = [*map(b": ".join, headers), self._connection.phase.date, b""]
        flat = b"".join(lines)
        # Not `in`: for bytes that first tries to take the needle for a number, and makes an exception of it.
        if flat.find(b"\n") >= 0 or flat.find(b"\r") >= 0:
            raise ValueError("a line break in a header field of an answer")
        # No rule of ours lets another status pass; if one does, a client must still get an answer that it can read.
        head = (STATUS_LINE.get(status) or STATUS_LINE[500]) + b"\r\n".join(lines)
        end = b"\r\n"
        if head.find(b"\r\nconnection: close\r\n") >= 0:
            self.keep_alive = False
        elif not self.keep_alive:
            end = b"connection: close\r\n\r\n"
        # What HTTP/1.0 frames by nothing else is framed by the end of the connection.
        if head.find(b"\r\ncontent-length: ") < 0 and status not in (204, 304) and self.scope["http_version"] != "1.0":
            self._chunked = True
            end = b"transfer-encoding: chunked\r\n" + end
        self._head = head + end
