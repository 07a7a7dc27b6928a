"""One client connection: requests that come in, an ASGI application that answers them, and the guards that a server
facing strangers needs.

One request after the other, in their order; deadlines; cutting off clients that stop reading; the end of a request's
task when its client leaves; error answers in the application's own words. References: RFC 9110 and 9112.
"""

import asyncio
import logging
import math
from typing import Any, Final, cast

from zuebee.http.connections import FRESH, LINGERING, OVERDUE, Fault, Guest, Phase, ReceiveLimits, RenderError, Table
from zuebee.http.cycle import Cycle, Flow
from zuebee.http.grammar import STATUS_LINE, Scope, address_of
from zuebee.http.reader import RequestReader
from zuebee.lib import clock

# The end of a connection whose client may still be sending (RFC 9112, section 9.6).
#
# Who closes a socket with bytes unread resets the connection, and a reset takes away the answer that the client has not
# read yet. So the server closes its own direction only, and goes on reading for a while without looking at what comes.

LINGER_S: Final = 30.0
QUIET_S: Final = 5.0
HURRIED_S: Final = 1.0


class Linger:
    """The bounds of one such end: bytes, seconds in all, and seconds of silence."""

    __slots__ = ("_bytes_left", "_quiet_at_s", "_until_s", "began_s")

    def __init__(self, now_s: float, max_bytes: int) -> None:
        self.began_s = now_s
        self._bytes_left = max_bytes
        self._until_s = now_s + LINGER_S
        self._quiet_at_s = now_s + QUIET_S

    def discard(self, count: int, now_s: float) -> bool:
        """So many bytes came; False when it is too much."""
        self._bytes_left -= count
        self._quiet_at_s = now_s + QUIET_S
        return self._bytes_left >= 0

    def hurry(self, now_s: float) -> None:
        """The listener stops: a moment is all that is left."""
        self._until_s = min(self._until_s, now_s + HURRIED_S)

    def is_over(self, now_s: float) -> bool:
        """Whether time is up."""
        return now_s >= self._until_s or now_s >= self._quiet_at_s


_log: Final = logging.getLogger("zuebee.http")

MAX_UNSENT_BYTES: Final = 16 * 1024
"""No request is begun while more of the answers before it waits for the client."""


class GuardedProtocol(RequestReader):
    """One client connection. `sweep` is called a few times a second by the server and acts on overdue deadlines.

    `lingering`: only the end of the connection is missing.
    """

    def __init__(
        self,
        app: Any,
        table: Table,
        loop: asyncio.AbstractEventLoop,
        limits: ReceiveLimits,
        keep_alive_s: float,
        render_error: RenderError,
        phase: Phase,
        replaces: Guest | None = None,
    ) -> None:
        super().__init__(loop, limits, phase)
        self._app = app
        self._table = table
        self._replaces = replaces
        self._keep_alive_s = keep_alive_s
        self._render_error = render_error
        self._worker: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        self._last_fault: Fault | None = None
        self._room: asyncio.Future[None] | None = None
        self.lingering: Linger | None = None

    @property
    def is_ending(self) -> bool:
        """Whether the last answers are still on their way."""
        return self.lingering is not None or self.transport.get_write_buffer_size() > 0

    # --- transport callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.flow = Flow(self.transport, self.loop)
        self._server = address_of(transport.get_extra_info("sockname"))
        self._client = address_of(transport.get_extra_info("peername"))
        self._secure = transport.get_extra_info("sslcontext") is not None
        address = self._client[0] if self._client else ""
        if self._replaces is not None:
            self._table.leave(self._replaces, address)
            self._replaces = None
        self._deadline_s = self.loop.time() + self._limits.header_timeout_s
        if not self._table.enter(self, address, clock.monotonic_s()):  # the loop knows no more than its round
            self.transport.abort()

    def eof_received(self) -> None: ...

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        self._tell_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._table.leave(self, self._client[0] if self._client else "")
        self._deadline_s = self._idle_since_s = 0.0
        cycle = self._cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.wake()
        goes_on = self._goes_on()
        self.flow.resume_writing()
        self._waiting.clear()
        self._forget_unread()
        self.transport.close()
        # What knows this connection and is known by it: parted, it is freed at once, not by a rare collection.
        self._parser = None  # type: ignore[assignment]
        self._cycle = None
        if not goes_on:
            self.cancel()
            self._worker = None

    def _goes_on(self) -> bool:
        """Whether the running request wants to go on without its client; nobody sees what it writes from now on."""
        running = self._running
        if running is None or running.response_complete or running.goes_on is None or not running.goes_on():
            return False
        running.disconnected = True
        return True

    # --- the requests of a connection, one after the other ---

    def _begin_cycle(self, scope: Scope, *, keep_alive: bool) -> Cycle:
        """Hand the request to the application, behind those that came before it on this connection."""
        cycle = self._cycle = Cycle(self, scope, self._expects_continue, keep_alive and not self.phase.draining)
        scope["zuebee.cycle"] = cycle
        self._waiting.append(cycle)
        if self._worker is None:
            self._worker = self.loop.create_task(self._work())
        elif self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        return cycle

    async def _work(self) -> None:
        """Run the requests of this connection. One task for all of them: a new one each time costs more."""
        phase = self.phase
        while self.lingering is None and not self.transport.is_closing():
            if not self._waiting:
                if self._unread or self._last_fault is not None:
                    await self._find_next()
                else:
                    self._idle = self.loop.create_future()
                    await self._idle
                    self._idle = None
                continue
            self._running = cycle = self._waiting.popleft()
            phase.running += 1
            try:
                await self._app(cycle.scope, cycle.receive, cycle.send)
            except Exception:
                _log.exception("the application failed")
            finally:
                phase.running -= 1
                if not cycle.response_complete and self.lingering is None and not self.transport.is_closing():
                    self.transport.close()  # an answer without its end must not look whole
                # The scope and its cycle know each other; parted, they need no garbage collector.
                cycle.scope.pop("zuebee.cycle", None)
                self._running = None
        self._worker = None

    async def _find_next(self) -> None:
        """See to what came behind the last request."""
        if self._last_fault is not None:
            self._answer_fault(self._last_fault)
            return
        if self._unread and not self._receiving:
            await self._take_turn()
            self._go_on()
            if self._waiting or self._deaf:
                return
        self._idle = self.loop.create_future()
        await self._idle
        self._idle = None

    async def _take_turn(self) -> None:
        """Before another request of the same client: let others pass, and let the client take its answers."""
        await self.phase.turns.enter(self.loop)
        while self.flow.write_paused or self.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self._room = room = self.loop.create_future()
            await room

    def _tell_room(self) -> None:
        """The client may have taken something."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def on_response_complete(self, cycle: Cycle) -> None:
        """The answer is out: go on reading, and wait for the next request."""
        if self.transport.is_closing():
            return
        if not cycle.keep_alive:
            self._part()
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if not self._waiting and not self._receiving:
            self._idle_since_s = self.loop.time()

    def shutdown(self) -> None:
        """Close now if nothing runs here, else after the running answer."""
        if self.lingering is not None:
            self.lingering.hurry(self.loop.time())
        elif self._cycle is None or self._cycle.response_complete:
            self.transport.close()
        else:
            self.end_with_answer()

    def end_with_answer(self) -> None:
        """Take no request after the one that runs."""
        if self._cycle is not None:
            self._cycle.keep_alive = False

    def cancel(self) -> None:
        """Cancel the running request."""
        if self._worker is not None:
            self._worker.cancel()

    # --- the connection among others ---

    def idle_key(self) -> float:
        if self._running is not None or self._waiting or self._unread or self._last_fault is not None:
            return math.inf
        if self.transport.get_write_buffer_size():
            return math.inf
        if self.lingering is not None:
            return LINGERING + self.lingering.began_s
        if self._deadline_s:  # that of a head: it began when the connection or the head did
            return FRESH + self._deadline_s - self._limits.header_timeout_s if self._in_headers else math.inf
        return self._idle_since_s or math.inf

    def give_way(self) -> None:
        self.transport.abort()

    def drop_held(self) -> None:
        last = self._waiting[-1] if self._waiting else self._running
        self._forget_unread()
        if last is None:
            self.transport.abort()
            return
        last.keep_alive = False
        if last.response_complete:
            self._part()

    # --- ends ---

    def _part(self) -> None:
        """Close after the last answer: at once where nothing more may come, else by and by."""
        if not (self._receiving or self._unread or self._deaf or self.flow.read_paused):
            self.transport.close()
            return
        self._forget_unread()
        self._last_fault = None
        self._deadline_s = self._idle_since_s = 0.0
        now_s = self.loop.time()
        self.lingering = Linger(now_s, self._limits.max_discarded_bytes)
        if self.phase.draining:
            self.lingering.hurry(now_s)
        if self.transport.can_write_eof():  # not over TLS: there the answer must tell its end itself
            self.transport.write_eof()
        self.flow.full = False
        self.flow.resume_reading()

    def _forget_unread(self) -> None:
        """Look at nothing any more."""
        self._deaf = True
        self._unread = b""
        self.phase.held_bytes -= self.held_bytes
        self.held_bytes = 0

    def _discard(self, count: int) -> None:
        """Bytes came that nobody will look at."""
        lingering = self.lingering
        if lingering is None:
            # The last answers are still to be given: whoever sends on waits until then.
            self.flow.full = True
            self.flow.pause_reading()
        elif not lingering.discard(count, self.loop.time()):
            self.transport.close()

    def _break_off(self, fault: Fault) -> None:
        """What comes cannot be understood or is not wanted: say so in its turn, and close."""
        self._deadline_s = 0.0
        self._forget_unread()
        faulty = None if self._in_headers else self._cycle
        begun = faulty is not None and faulty not in self._waiting
        if faulty is not None and not begun:
            self._waiting.remove(faulty)
        running = None if self._running is faulty else self._running
        if self._waiting or (running is not None and not running.response_complete):
            # Those before it are answered first. Nobody is told a fault in bytes that began no request.
            last = self._waiting[-1] if self._waiting else running
            if self._receiving:
                self._last_fault = fault
            elif last is not None:
                last.keep_alive = False
        elif not self._receiving:
            self.transport.abort()
        elif not begun or faulty is None:
            self._answer_fault(fault)
        elif faulty.response_complete:
            self._part()
        elif faulty.response_started:
            # An error in the middle of an answer would look like a part of it.
            self.transport.abort()
        else:
            faulty.disconnected = True
            self._answer_fault(fault, counted=True)
            self.cancel()

    def _answer_fault(self, fault: Fault, *, counted: bool = False) -> None:
        """Give the last answer. `counted`: the application knows of the request, and counts it."""
        status, code, message = fault
        peer = self._client[0] if self._client and not counted else ""
        headers, body = self._render_error(status, code, message, peer)
        head = [STATUS_LINE[status]]
        head += [name + b": " + value + b"\r\n" for name, value in headers]
        head.append(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body))
        self.flow.write(b"".join(head) + body)
        self._part()

    # --- deadlines ---

    def sweep(self, now_s: float) -> None:
        """Close the connection if its client is overdue with a request, or takes nothing of an answer."""
        if self._deadline_s:
            cycle = self._cycle
            not_asked = cycle is not None and cycle.expects_continue and not cycle.response_started
            if (self.flow.read_paused or not_asked) and not self._in_headers:
                # Nobody listens to the client, or has told it to go on, so it is not late.
                self._deadline_s = max(self._deadline_s, now_s + self._limits.body_timeout_s)
            elif now_s > self._deadline_s:
                self._break_off(OVERDUE)
        if self._idle_since_s and now_s - self._idle_since_s > self._keep_alive_s:
            self._idle_since_s = 0.0
            self.transport.close()
        elif self.lingering is not None and self.lingering.is_over(now_s):
            self.transport.close()
        self._known.tidy()
        self._tell_room()
        if self.flow.stalled_s(now_s) > self._limits.write_timeout_s:
            self.transport.abort()
