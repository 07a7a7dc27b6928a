"""uvicorn's httptools protocol with the guards that a server facing strangers needs.

Added to uvicorn: deadlines for receiving headers and bodies, limits on header count and size, exactly one well-formed
Host, cutting off clients that stop reading, the end of a request's task when its client leaves, and error answers in
the application's own words. References: RFC 9110 and 9112.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from zuebee.kit.http_cycle import Cycle

# A registered name, IPv4 or bracketed IPv6 address, and a port (RFC 3986, section 3.2.2, without userinfo).
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?")

_ASGI: Any = {"version": "3.0", "spec_version": "2.3"}

INVALID_HTTP = (400, "invalid_http", "The request is not valid HTTP/1.1.")
INVALID_HOST = (400, "invalid_host", "The Host header field is missing, repeated or not valid.")
URI_TOO_LONG = (414, "uri_too_long", "The request target is too long.")
HEADERS_TOO_LARGE = (431, "headers_too_large", "The request has too many or too large header fields.")

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


class Refused(Exception):
    """A request that is not worth reading on."""


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
        self._in_headers = True
        self._offers_upgrade = False
        self._header_bytes = 0
        self._idle_since_s = 0.0
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
        self._idle_since_s = 0.0
        if self._in_headers:
            self._header_bytes += len(data)
        try:
            self.parser.feed_data(data)
            if self._in_headers and self._header_bytes > self._limits.max_header_bytes:
                self._refuse(HEADERS_TOO_LARGE)
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
        parser = self.parser
        lines = [b"%b %b HTTP/%b\r\n" % (parser.get_method(), self.url, parser.get_http_version().encode())]
        lines += [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = HttpRequestParser(self)
        self._offers_upgrade = False
        self._header_bytes = 0
        self.data_received(b"".join((*lines, b"\r\n", rest)))

    # --- parser callbacks ---

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self._deadline_s = self.loop.time() + self._limits.header_timeout_s
        self._receiving = True

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come after the application has decided by the headers; they are not read.
        if self._in_headers:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._offers_upgrade = True
            return
        self._in_headers = False
        hosts = 0
        header_bytes = len(self.url)
        for name, value in self.headers:
            header_bytes += len(name) + len(value)
            if name == b"host":
                hosts += 1
                if _HOST.fullmatch(value) is None:
                    self._refuse(INVALID_HOST)
            elif name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
        if hosts != 1 and (hosts or self.parser.get_http_version() != "1.0"):
            self._refuse(INVALID_HOST)
        if len(self.headers) > self._limits.max_headers or header_bytes > self._limits.max_header_bytes:
            self._refuse(URI_TOO_LONG if len(self.url) > self._limits.max_header_bytes else HEADERS_TOO_LARGE)
        self._deadline_s = self.loop.time() + self._limits.body_timeout_s
        self._begin_cycle()

    def _begin_cycle(self) -> None:
        """Hand the request to the application, behind those that came before it on this connection."""
        parser = self.parser
        url = parse_url(self.url)
        path = url.path.decode("ascii")
        version = parser.get_http_version()
        self.scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": parser.get_method().decode("ascii"),
            "root_path": "",
            "path": unquote(path) if "%" in path else path,
            "raw_path": url.path,
            "query_string": url.query or b"",
            "headers": self.headers,
        }
        lasts = not self._phase.draining and parser.should_keep_alive()
        earlier = self.cycle
        self.cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=lasts and version != "1.0",
            on_response=self.on_response_complete,
        )
        if earlier is None or earlier.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        self._deadline_s += len(body) / self._limits.body_min_bytes_per_s
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._offers_upgrade:
            return
        self._deadline_s = 0.0
        self._receiving = False
        self._in_headers = True
        self._header_bytes = 0
        super().on_message_complete()

    # --- uvicorn's own steps ---

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = task = self.loop.create_task(cycle.run_asgi(app))
        cycle.scope["zuebee.cancel"] = task.cancel  # type: ignore[typeddict-unknown-key]
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _refuse(self, refusal: tuple[int, str, str]) -> None:
        # Raised through the parser, so that nothing after this byte is looked at.
        self._refusal = refusal
        raise Refused(refusal[1])

    def on_response_complete(self) -> None:
        """The answer is out: begin with the next request of this connection, or wait for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since_s = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that could not be parsed or was refused while being received, and close."""
        self._close_with(*(self._refusal or INVALID_HTTP))

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
            self._close_with(408, "request_timeout", "The request took too long to arrive.")
        if self._idle_since_s and now_s - self._idle_since_s > self.timeout_keep_alive:
            self.transport.close()
        if not self.flow.write_paused:
            self._stalled_since_s = 0.0
            return
        unsent_bytes = self.transport.get_write_buffer_size()
        if not self._stalled_since_s or unsent_bytes < self._unsent_bytes:
            self._stalled_since_s = now_s
        elif now_s - self._stalled_since_s > self._limits.write_timeout_s:
            self.transport.abort()
        self._unsent_bytes = unsent_bytes
