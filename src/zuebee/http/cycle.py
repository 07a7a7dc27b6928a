"""One request and its answer on a guarded connection.

Beside ASGI's way out it has a cheaper one: the head of an answer is written together with the first part of its body,
in one system call. Headers come from parsers that refuse line breaks or from the application itself;
they are checked once, as a whole.
"""

import asyncio
import fcntl
import sys
import termios
from collections.abc import Callable, MutableMapping
from typing import Any, Final, Protocol

from zuebee.http.connections import Phase
from zuebee.http.grammar import STATUS_LINE, Fields

# Pausing and going on, in both directions of one connection, and whether its client takes what it is sent.

HIGH_WATER_BYTES = 64 * 1024
"""So much of a body is read before its reader takes any of it."""

_COUNTS_UNACKNOWLEDGED: Final = sys.platform == "linux"


class Flow:
    """`read_paused`: we do not listen to the client. `write_paused`: it takes less than we write.

    `full`: there is enough unread already, so nobody else may resume reading. `handed_bytes`: all that was written.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.read_paused = False
        self.write_paused = False
        self.full = False
        self.handed_bytes = 0
        self._transport = transport
        self._loop = loop
        self._writable: asyncio.Future[None] | None = None
        self._taken_bytes = self._acknowledged_bytes = 0
        self._stalled_since_s = 0.0

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport."""
        self.handed_bytes += len(data)
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait until the client takes more."""
        while self.write_paused:
            if self._writable is None:
                self._writable = self._loop.create_future()
            await asyncio.shield(self._writable)  # others may wait for it as well

    def pause_reading(self) -> None:
        """Listen no more for now."""
        if not self.read_paused:
            self.read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Listen again, unless there is enough unread."""
        if self.read_paused and not self.full:
            self.read_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The transport has enough."""
        self.write_paused = True

    def resume_writing(self) -> None:
        """The transport can take more, or all is over."""
        self.write_paused = False
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    def stalled_s(self, now_s: float) -> float:
        """For how long the client has taken nothing of what it was sent; 0 while nothing is unsent.

        What the kernel took counts as taken, and so does what the client's side acknowledged: the kernel takes no more
        before a good part of its buffer is free again, and that may be minutes for who reads slowly but steadily.
        """
        unsent_bytes = self._transport.get_write_buffer_size()
        if not unsent_bytes:
            self._stalled_since_s = 0.0
            return 0.0
        taken_bytes = self.handed_bytes - unsent_bytes
        begins = not self._stalled_since_s
        if begins or taken_bytes > self._taken_bytes:
            self._taken_bytes = taken_bytes
            self._stalled_since_s = now_s
        acknowledged_bytes = taken_bytes - self._unacknowledged_bytes()
        if begins or acknowledged_bytes > self._acknowledged_bytes:
            self._acknowledged_bytes = acknowledged_bytes
            self._stalled_since_s = now_s
        return now_s - self._stalled_since_s

    def _unacknowledged_bytes(self) -> int:
        """What is in the kernel and on the way, as far as the kernel tells."""
        sock = self._transport.get_extra_info("socket") if _COUNTS_UNACKNOWLEDGED else None
        if sock is None:
            return 0
        try:
            count: bytes = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        except (OSError, ValueError):
            return 0
        return int.from_bytes(count, sys.byteorder)


JOIN_BYTES: Final = 16 * 1024


class ClientConnection(Protocol):
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
        self, connection: ClientConnection, scope: MutableMapping[str, Any], expects_continue: bool, keep_alive: bool
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
