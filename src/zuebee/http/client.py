"""One HTTP/1.1 connection to a server, on an asyncio protocol and httptools' response parser.

Framing: RFC 9112. Every wait has a deadline, and what is buffered for a slow consumer is bounded. Nothing is
decoded or followed: compressed bodies and redirects come as they are.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Protocol, cast

import httptools

from zuebee.http.grammar import ends_with_connection, is_framed_twice
from zuebee.http.head_cache import Attachment, KnownHead
from zuebee.lib.failures import Failure, HttpFailure, Timeouts

# The clock of an exchange with a server: one timer for all its deadlines.
#
# To move a deadline back costs nothing: the timer looks when it fires. Time in which the server is not read from,
# because the reader of its answer takes nothing, is not the server's: it counts against a measure of its own.


class Deadlines(ABC):
    """What a `Connection` knows of time. `begun_s`: when the request was sent.

    `_heard_s`: when something came last, if the timer does not know of it yet. `_paused_s`: since when nothing is read,
    or 0. `_patience_s`: how long the answer's reader may still keep it so.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._busy = False
        self._chunks: list[bytes] = []
        self.begun_s = 0.0
        self._heard_s = 0.0
        self._paused_s = 0.0
        self._patience_s = 0.0
        self._timeouts = Timeouts(0, 0, 0)
        self._total_deadline_s = 0.0
        self._deadline_s = 0.0
        self._deadline_kind: Failure = "first_byte_timeout"
        self._quiet_s = self._quiet_at_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = 0.0

    @abstractmethod
    def _wake(self) -> None:
        """Wake whoever waits for the answer."""

    @abstractmethod
    def _fail(self, kind: Failure, message: str) -> None:
        """Give the exchange up."""

    def _start_clock(self, timeouts: Timeouts) -> None:
        """The request is sent."""
        now_s = self._loop.time()
        self.begun_s = now_s
        self._timeouts = timeouts
        self._total_deadline_s = now_s + timeouts.total_s
        self._patience_s = timeouts.total_s
        self._paused_s = 0.0
        self._set_deadline(now_s + timeouts.first_byte_s, "first_byte_timeout")

    def _pause(self) -> None:
        """Read no more: the reader of the answer takes nothing."""
        if not self._paused_s:
            self._paused_s = self._loop.time()
            self._transport.pause_reading()

    def _resume(self) -> None:
        """Read on. The server gets the time back, and its silence begins now."""
        now_s = self._loop.time()
        waited_s = min(now_s - self._paused_s, self._patience_s)
        self._paused_s = 0.0
        self._patience_s -= waited_s
        self._total_deadline_s += waited_s
        self._heard_s = now_s
        self._transport.resume_reading()

    def _set_deadline(self, at_s: float, kind: Failure) -> None:
        if at_s >= self._total_deadline_s:
            at_s, kind = self._total_deadline_s, "total_timeout"
        self._deadline_s = at_s
        self._deadline_kind = kind
        self._heard_s = 0.0
        if self._timer is None or at_s < self._timer_at_s:
            self._arm(at_s)

    def _arm(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_s = at_s
        self._timer = self._loop.call_later(max(at_s - self._loop.time(), 0.0), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._busy:
            return
        now = self._loop.time() + 0.001
        if self._heard_s:
            self._deadline_s = min(self._heard_s + self._timeouts.idle_s, self._total_deadline_s)
            self._deadline_kind = "idle_timeout" if self._deadline_s < self._total_deadline_s else "total_timeout"
            if self._quiet_at_s:
                self._quiet_at_s = max(self._quiet_at_s, self._heard_s + self._quiet_s)
            self._heard_s = 0.0
        if self._quiet_at_s and now >= self._quiet_at_s:
            self._wake()
            self._quiet_at_s = 0.0
        if now < self._deadline_s:
            quiet = self._quiet_at_s
            self._arm(min(self._deadline_s, quiet) if quiet else self._deadline_s)
        elif self._paused_s:
            self._wait_for_reader(now)
        elif self._chunks and now < self._total_deadline_s:
            # The consumer is slow, not the server: only the total deadline counts.
            self._set_deadline(now + self._timeouts.idle_s, "idle_timeout")
        elif self._deadline_kind == "total_timeout" and self._patience_s <= 0:
            self._fail("reader_timeout", "the reader of the answer took too long")
        else:
            self._fail(self._deadline_kind, "the server took too long")

    def _wait_for_reader(self, now_s: float) -> None:
        ends_s = max(self._paused_s + self._patience_s, self._total_deadline_s)
        if now_s >= ends_s:
            self._fail("reader_timeout", "the reader of the answer took too long")
        else:
            self._arm(min(now_s + self._timeouts.idle_s, ends_s))


HIGH_WATER_BYTES: Final = 256 * 1024
JOIN_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 200
MAX_HEADER_BYTES: Final = 128 * 1024
MAX_INTERIM: Final = 16


class ConnectionOwner(Protocol):
    """Who gave the connection out and takes it back."""

    def ended(self, connection: "Connection", *, reusable: bool) -> None:
        """The exchange is over."""
        ...

    def lost(self, connection: "Connection") -> None:
        """The server closed an idle connection."""
        ...


class Connection(Deadlines):
    """One connection to the origin, and the answer of the exchange it carries: an `asyncio.Protocol`.

    `status` and `headers` (names in lower case) are set once `HttpPool.send` returned; then `read` gives the body.
    `answered`: whether any byte of it came. `attachment`: of a head that came before, for its reader
    (`http/head_cache.py`).
    """

    def __init__(self, owner: ConnectionOwner, loop: asyncio.AbstractEventLoop) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.attachment: Attachment | None = None
        self.answered = False
        self.complete = False
        self.idle_since_s = 0.0
        super().__init__(loop)
        self._owner = owner
        self._parser: httptools.HttpResponseParser = None  # type: ignore[assignment]
        self._failure: HttpFailure | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._buffered_bytes = self._header_bytes = 0
        self._take: Callable[[bytes], bool] | None = None
        self._poured = False
        self._lost = False
        self._keep_alive = False
        self._head_seen = False
        self._until_close = self._skip_body = False
        self._interim = 0
        self._known = KnownHead(dated=True)

    # --- the exchange, as its user sees it ---

    async def read(self, quiet_s: float = 0.0) -> bytes | None:
        """The next bytes of the body, as they came; `b""` at its end.

        With `quiet_s`, None when nothing came for so long. Raises HttpFailure when the answer breaks off.
        """
        while not self._chunks:
            if self.complete:
                return b""
            if self._failure is not None:
                raise self._failure
            if not await self._wait(quiet_s):
                return None
        return self._take_chunks()

    async def pour(self, take: Callable[[bytes], bool], quiet_s: float = 0.0) -> bool | None:
        """Hand the body to `take` as it arrives, without waking anybody, until it says False.

        Returns True when `take` said so, False at the end of the body, None after `quiet_s` of silence. Raises
        HttpFailure when the answer breaks off. What `take` refused it has taken; reading stops until the next call.
        """
        if self._chunks and not take(self._take_chunks()):
            return True
        self._take = take
        try:
            while not self._poured:
                if self.complete:
                    return False
                if self._failure is not None:
                    raise self._failure
                if not await self._wait(quiet_s):
                    return None
            return True
        finally:
            self._take = None
            self._poured = False

    def take_whole(self) -> bytes | None:
        """The body, if all of it is here and none of it was read; None: `read` it."""
        if not self.complete or self._failure is not None:
            return None
        return self._take_chunks() if self._chunks else b""

    def _take_chunks(self) -> bytes:
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered_bytes = 0
        if self._paused_s:
            self._resume()
        return data

    @property
    def buffered_bytes(self) -> int:
        """Bytes of the body that arrived and were not read."""
        return self._buffered_bytes

    def finish(self) -> None:
        """End the exchange: reuse the connection if it ended cleanly and was read, else close it."""
        if not self._busy:
            return
        self._busy = False
        clean = self.complete and self._keep_alive and self._failure is None and not self._chunks and not self._lost
        reusable = clean and not self._transport.is_closing() and self._transport.get_write_buffer_size() == 0
        if not reusable:
            self.abort()
        self._owner.ended(self, reusable=reusable)

    def abort(self) -> None:
        """Close at once, dropping what was not sent."""
        if self._transport is not None:
            self._transport.abort()

    # --- used by the pool ---

    @property
    def usable(self) -> bool:
        """Whether another exchange may begin."""
        return not self._lost and not self._transport.is_closing()

    def begin(self, head: bytes, body: bytes, timeouts: Timeouts, *, is_head: bool) -> None:
        """Send a request; `answer` waits for the head of its answer."""
        self.status = 0
        self.headers = []
        self.complete = False
        self._header_bytes = self._buffered_bytes = self._interim = 0
        self._head_seen = self.answered = self._until_close = self._keep_alive = False
        self._skip_body = is_head
        self._busy = True
        if self._lost:
            self._failure = HttpFailure("reset", "the server closed the connection", sent=False)
            return
        self._start_clock(timeouts)
        if len(body) < JOIN_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    async def answer(self) -> "Connection":
        """Wait for the head of the answer; raises HttpFailure, and then the exchange is finished."""
        try:
            while not self._head_seen:
                if self._failure is not None:
                    raise self._failure
                self._waiter = waiter = self._loop.create_future()
                await waiter
        except BaseException:
            self.finish()
            raise
        return self

    # --- waiting ---

    async def _wait(self, quiet_s: float) -> bool:
        """Wait until something happens; False when nothing did for `quiet_s` (0: wait on)."""
        self._waiter = waiter = self._loop.create_future()
        if not quiet_s:
            await waiter
            return True
        self._quiet_s = quiet_s
        self._quiet_at_s = self._loop.time() + quiet_s
        if self._quiet_at_s < self._timer_at_s:
            self._arm(self._quiet_at_s)
        try:
            await waiter
            return bool(self._quiet_at_s)  # only the timer takes it away: whatever else woke us was no silence
        finally:
            self._quiet_at_s = 0.0

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, kind: Failure, message: str) -> None:
        if self._failure is None and not self.complete:
            self._failure = HttpFailure(kind, message)
        self.abort()
        self._wake()

    # --- transport callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        # Length and chunks at once: the chunks count, and the connection is closed afterwards (RFC 9112, section 6.3).
        self._parser.set_dangerous_leniencies(lenient_chunked_length=True)

    # A request goes out in one piece: there is nobody to stop. A server that says no more is parted from.
    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def eof_received(self) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._parser = None  # type: ignore[assignment]  # it knows this connection: parted, both are freed at once
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._busy:
            self._owner.lost(self)
            return
        if self._head_seen and self._until_close and exc is None and self._failure is None:
            self.complete = True
        elif not self.complete and self._failure is None:
            kind: Failure = "truncated" if exc is None and self.answered else "reset"
            self._failure = HttpFailure(kind, "the server closed the connection")
        self._wake()

    def data_received(self, data: bytes) -> None:
        unasked = self.complete or not self._busy
        if unasked:
            # Bytes that belong to no exchange: whatever follows could not be trusted.
            self.abort()
            return
        first = not self.answered
        if first:
            self.answered = True
            self.attachment = None
            if not self._skip_body and (body := self._known.body_of(data)) is not None:
                self._repeat(body)
                return
        self._header_bytes += len(data)
        self._feed(data)
        if first and self.complete and self._keep_alive and self.status == 200 and self._failure is None:
            self._known.learn(data, self._buffered_bytes, self.headers)
        take = self._take
        if take is not None and self._chunks:
            self._pour_on(take)
        elif self.complete:
            self._wake()
        elif self._chunks:
            if self._buffered_bytes > HIGH_WATER_BYTES:
                self._pause()
            self._set_deadline(self._loop.time() + self._timeouts.idle_s, "idle_timeout")
            self._wake()
        elif self._header_bytes > MAX_HEADER_BYTES:
            # A head, or a line between or behind the chunks, that does not come to its end.
            self._fail("malformed", "the header fields of the answer are too large")
        elif self._head_seen:
            self._wake()

    def _repeat(self, body: bytes) -> None:
        """A whole answer with the known head: what the parser's callbacks would do, at once."""
        self.status = 200
        self.headers = self._known.fields
        self.attachment = self._known.attachment
        self._keep_alive = self._head_seen = self.complete = True
        if body:
            self._chunks.append(body)
            self._buffered_bytes = len(body)
        if self._take is not None and body:
            self._pour_on(self._take)
        else:
            self._wake()

    def _pour_on(self, take: Callable[[bytes], bool]) -> None:
        # The deadlines are moved by the timer when it fires: here it must only be known when something came, and the
        # timer not be late. The first part ends the wait for the first byte, which may be the longer one.
        self._heard_s = now_s = self._loop.time()
        if now_s + self._timeouts.idle_s < self._timer_at_s:
            self._arm(now_s + self._timeouts.idle_s)
        if not take(self._take_chunks()):
            self._poured = True
            self._take = None
            self._wake()
        elif self.complete:
            self._wake()

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # After a complete answer the fail only closes: the answer stands, the connection is not to be trusted.
            self._fail("malformed", f"the server's answer is not valid HTTP: {error}")
        except httptools.HttpParserUpgrade:
            self._fail("malformed", "the server switched protocols")

    # --- parser callbacks ---

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("bytes after the end of the answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers are not read (RFC 9110, section 6.5.1).
        if not self._head_seen:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 100 or status > 599:
            raise ValueError("a status that HTTP does not know")  # RFC 9110, section 15
        if status < 200:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise ValueError("too many interim answers")
            self.headers = []
            return
        self.status = status
        self._head_seen = True
        self._header_bytes = 0
        self._keep_alive = self._parser.should_keep_alive()
        if len(self.headers) > MAX_HEADERS:
            raise ValueError("too many header fields")
        self._until_close = ends_with_connection(status, self.headers)
        if self._keep_alive and is_framed_twice(self.headers):
            self._keep_alive = False
        if self._skip_body:
            self.complete = True
            self._keep_alive = False

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self._header_bytes = 0
            self._chunks.append(body)
            self._buffered_bytes += len(body)

    def on_message_complete(self) -> None:
        if self._head_seen:
            self.complete = True
