"""One client connection: HTTP/1.1 on httptools' parser, for an ASGI application, with the guards that a server facing
strangers needs.

Deadlines for receiving headers and bodies, limits on header count and size, exactly one well-formed Host, cutting off
clients that stop reading, the end of a request's task when its client leaves, and error answers in the application's
own words. References: RFC 9110 and 9112.
"""

import asyncio
import logging
from collections import deque
from typing import Any, Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from zuebee.kit.http_cycle import Cycle
from zuebee.kit.http_flow import HIGH_WATER_BYTES, Flow
from zuebee.kit.http_framing import STATUS_LINE, Fields
from zuebee.kit.http_head_rules import fault_of
from zuebee.kit.http_known_head import KnownHead
from zuebee.kit.http_limits import (
    HEADERS_TOO_LARGE,
    INVALID_HTTP,
    UNKNOWN_METHOD,
    URI_TOO_LONG,
    Fault,
    Phase,
    ReceiveLimits,
    Refused,
    RenderError,
)
from zuebee.kit.http_scope import Scope, address_of, scope_of

_log: Final = logging.getLogger("zuebee.http")

MAX_PIPELINED: Final = 8


class GuardedProtocol:
    """One client connection. `sweep` is called a few times a second by the server and acts on overdue deadlines."""

    transport: asyncio.Transport  # both from `connection_made` on
    flow: Flow

    def __init__(
        self,
        app: Any,
        connections: "set[GuardedProtocol]",
        loop: asyncio.AbstractEventLoop,
        limits: ReceiveLimits,
        keep_alive_s: float,
        render_error: RenderError,
        phase: Phase,
    ) -> None:
        self.loop = loop
        self.phase = phase
        self._app = app
        self._connections = connections
        self._limits = limits
        self._keep_alive_s = keep_alive_s
        self._render_error = render_error
        self._parser = _new_parser(self)
        self._url = b""
        self._headers: Fields = []
        self._expects_continue = False
        self._secure = False
        self._server: tuple[str, int] | None = None
        self._client: tuple[str, int] | None = None
        self._cycle: Cycle | None = None
        self._running: Cycle | None = None
        self._waiting: deque[Cycle] = deque()
        self._receiving = False
        self._good_host = b""
        self._worker: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None
        self._deadline_s = 0.0
        self._in_headers = True
        self._offers_upgrade = False
        self._header_bytes = 0
        self._idle_since_s = 0.0
        self._refusal: Fault | None = None
        self._unsent_bytes = 0
        self._stalled_since_s = 0.0
        self._known = KnownHead(dated=False)
        self._known_scope: Scope = {}

    # --- transport callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.flow = Flow(self.transport, self.loop)
        self._server = address_of(transport.get_extra_info("sockname"))
        self._client = address_of(transport.get_extra_info("peername"))
        self._secure = transport.get_extra_info("sslcontext") is not None
        self._connections.add(self)
        self._deadline_s = self.loop.time() + self._limits.header_timeout_s
        if len(self._connections) > self._limits.max_connections:
            self.transport.close()

    def eof_received(self) -> None: ...

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._deadline_s = self._idle_since_s = 0.0
        cycle = self._cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.wake()
        goes_on = self._goes_on()
        self.flow.resume_writing()
        self._waiting.clear()
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

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        between = not self._receiving and not self._header_bytes
        if between and (body := self._known.body_of(data)) is not None:
            self._repeat(body)
            return
        self._header_bytes += len(data)
        try:
            self._parser.feed_data(data)
            if between and not self._receiving:
                self._remember(data)
            if self._header_bytes > self._limits.max_header_bytes:
                # A head, or a line between or behind the chunks of a body, that does not come to its end.
                too_long = self._in_headers and not self._headers and self._url
                self._refuse(URI_TOO_LONG if too_long else HEADERS_TOO_LARGE)
        except HttpParserUpgrade as stop:
            if self._offers_upgrade:
                self._decline_upgrade(data[stop.args[0] :])
        except (HttpParserError, Refused):
            self.send_400_response("")

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the request again without its offer to speak something else (h2c, websocket).

        With the offer httptools takes what follows the head for another protocol. Java's HTTP client makes it in
        every first request, also in those with a body.
        """
        parser = self._parser
        lines = [b"%b %b HTTP/%b\r\n" % (parser.get_method(), self._url, parser.get_http_version().encode())]
        lines += [b"%b: %b\r\n" % field for field in self._headers if field[0] != b"upgrade"]
        self._parser = _new_parser(self)
        self._offers_upgrade = False
        self._header_bytes = 0
        self.data_received(b"".join((*lines, b"\r\n", rest)))

    # --- parser callbacks ---

    def on_message_begin(self) -> None:
        self._url = b""
        self._expects_continue = False
        self._headers = []
        self._deadline_s = self.loop.time() + self._limits.header_timeout_s
        self._receiving = True
        # Not before: line ends between requests are no sign of life.
        self._idle_since_s = 0.0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come after the application has decided by the headers; they are not read.
        if self._in_headers:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._parser.should_upgrade() and self._parser.get_method() != b"CONNECT":
            self._offers_upgrade = True
            return
        parser = self._parser
        version = parser.get_http_version()
        fields = dict(self._headers)
        if fault := fault_of(version, parser.get_method(), self._url, self._headers, fields, self._good_host):
            self._refuse(fault)
        self._good_host = fields.get(b"host", b"")
        self._expects_continue = fields.get(b"expect", b"").lower() == b"100-continue"
        if len(self._headers) > self._limits.max_headers or self._header_bytes > self._limits.max_header_bytes:
            self._check_head_size()
        self._header_bytes = 0
        if parser.should_upgrade():
            self._refuse(UNKNOWN_METHOD)
        self._in_headers = False
        self._deadline_s = self.loop.time() + self._limits.body_timeout_s
        self._begin_cycle(self._scope(version, fields), keep_alive=version != "1.0" and parser.should_keep_alive())

    def _scope(self, version: str, fields: dict[bytes, bytes]) -> Scope:
        scope = scope_of(
            version,
            self._parser.get_method().decode("ascii"),
            self._url,
            self._headers,
            server=self._server,
            client=self._client,
            secure=self._secure,
        )
        scope["zuebee.fields"] = fields
        scope["zuebee.cancel"] = self.cancel
        return scope

    def _begin_cycle(self, scope: Scope, *, keep_alive: bool) -> Cycle:
        """Hand the request to the application, behind those that came before it on this connection."""
        cycle = self._cycle = Cycle(self, scope, self._expects_continue, keep_alive and not self.phase.draining)
        scope["zuebee.cycle"] = cycle
        self._waiting.append(cycle)
        if self._worker is None:
            self._worker = self.loop.create_task(self._work())
        elif self._idle is not None:
            if not self._idle.done():
                self._idle.set_result(None)
        elif len(self._waiting) > MAX_PIPELINED:
            # Not sooner: while nobody reads, nobody sees the client leave.
            self.flow.pause_reading()
        return cycle

    # --- heads that come again ---

    def _remember(self, data: bytes) -> None:
        """Know this head again, if `data` was one whole request."""
        cycle, known = self._cycle, self._known
        if cycle is None or cycle.more_body or not cycle.keep_alive or cycle.scope["method"] != "POST":
            return
        if known.learn(data, len(cycle.body), self._headers):
            self._known_scope = {**cycle.scope, "zuebee.memory": known.memory}
            del self._known_scope["zuebee.cycle"]

    def _repeat(self, body: bytes) -> None:
        """A request with the known head, all of it here: what the parser's callbacks would do, at once."""
        self._idle_since_s = 0.0
        self._expects_continue = False
        scope, fields = self._known_scope, self._known.fields
        if scope["headers"] is not fields:
            scope["headers"] = fields
            scope["zuebee.fields"] = dict(fields)
        cycle = self._begin_cycle(scope.copy(), keep_alive=True)
        cycle.body = body
        cycle.more_body = False

    def _check_head_size(self) -> None:
        """What came in may be more than the head; now the head itself is measured."""
        head_bytes = len(self._url) + sum(len(name) + len(value) for name, value in self._headers)
        if len(self._headers) > self._limits.max_headers or head_bytes > self._limits.max_header_bytes:
            self._refuse(URI_TOO_LONG if len(self._url) > self._limits.max_header_bytes else HEADERS_TOO_LARGE)

    def on_body(self, body: bytes) -> None:
        self._header_bytes = 0
        self._deadline_s += len(body) / self._limits.body_min_bytes_per_s
        cycle = self._cycle
        if cycle is None or cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_BYTES:
            self.flow.pause_reading()
        cycle.wake()

    def on_message_complete(self) -> None:
        if self._offers_upgrade:
            return
        self._deadline_s = 0.0
        self._receiving = False
        self._in_headers = True
        self._header_bytes = 0
        if (cycle := self._cycle) is not None:
            cycle.more_body = False
            cycle.wake()

    # --- the requests of a connection, one after the other ---

    async def _work(self) -> None:
        """Run the requests of this connection. One task for all of them: a new one each time costs more."""
        phase = self.phase
        while not self.transport.is_closing():
            if not self._waiting:
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
                if not cycle.response_complete and not self.transport.is_closing():
                    self.transport.close()  # an answer without its end must not look whole
                # The scope and its cycle know each other; parted, they need no garbage collector.
                cycle.scope.pop("zuebee.cycle", None)
                self._running = None
        self._worker = None

    def on_response_complete(self) -> None:
        """The answer is out: go on reading, and wait for the next request."""
        if not self.transport.is_closing():
            if self.flow.read_paused:
                self.flow.resume_reading()
            if not self._waiting:
                self._idle_since_s = self.loop.time()

    def shutdown(self) -> None:
        """Close now if nothing runs here, else after the running answer."""
        if self._cycle is None or self._cycle.response_complete:
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

    def _refuse(self, refusal: tuple[int, str, str]) -> None:
        # Raised through the parser, so that nothing after this byte is looked at.
        self._refusal = refusal
        raise Refused(refusal[1])

    def send_400_response(self, msg: str) -> None:
        """Answer a request that could not be parsed or was refused while being received, and close."""
        self._close_with(*(self._refusal or INVALID_HTTP))

    def _close_with(self, status: int, code: str, message: str) -> None:
        self._deadline_s = 0.0
        cycle = self._cycle
        # In the body of a request, whatever was begun is its answer; before, an older one may still be on its way.
        unfinished = cycle is not None and not cycle.response_complete
        in_answer = cycle is not None and cycle.response_started and (unfinished or not self._in_headers)
        if in_answer or not self._receiving:
            # An error in the middle of an answer would look like a part of it, and nobody asked for one in silence.
            self.transport.abort()
            return
        peer = self._client[0] if self._client and self._in_headers else ""
        headers, body = self._render_error(status, code, message, peer)
        head = [STATUS_LINE[status]]
        head += [name + b": " + value + b"\r\n" for name, value in headers]
        head.append(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body))
        self.transport.write(b"".join(head) + body)
        if cycle is not None and unfinished:
            cycle.disconnected = True
        self.cancel()
        self.transport.close()

    # --- deadlines ---

    def sweep(self, now_s: float) -> None:
        """Close the connection if its client is overdue with a request, or takes nothing of an answer."""
        if self._deadline_s and now_s > self._deadline_s:
            if self.flow.read_paused:
                # Nobody listens to the client, so it is not late.
                self._deadline_s = now_s + self._limits.body_timeout_s
            else:
                self._close_with(408, "request_timeout", "The request took too long to arrive.")
        if self._idle_since_s and now_s - self._idle_since_s > self._keep_alive_s:
            self._idle_since_s = 0.0
            self.transport.close()
        self._known.tidy()
        unsent_bytes = self.transport.get_write_buffer_size()
        # The rest of a finished answer lies below the mark at which writing pauses, and keeps a closing transport open.
        if not unsent_bytes or not (self.flow.write_paused or self.transport.is_closing()):
            self._stalled_since_s = 0.0
            return
        if not self._stalled_since_s or unsent_bytes < self._unsent_bytes:
            self._stalled_since_s = now_s
        elif now_s - self._stalled_since_s > self._limits.write_timeout_s:
            self.transport.abort()
        self._unsent_bytes = unsent_bytes


def _new_parser(protocol: GuardedProtocol) -> HttpRequestParser:
    parser = HttpRequestParser(protocol)
    # A request may follow one that closes the connection: it is not looked at, and no reason to complain.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
