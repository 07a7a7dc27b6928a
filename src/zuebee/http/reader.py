"""The requests of one client connection, as they come in: HTTP/1.1 on httptools' parser, with limits on what is read.

One request is looked at after the other, however many come at once. References: RFC 9110 and 9112.
"""

import asyncio
import re
from abc import ABC, abstractmethod
from collections import deque
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from zuebee.http.connections import (
    HEADERS_TOO_LARGE,
    INVALID_HOST,
    INVALID_HTTP,
    INVALID_TARGET,
    MAX_HELD_BYTES,
    UNKNOWN_CODING,
    UNKNOWN_METHOD,
    UNKNOWN_VERSION,
    URI_TOO_LONG,
    Fault,
    Phase,
    ReceiveLimits,
    Refused,
)
from zuebee.http.cycle import HIGH_WATER_BYTES, Cycle, Flow
from zuebee.http.grammar import Fields, Scope, codings, is_for, scope_of
from zuebee.http.head_cache import KnownHead

# What the head of a request must be, beyond what the parser sees to (RFC 9110 and 9112).

# A registered name, IPv4 or bracketed IPv6 address, and a port (RFC 3986, section 3.2.2, without userinfo).
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?")


def fault_of(
    version: str, method: bytes, url: bytes, headers: Fields, fields: dict[bytes, bytes], good_host: bytes
) -> Fault | None:
    """What is wrong with a head, if anything. `fields`: `headers` by name; `good_host` was found to be good before."""
    if version != "1.1" and version != "1.0":
        return UNKNOWN_VERSION
    if len(fields) != len(headers) and sum([name == b"host" for name, _ in headers]) > 1:
        return INVALID_HOST
    host = fields.get(b"host")
    if host is None:
        if version != "1.0":
            return INVALID_HOST
    elif host != good_host and _HOST.fullmatch(host) is None:
        return INVALID_HOST
    if b"transfer-encoding" in fields and (version == "1.0" or codings(headers) != [b"chunked"]):
        return UNKNOWN_CODING  # RFC 9112, section 6.1: with HTTP/1.0, the framing is faulty
    if url[:1] != b"/" and not is_for(url, host, method):
        return INVALID_TARGET
    return None


# Where to cut what a client sends, so that a parser is given one message at a time.
#
# Each head and each chunked body ends with an empty line, any other body after as many bytes as its head says. Whoever
# cuts behind each empty line may cut once too often, which no parser minds, but never lets two requests through at
# once.

PIECE_BYTES: Final = 8 * 1024
"""No piece of a head or of a chunked body is larger: it may hold thousands of fields or chunks."""

_EMPTY_LINE: Final = b"\r\n\r\n"


class Pieces:
    """Cuts the messages of one connection. `body_left`: how much is to come of a body whose length is known."""

    __slots__ = ("_before", "body_left")

    def __init__(self) -> None:
        self.body_left = 0
        self._before = b""

    def end(self, data: bytes, at: int) -> int:
        """Where the piece of `data` that begins at `at` ends."""
        size = len(data)
        if self.body_left:
            return min(size, at + self.body_left)
        if not at and self._before:
            # An empty line that began in what came before.
            begins = (self._before + data[:3]).find(_EMPTY_LINE)
            if begins >= 0:
                return begins + len(_EMPTY_LINE) - len(self._before)
        limit = min(size, at + PIECE_BYTES)
        begins = data.find(_EMPTY_LINE, max(at - 3, 0), limit)
        return limit if begins < 0 else begins + len(_EMPTY_LINE)

    def ran_out(self, data: bytes) -> None:
        """All of `data` was taken, and its last message is not whole."""
        if not self.body_left:
            self._before = (self._before + data)[-3:] if len(data) < 3 else data[-3:]

    def begin(self) -> None:
        """What comes now begins a message, or goes on with bytes that were cut before."""
        self._before = b""


MAX_PIECES: Final = 64
MAX_STEP_BYTES: Final = 16 * 1024
"""So much is parsed in one round of the event loop: it may be thousands of fields or chunks."""


class RequestReader(ABC):
    """Makes cycles of bytes. What comes behind a request that is not answered yet is kept as it came, up to a bound at
    which reading stops.

    `_deaf`: what comes is not looked at any more. `_deadline_s`: when the request that is coming must be here.
    """

    transport: asyncio.Transport  # both from `connection_made` on
    flow: Flow

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: ReceiveLimits, phase: Phase) -> None:
        self.loop = loop
        self.phase = phase
        self._limits = limits
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
        self._deadline_s = 0.0
        self._in_headers = True
        self._offers_upgrade = False
        self._header_bytes = 0
        self._idle_since_s = 0.0
        self._refusal: Fault | None = None
        self._pieces = Pieces()
        self._unread = b""
        self._unread_at = 0
        self._goes_on_soon = False
        self._deaf = False
        self.held_bytes = 0
        self._known = KnownHead(dated=False)
        self._known_scope: Scope = {}

    # --- what becomes of it ---

    @abstractmethod
    def _begin_cycle(self, scope: Scope, *, keep_alive: bool) -> Cycle:
        """Hand a request to the application."""

    @abstractmethod
    def _break_off(self, fault: Fault) -> None:
        """What comes cannot be understood or is not wanted."""

    @abstractmethod
    def _discard(self, count: int) -> None:
        """Bytes came that nobody will look at."""

    @abstractmethod
    def cancel(self) -> None:
        """Cancel the running request."""

    # --- bytes ---

    def data_received(self, data: bytes) -> None:
        if self._deaf or self.transport.is_closing():
            if not self.transport.is_closing():
                self._discard(len(data))
            return
        if self._unread or (not self._receiving and (self._running is not None or self._waiting)):
            self._keep(data)
            return
        between = not self._receiving and not self._header_bytes
        if between and (body := self._known.body_of(data)) is not None:
            self._repeat(body)
            return
        self._parse(data, 0)
        if self._in_headers or self._unread or self.held_bytes:
            self._count_held()
        if between and not self._receiving and not self._unread and not self._deaf:
            self._remember(data)

    def _keep(self, data: bytes) -> None:
        """Put off bytes whose time has not come."""
        self._unread = self._unread[self._unread_at :] + data
        self._unread_at = 0
        self._mind_unread()
        self._count_held()

    def _mind_unread(self) -> None:
        """Listen while not too much is put off: who does not listen does not see the client leave either."""
        flow = self.flow
        if len(self._unread) - self._unread_at > HIGH_WATER_BYTES:
            flow.full = True
            flow.pause_reading()
        elif flow.full:
            flow.full = False
            if self._cycle is None or len(self._cycle.body) <= HIGH_WATER_BYTES:
                flow.resume_reading()

    def _count_held(self) -> None:
        """Tell how much is held of a head that is not whole, and of requests whose turn has not come."""
        held_bytes = 0
        if self._in_headers:
            held_bytes = len(self._unread) - self._unread_at + self._header_bytes
        if held_bytes == self.held_bytes:
            return
        phase = self.phase
        phase.held_bytes += held_bytes - self.held_bytes
        self.held_bytes = held_bytes
        if phase.held_bytes > MAX_HELD_BYTES:
            phase.relieve()

    def _go_on(self) -> None:
        """Look at what was put off."""
        self._goes_on_soon = False
        if not self._unread or (not self._receiving and (self._running is not None or self._waiting)):
            return
        data, at = self._unread, self._unread_at
        self._unread = b""
        self._unread_at = 0
        self._pieces.begin()
        self._parse(data, at)
        self._mind_unread()
        self._count_held()

    def _parse(self, data: bytes, at: int) -> None:
        """Look at what came, up to the end of a message, as far as may be in one go; the rest is put off."""
        pieces, size, step_ends, count = self._pieces, len(data), at + MAX_STEP_BYTES, 0
        while True:
            end = pieces.end(data, at)
            if pieces.body_left:
                pieces.body_left -= end - at
            self._feed(data if not at and end == size else data[at:end])
            if self._deaf or self.transport.is_closing():
                return
            at = end
            count += 1
            if at == size:
                break
            behind = not self._receiving and (self._running is not None or bool(self._waiting))
            if behind or count == MAX_PIECES or (at > step_ends and not pieces.body_left):
                self._unread, self._unread_at = data, at
                self._mind_unread()
                if not behind and not self._goes_on_soon:
                    self._goes_on_soon = True
                    self.loop.call_soon(self._go_on)
                break
        if self._receiving:
            if at == size:
                pieces.ran_out(data)
            if not self._in_headers:  # no credit for bytes that came early, or they would buy hours of silence
                self._deadline_s = min(self._deadline_s, self.loop.time() + self._limits.body_timeout_s)
        else:
            pieces.begin()

    def _feed(self, piece: bytes) -> None:
        self._header_bytes += len(piece)
        try:
            self._parser.feed_data(piece)
            if self._header_bytes > self._limits.max_header_bytes:
                # A head, or a line between or behind the chunks of a body, that does not come to its end.
                too_long = self._in_headers and not self._headers and self._url
                self._refuse(URI_TOO_LONG if too_long else HEADERS_TOO_LARGE)
        except HttpParserUpgrade as stop:
            if self._offers_upgrade:
                self._decline_upgrade(piece[stop.args[0] :])
        except (HttpParserError, Refused):
            self._break_off(self._refusal or INVALID_HTTP)

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
        self._feed(b"".join((*lines, b"\r\n", rest)))

    def _refuse(self, refusal: tuple[int, str, str]) -> None:
        # Raised through the parser, so that nothing after this byte is looked at.
        self._refusal = refusal
        raise Refused(refusal[1])

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
            if len(self._headers) >= self._limits.max_headers:
                self._refuse(HEADERS_TOO_LARGE)
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
        # A client of HTTP/1.0 would take an interim answer for the answer (RFC 9110, section 10.1.1).
        self._expects_continue = version != "1.0" and fields.get(b"expect", b"").lower() == b"100-continue"
        if self._header_bytes > self._limits.max_header_bytes:
            self._check_head_size()
        self._header_bytes = 0
        if parser.should_upgrade():
            self._refuse(UNKNOWN_METHOD)
        self._in_headers = False
        self._pieces.body_left = int(fields.get(b"content-length", b"0"))
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

    def _check_head_size(self) -> None:
        """What came in may be more than the head; now the head itself is measured."""
        head_bytes = len(self._url) + sum(len(name) + len(value) for name, value in self._headers)
        if head_bytes > self._limits.max_header_bytes:
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
            if cycle.response_complete:
                self._idle_since_s = self.loop.time()
            else:
                cycle.wake()

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


def _new_parser(protocol: RequestReader) -> HttpRequestParser:
    parser = HttpRequestParser(protocol)
    # A request may follow one that closes the connection: it is not looked at, and no reason to complain.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
