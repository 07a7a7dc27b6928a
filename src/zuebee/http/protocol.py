"""One client connection: requests that come in, an ASGI application that answers them, and the guards that a server
facing strangers needs.

This is where it begins and ends: transport callbacks, its place among other connections, error answers in the
application's own words, the end of a request's task when its client leaves, and what happens when a deadline has
passed. How requests are read, in which order, and by when, stands in `reader.py` and its parts. References: RFC 9110
and 9112.
"""

import asyncio
import math
from typing import Any, cast

from zuebee.http.connections import (
    FRESH,
    LINGERING,
    OVERDUE,
    ConnectionTable,
    Fault,
    Guest,
    Phase,
    ReceiveLimits,
    RenderError,
)
from zuebee.http.cycle import Cycle, Flow
from zuebee.http.deadlines import Linger
from zuebee.http.grammar import STATUS_LINE, Scope, address_of
from zuebee.http.reader import Ends, RequestReader
from zuebee.lib import clock


class GuardedProtocol(RequestReader):
    """One client connection.

    What always holds:

    * It has a place in the table from `connection_made` to `connection_lost`, or is closed at once.
    * Each request that has begun is answered whole, or its client sees that the answer is not whole: the transport is
      closed or aborted before the end. After a fault of the client one answer tells of it, in its turn, if it can be
      told, and nothing follows.
    * While `lingering`, all answers are given and only the end of the connection is missing: nothing begins.

    Who may call: the transport, the server (`sweep` a few times a second, `shutdown`, `end_with_answer`, `cancel`), the
    table (`idle_key`, `give_way`, `drop_held`), the cycle of a request when its answer is out, and the queue
    (`QueueOwner`).
    """

    def __init__(
        self,
        app: Any,
        table: ConnectionTable,
        loop: asyncio.AbstractEventLoop,
        limits: ReceiveLimits,
        keep_alive_s: float,
        render_error: RenderError,
        phase: Phase,
        replaces: Guest | None = None,
    ) -> None:
        super().__init__(app, loop, limits, keep_alive_s, phase)
        self._limits = limits
        self._table = table
        self._replaces = replaces
        self._render_error = render_error
        self._last_fault: Fault | None = None
        self._address = ""
        self.lingering: Linger | None = None

    @property
    def held_bytes(self) -> int:
        """What is held of requests that were not looked at."""
        return self._backlog.held_bytes

    @property
    def is_ending(self) -> bool:
        """Whether the last answers are still on their way."""
        return self.lingering is not None or self.transport.get_write_buffer_size() > 0

    # --- transport callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.flow = Flow(self.transport, self.loop)
        self._backlog.begin(self.transport, self.flow)
        client = address_of(transport.get_extra_info("peername"))
        server = address_of(transport.get_extra_info("sockname"))
        self._parser.ends = Ends(server, client, secure=transport.get_extra_info("sslcontext") is not None)
        self._address = address = client[0] if client else ""
        if self._replaces is not None:
            self._table.leave(self._replaces, address)
            self._replaces = None
        self._deadlines.head_is_due()
        if not self._table.enter(self, address, clock.monotonic_s()):  # the loop knows no more than its round
            self.transport.abort()

    def eof_received(self) -> None: ...

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()
        self._backlog.has_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._table.leave(self, self._address)
        self._deadlines.stop()
        cycle = self._cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.wake()
        goes_on = self._goes_on()
        self.flow.resume_writing()
        self._forget_unread()
        self.transport.close()
        # What knows this connection and is known by it: parted, it is freed at once, not by a rare collection.
        self._parser.close()
        self._cycle = None
        self._known_scope = {}
        self._queue.close(goes_on=goes_on)

    def _goes_on(self) -> bool:
        """Whether the running request wants to go on without its client; nobody sees what it writes from now on."""
        running = self._queue.running
        if running is None or running.response_complete or running.goes_on is None or not running.goes_on():
            return False
        running.disconnected = True
        return True

    # --- the requests of a connection, one after the other ---

    def _begin_cycle(self, scope: Scope, *, expects_continue: bool, keep_alive: bool) -> Cycle:
        """Hand the request to the application, behind those that came before it on this connection."""
        cycle = self._cycle = Cycle(self, scope, expects_continue, keep_alive and not self.phase.draining)
        scope["zuebee.cycle"] = cycle
        self._queue.add(cycle, self)
        return cycle

    def has_ended(self) -> bool:
        return self.lingering is not None or self.transport.is_closing()

    def has_more(self) -> bool:
        return bool(self._backlog.data) or self._last_fault is not None

    async def find_next(self) -> bool:
        if self._last_fault is not None:
            self._answer_fault(self._last_fault)
            return True
        if self._backlog.data and not self._parser.receiving:
            await self._backlog.turn()
            self._go_on()
            return bool(self._queue.waiting) or self._deaf
        return False

    def on_response_complete(self, cycle: Cycle) -> None:
        """The answer is out: go on reading, and wait for the next request."""
        if self.transport.is_closing():
            return
        if not cycle.keep_alive:
            self._part()
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if not self._queue.waiting and not self._parser.receiving:
            self._deadlines.idle()

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
        self._queue.cancel()

    # --- the connection among others ---

    def idle_key(self) -> float:
        if not self._queue.is_free() or self.has_more():
            return math.inf
        if self.transport.get_write_buffer_size():
            return math.inf
        if self.lingering is not None:
            return LINGERING + self.lingering.began_s
        if self._deadlines.request_by_s:  # that of a head: it began when the connection or the head did
            return FRESH + self._deadlines.head_since_s if self._parser.in_headers else math.inf
        return self._deadlines.idle_since_s or math.inf

    def give_way(self) -> None:
        self.transport.abort()

    def drop_held(self) -> None:
        last = self._queue.last()
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
        if not (self._parser.receiving or self._backlog.data or self._deaf or self.flow.read_paused):
            self.transport.close()
            return
        self._forget_unread()
        self._last_fault = None
        self._deadlines.stop()
        now_s = self.loop.time()
        self.lingering = Linger(now_s, self._limits)
        if self.phase.draining:
            self.lingering.hurry(now_s)
        if self.transport.can_write_eof():  # not over TLS: there the answer must tell its end itself
            self.transport.write_eof()
        self.flow.full = False
        self.flow.resume_reading()

    def _forget_unread(self) -> None:
        """Look at nothing any more."""
        self._deaf = True
        self._backlog.forget()

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
        queue, receiving = self._queue, self._parser.receiving
        self._deadlines.request_ends()
        self._forget_unread()
        faulty = None if self._parser.in_headers else self._cycle
        begun = faulty is not None and faulty not in queue.waiting
        if faulty is not None and not begun:
            queue.waiting.remove(faulty)
        running = None if queue.running is faulty else queue.running
        if queue.waiting or (running is not None and not running.response_complete):
            # Those before it are answered first. Nobody is told a fault in bytes that began no request.
            last = queue.waiting[-1] if queue.waiting else running
            if receiving:
                self._last_fault = fault
            elif last is not None:
                last.keep_alive = False
        elif not receiving:
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
        peer = "" if counted else self._address
        headers, body = self._render_error(status, code, message, peer)
        head = [STATUS_LINE[status]]
        head += [name + b": " + value + b"\r\n" for name, value in headers]
        head.append(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body))
        self.flow.write(b"".join(head) + body)
        self._part()

    # --- deadlines ---

    def sweep(self, now_s: float) -> None:
        """Close the connection if its client is overdue with a request, or takes nothing of an answer."""
        deadlines = self._deadlines
        if deadlines.request_by_s:
            cycle = self._cycle
            not_asked = cycle is not None and cycle.expects_continue and not cycle.response_started
            if (self.flow.read_paused or not_asked) and not self._parser.in_headers:
                deadlines.excuse(now_s)
            elif now_s > deadlines.request_by_s:
                self._break_off(OVERDUE)
        if deadlines.is_idle_too_long(now_s):
            deadlines.busy()
            self.transport.close()
        elif self.lingering is not None and self.lingering.is_over(now_s):
            self.transport.close()
        self._backlog.has_room()
        if self.flow.stalled_s(now_s) > self._limits.write_timeout_s:
            self.transport.abort()
