"""The requests of one client connection, as they come in: bytes become requests for the application, one at a time.

`RequestParser` reads one request: HTTP/1.1 on httptools' parser, with limits on what is read. `RequestReader` gives it
bytes as their turn comes. Whose turn it is stands in `order.py`, by when a request must be here in `deadlines.py`, what
a known head is in `head_cache.py`, and what becomes of faults and ends in `protocol.py`. References: RFC 9110 and 9112.
"""

import asyncio
import re
from abc import abstractmethod
from typing import Any, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from zuebee.http.connections import (
    HEADERS_TOO_LARGE,
    INVALID_HOST,
    INVALID_HTTP,
    INVALID_TARGET,
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
from zuebee.http.deadlines import RequestDeadlines
from zuebee.http.grammar import Address, Fields, Scope, codings, is_for, scope_of
from zuebee.http.head_cache import KnownHead
from zuebee.http.order import Backlog, QueueOwner, RequestOrder

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


class Ends:
    """Both ends of a connection. `secure`: over TLS."""

    __slots__ = ("client", "secure", "server")

    def __init__(self, server: Address | None, client: Address | None, *, secure: bool) -> None:
        self.server = server
        self.client = client
        self.secure = secure


class Begun:
    """A request whose head is whole. `keep_alive`: another one may follow it."""

    __slots__ = ("expects_continue", "keep_alive", "scope")

    def __init__(self, scope: Scope, *, expects_continue: bool, keep_alive: bool) -> None:
        self.scope = scope
        self.expects_continue = expects_continue
        self.keep_alive = keep_alive


class RequestParser:
    """Reads the requests of one connection. It knows nothing of who answers them, and never waits.

    What always holds:

    * One call of `feed` is given bytes of one message only (`pieces` says where to cut), and after a fault it is not
      called again.
    * `receiving` is true from the first byte of a head to the last byte of its body; `in_headers` is true whenever no
      byte of a body may come.
    * `begun` and `body` are what the last `feed` gave: whoever called it takes both before the next one.
    * `header_bytes` is what came since the last byte that was of use: of a head that is not whole, or between the
      chunks of a body. It is never above `max_header_bytes` after a `feed` without a fault.

    Who may call: `RequestReader`, in the order in which bytes came. The methods `on_...` are httptools' own.
    """

    __slots__ = (
        "_deadlines", "_good_host", "_limits", "_offers_upgrade", "_parser", "_refusal", "_url", "begun", "body",
        "ends", "header_bytes", "headers", "in_headers", "pieces", "receiving",
    )  # fmt: skip

    def __init__(self, limits: ReceiveLimits, deadlines: RequestDeadlines) -> None:
        self.ends = Ends(None, None, secure=False)
        self.pieces = Pieces()
        self.receiving = False
        self.in_headers = True
        self.header_bytes = 0
        self.headers: Fields = []
        self.begun: Begun | None = None
        self.body = b""
        self._limits = limits
        self._deadlines = deadlines
        self._parser = _new_parser(self)
        self._url = b""
        self._good_host = b""
        self._offers_upgrade = False
        self._refusal: Fault | None = None

    def close(self) -> None:
        """Nothing more comes. What knows this parser and is known by it is parted: both are freed at once."""
        self._parser = None  # type: ignore[assignment]

    def feed(self, piece: bytes) -> Fault | None:
        """Read a piece of one message. What was whole before a fault stands in `begun` and `body` all the same."""
        self.header_bytes += len(piece)
        try:
            self._parser.feed_data(piece)
            if self.header_bytes > self._limits.max_header_bytes:
                # A head, or a line between or behind the chunks of a body, that does not come to its end.
                too_long = self.in_headers and not self.headers and self._url
                self._refuse(URI_TOO_LONG if too_long else HEADERS_TOO_LARGE)
        except HttpParserUpgrade as stop:
            if self._offers_upgrade:
                return self._decline_upgrade(piece[stop.args[0] :])
        except (HttpParserError, Refused):
            return self._refusal or INVALID_HTTP
        return None

    def _decline_upgrade(self, rest: bytes) -> Fault | None:
        """Read the request again without its offer to speak something else (h2c, websocket).

        With the offer httptools takes what follows the head for another protocol. Java's HTTP client makes it in
        every first request, also in those with a body.
        """
        parser = self._parser
        lines = [b"%b %b HTTP/%b\r\n" % (parser.get_method(), self._url, parser.get_http_version().encode())]
        lines += [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        self._parser = _new_parser(self)
        self._offers_upgrade = False
        self.header_bytes = 0
        return self.feed(b"".join((*lines, b"\r\n", rest)))

    def _refuse(self, refusal: Fault) -> None:
        # Raised through the parser, so that nothing after this byte is looked at.
        self._refusal = refusal
        raise Refused(refusal[1])

    # --- called by httptools ---

    def on_message_begin(self) -> None:
        self._url = b""
        self.headers = []
        self.receiving = True
        self._deadlines.head_begins()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come after the application has decided by the headers; they are not read.
        if self.in_headers:
            if len(self.headers) >= self._limits.max_headers:
                self._refuse(HEADERS_TOO_LARGE)
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        if parser.should_upgrade() and parser.get_method() != b"CONNECT":
            self._offers_upgrade = True
            return
        version, method = parser.get_http_version(), parser.get_method()
        fields = dict(self.headers)
        if fault := fault_of(version, method, self._url, self.headers, fields, self._good_host):
            self._refuse(fault)
        self._good_host = fields.get(b"host", b"")
        if self.header_bytes > self._limits.max_header_bytes:
            self._check_head_size()
        self.header_bytes = 0
        if parser.should_upgrade():
            self._refuse(UNKNOWN_METHOD)
        self.pieces.body_left = int(fields.get(b"content-length", b"0"))
        self._deadlines.head_ends()
        ends = self.ends
        scope = scope_of(
            version,
            method.decode("ascii"),
            self._url,
            self.headers,
            server=ends.server,
            client=ends.client,
            secure=ends.secure,
        )
        scope["zuebee.fields"] = fields
        # A client of HTTP/1.0 would take an interim answer for the answer (RFC 9110, section 10.1.1).
        expects_continue = version != "1.0" and fields.get(b"expect", b"").lower() == b"100-continue"
        self.in_headers = False
        keep_alive = version != "1.0" and parser.should_keep_alive()
        self.begun = Begun(scope, expects_continue=expects_continue, keep_alive=keep_alive)

    def _check_head_size(self) -> None:
        """What came in may be more than the head; now the head itself is measured."""
        head_bytes = len(self._url) + sum(len(name) + len(value) for name, value in self.headers)
        if head_bytes > self._limits.max_header_bytes:
            self._refuse(URI_TOO_LONG if len(self._url) > self._limits.max_header_bytes else HEADERS_TOO_LARGE)

    def on_body(self, body: bytes) -> None:
        self.header_bytes = 0
        self._deadlines.body_came(len(body))
        self.body = self.body + body if self.body else body

    def on_message_complete(self) -> None:
        if self._offers_upgrade:
            return
        self._deadlines.request_ends()
        self.receiving = False
        self.in_headers = True
        self.header_bytes = 0


def _new_parser(callbacks: RequestParser) -> HttpRequestParser:
    parser = HttpRequestParser(callbacks)
    # A request may follow one that closes the connection: it is not looked at, and no reason to complain.
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


MAX_PIECES: Final = 64
MAX_STEP_BYTES: Final = 16 * 1024
"""So much is parsed in one round of the event loop: it may be thousands of fields or chunks."""


class RequestReader(QueueOwner):
    """Takes a client's bytes to where they belong.

    What always holds:

    * Each byte goes to one place, in the order in which it came: to the parser, to the known head, to the backlog, or,
      once the connection is `_deaf`, to nobody.
    * Bytes of a request reach the parser only when no other request is before it. All that came before it was
      looked at by then, and what comes behind it waits in the backlog.
    * `_cycle` is the request that came last, answered or not: whose body comes while the parser is `receiving` and
      not `in_headers`.
    * From a connection that is `_deaf` no request begins any more; nothing makes it listen again.

    Who may call: the transport (`data_received`), and `GuardedProtocol`, which is this one's other half.
    """

    flow: Flow  # from `connection_made` on, as the transport

    def __init__(
        self, app: Any, loop: asyncio.AbstractEventLoop, limits: ReceiveLimits, keep_alive_s: float, phase: Phase
    ) -> None:
        self.loop = loop
        self.phase = phase
        self._deadlines = RequestDeadlines(loop, limits, keep_alive_s)
        self._parser = RequestParser(limits, self._deadlines)
        self._queue = RequestOrder(app, loop, phase)
        self._backlog = Backlog(loop, phase)
        self._cycle: Cycle | None = None
        self._goes_on_soon = False
        self._deaf = False
        self._known = KnownHead(dated=False)
        self._known_scope: Scope = {}

    # --- what becomes of it ---

    @abstractmethod
    def _begin_cycle(self, scope: Scope, *, expects_continue: bool, keep_alive: bool) -> Cycle:
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
        parser, backlog = self._parser, self._backlog
        receiving = parser.receiving
        if backlog.data or (not receiving and not self._queue.is_free()):
            backlog.keep(data, self._cycle)
            self._count_held()
            return
        between = not receiving and not parser.header_bytes
        if between and (body := self._known.body_of(data)) is not None:
            self._repeat(body)
            return
        self._parse(data, 0)
        if parser.in_headers or backlog.data or backlog.held_bytes:
            self._count_held()
        if between and not parser.receiving and not backlog.data and not self._deaf:
            self._remember(data)

    def _count_held(self) -> None:
        parser = self._parser
        self._backlog.count(in_headers=parser.in_headers, header_bytes=parser.header_bytes)

    def _go_on(self) -> None:
        """Look at what was put off."""
        self._goes_on_soon = False
        parser, backlog = self._parser, self._backlog
        if not backlog.data or (not parser.receiving and not self._queue.is_free()):
            return
        data, at = backlog.take()
        parser.pieces.begin()
        self._parse(data, at)
        backlog.mind(self._cycle)
        self._count_held()

    def _parse(self, data: bytes, at: int) -> None:
        """Look at what came, up to the end of a message, as far as may be in one go; the rest is put off."""
        parser = self._parser
        pieces, size, step_ends, count = parser.pieces, len(data), at + MAX_STEP_BYTES, 0
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
            behind = not parser.receiving and not self._queue.is_free()
            if behind or count == MAX_PIECES or (at > step_ends and not pieces.body_left):
                self._backlog.put_back(data, at, self._cycle)
                if not behind and not self._goes_on_soon:
                    self._goes_on_soon = True
                    self.loop.call_soon(self._go_on)
                break
        if parser.receiving:
            if at == size:
                pieces.ran_out(data)
            if not parser.in_headers:
                self._deadlines.no_credit()
        else:
            pieces.begin()

    def _feed(self, piece: bytes) -> None:
        """Give the parser a piece of one message, and take what it makes of it."""
        parser = self._parser
        receiving = parser.receiving
        fault = parser.feed(piece)
        if (begun := parser.begun) is not None:
            parser.begun = None
            receiving = True
            scope = begun.scope
            scope["zuebee.cancel"] = self.cancel
            self._begin_cycle(scope, expects_continue=begun.expects_continue, keep_alive=begun.keep_alive)
        if parser.body:
            self._take_body()
        if receiving and not parser.receiving:
            self._end_body()
        if fault is not None:
            self._break_off(fault)

    def _take_body(self) -> None:
        """More of the body is here."""
        parser, cycle = self._parser, self._cycle
        body, parser.body = parser.body, b""
        if cycle is None or cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_BYTES:
            self.flow.pause_reading()
        cycle.wake()

    def _end_body(self) -> None:
        """A request is whole."""
        cycle = self._cycle
        if cycle is None:
            return
        cycle.more_body = False
        if cycle.response_complete:
            self._deadlines.idle()
        else:
            cycle.wake()

    # --- heads that come again ---

    def _remember(self, data: bytes) -> None:
        """Know this head again, if `data` was one whole request."""
        cycle, known, headers = self._cycle, self._known, self._parser.headers
        if cycle is None or cycle.more_body or not cycle.keep_alive or cycle.scope["method"] != "POST":
            return
        if known.learn(data, len(cycle.body), headers):
            self._known_scope = {**cycle.scope, "zuebee.attachment": known.attachment}
            del self._known_scope["zuebee.cycle"]

    def _repeat(self, body: bytes) -> None:
        """A request with the known head, all of it here: what the parser would lead to, at once."""
        self._deadlines.busy()
        scope, fields = self._known_scope, self._known.fields
        if scope["headers"] is not fields:
            scope["headers"] = fields
            scope["zuebee.fields"] = dict(fields)
        cycle = self._begin_cycle(scope.copy(), expects_continue=False, keep_alive=True)
        cycle.body = body
        cycle.more_body = False
