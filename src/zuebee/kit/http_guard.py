"""uvicorn's httptools protocol with the guards that a server facing strangers needs.

Added to uvicorn: deadlines for receiving headers and bodies, limits on header count and size, exactly one well-formed
Host, cutting off clients that stop reading, the end of a request's task when its client leaves, and error answers in
the application's own words. References: RFC 9110 and 9112.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

# A registered name, IPv4 or bracketed IPv6 address, and a port (RFC 3986, section 3.2.2, without userinfo).
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?")

RenderError = Callable[[int, str, str], tuple[list[tuple[bytes, bytes]], bytes]]
"""(status, code, message) -> headers and body of an error answer."""


class ReceiveLimits(NamedTuple):
    """What a client may send, and by when."""

    header_timeout_s: float
    body_timeout_s: float
    body_min_bytes_per_s: int
    write_timeout_s: float
    max_headers: int
    max_header_bytes: int
    max_connections: int


class Phase:
    """What all connections of a server know of its life."""

    draining = False


class GuardedProtocol(HttpToolsProtocol):
    """One client connection. `sweep` is called a few times a second by the server and acts on overdue deadlines."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
        limits: ReceiveLimits,
        render_error: RenderError,
        phase: Phase,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self._limits = limits
        self._render_error = render_error
        self._phase = phase
        self._receiving = False
        self._running: asyncio.Task[Any] | None = None
        self._deadline_s = 0.0
        self._deadline_part = "headers"
        self._header_count = 0
        self._header_bytes = 0
        self._hosts = 0
        self._refusal: tuple[int, str, str] | None = None
        self._unsent_bytes = 0
        self._stalled_since_s = 0.0

    # --- transport callbacks ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._deadline_s = self.loop.time() + self._limits.header_timeout_s
        if len(self.connections) > self._limits.max_connections:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._deadline_s = 0.0
        if self._running is not None and not self._running.done():
            self._running.cancel()
        self._running = None

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)

    # --- parser callbacks ---

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_count = self._header_bytes = self._hosts = 0
        self._deadline_s = self.loop.time() + self._limits.header_timeout_s
        self._deadline_part = "headers"
        self._receiving = True

    def on_url(self, url: bytes) -> None:
        self._header_bytes += len(url)
        if self._header_bytes > self._limits.max_header_bytes:
            self._refuse(414, "uri_too_long", "The request target is too long.")
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self._header_count += 1
        self._header_bytes += len(name) + len(value)
        if self._header_count > self._limits.max_headers or self._header_bytes > self._limits.max_header_bytes:
            self._refuse(431, "headers_too_large", "The request has too many or too large header fields.")
        if name == b"host":
            self._hosts += 1
            if self._hosts > 1 or _HOST.fullmatch(value) is None:
                self._refuse(400, "invalid_host", "The Host header field is repeated or not valid.")
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if not self._hosts and self.parser.get_http_version() != "1.0":
            self._refuse(400, "invalid_host", "The Host header field is missing.")
        self._deadline_s = self.loop.time() + self._limits.body_timeout_s
        self._deadline_part = "body"
        super().on_headers_complete()
        if self._phase.draining or self.parser.should_upgrade():
            # After an upgrade that we do not follow, llhttp parses nothing more on this connection.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._deadline_s += len(body) / self._limits.body_min_bytes_per_s
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._deadline_s = 0.0
        self._receiving = False
        super().on_message_complete()

    # --- uvicorn's own steps ---

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _refuse(self, status: int, code: str, message: str) -> None:
        # Raised through the parser, so that nothing after this byte is looked at.
        self._refusal = (status, code, message)
        raise ValueError(message)

    def send_400_response(self, msg: str) -> None:
        """Answer a request that could not be parsed or was refused while being received, and close."""
        status, code, message = self._refusal or (400, "invalid_http", "The request is not valid HTTP/1.1.")
        self._close_with(status, code, message)

    def _close_with(self, status: int, code: str, message: str) -> None:
        self._deadline_s = 0.0
        cycle = self.cycle
        in_answer = cycle is not None and cycle.response_started and not cycle.response_complete
        if in_answer or not self._receiving:
            # An error in the middle of an answer would look like a part of it, and nobody asked for one in silence.
            self.transport.abort()
            return
        headers, body = self._render_error(status, code, message)
        head = [STATUS_LINE[status]]
        head += [name + b": " + value + b"\r\n" for name, value in headers]
        head.append(b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body))
        self.transport.write(b"".join(head) + body)
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
        if self._running is not None:
            self._running.cancel()
        self.transport.close()

    # --- deadlines ---

    def sweep(self, now_s: float) -> None:
        """Close the connection if its client is overdue with a request, or takes nothing of an answer."""
        if self._deadline_s and now_s > self._deadline_s:
            self._close_with(408, "request_timeout", f"The request's {self._deadline_part} took too long to arrive.")
        if not self.flow.write_paused:
            self._stalled_since_s = 0.0
            return
        unsent_bytes = self.transport.get_write_buffer_size()
        if not self._stalled_since_s or unsent_bytes < self._unsent_bytes:
            self._stalled_since_s = now_s
        elif now_s - self._stalled_since_s > self._limits.write_timeout_s:
            self.transport.abort()
        self._unsent_bytes = unsent_bytes
