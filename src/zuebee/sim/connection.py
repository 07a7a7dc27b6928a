"""One connection: HTTP/1.1 requests in, the steps of their answers out, one exchange after another."""

import asyncio
from collections import deque
from typing import Protocol, cast

import httptools

from zuebee.sim.faults import NO_WISH
from zuebee.sim.messages import Headers, Request, error_reply
from zuebee.sim.player import Player
from zuebee.sim.site import CONTROL_PREFIX, Exchange, Site
from zuebee.sim.steps import Stop
from zuebee.sim.wire import CONTINUE, play


class Owner(Protocol):
    """What a connection needs of its server."""

    site: Site

    def opened(self, connection: "Connection") -> int:
        """Register the connection and return its number."""

    def closed(self, connection: "Connection") -> None:
        """Forget the connection."""


class Connection(asyncio.Protocol):
    """Parses requests and plays their answers in order; a request that comes early waits its turn."""

    _transport: asyncio.Transport

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop, max_body_bytes: int) -> None:
        self._owner, self._loop, self._max_body_bytes = owner, loop, max_body_bytes
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._exchange: Exchange | None = None
        self._player: Player | None = None
        self._reading_paused = False
        self.number = 0
        self.counted = True
        """Whether the statistics count this connection: not when it carries control calls."""
        self._begin_message()

    @property
    def idle(self) -> bool:
        """Whether no exchange is running."""
        return self._exchange is None

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one only by its methods
        self.number = self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        """Parse; what is no HTTP is answered 400 and ends the connection."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._refuse(400, f"This is not a request that can be answered: {error}")

    def pause_writing(self) -> None:
        """Stop sending: the peer reads too slowly."""
        if self._player is not None:
            self._player.pause()

    def resume_writing(self) -> None:
        """Send again."""
        if self._player is not None:
            self._player.resume()

    def connection_lost(self, error: Exception | None) -> None:
        """End the running exchange: the peer has left it."""
        self._waiting.clear()
        if self._player is not None:
            self._player.cancel()
            self._end("aborted")
        self._owner.closed(self)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Start a request."""
        self._begin_message()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Say that the body may come, if the client waits for that."""
        expects = any(name == b"expect" and value.lower() == b"100-continue" for name, value in self._headers)
        if expects and self._exchange is None and self._parser.get_http_version() == "1.1":
            self._transport.write(CONTINUE)

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body; one over the limit is answered 413."""
        self._body_bytes += len(data)
        if self._body_bytes <= self._max_body_bytes:
            self._body.append(data)
        elif not self._transport.is_closing():
            self._refuse(413, f"The body is longer than {self._max_body_bytes} bytes.")

    def on_message_complete(self) -> None:
        """Answer the request, or let it wait for its turn."""
        if self._transport.is_closing() or self._parser.should_upgrade():
            return  # the parser raises for an upgrade once this returns
        request = Request(
            method=self._parser.get_method().decode("latin-1"),
            target=self._target,
            headers=self._headers,
            body=b"".join(self._body),
            connection=self.number,
            keep_alive=self._parser.should_keep_alive(),
            chunks=self._parser.get_http_version() == "1.1",
        )
        self._waiting.append(request)
        if self._exchange is None and len(self._waiting) == 1:
            self._next()
        elif not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    # Exchanges.

    def _begin_message(self) -> None:
        self._target, self._body_bytes = b"", 0
        self._headers: Headers = []
        self._body: list[bytes] = []

    def _next(self) -> None:
        if not self._waiting or self._transport.is_closing():
            return
        request = self._waiting.popleft()
        if self.counted and request.path.startswith(CONTROL_PREFIX):
            self.counted = False
            self._owner.site.observer.uncount()
        self._exchange = self._owner.site.answer(request)
        self._player = Player(self._loop, self._transport, self._exchange.steps, self._sent, self._done)
        self._player.run()

    def _sent(self, events: int, tokens: int) -> None:
        if self._exchange is not None and self._exchange.account is not None:
            self._owner.site.observer.sent(self._exchange.account, events, tokens)

    def _done(self, stop: Stop | None) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._end("complete" if stop is None else "fault")
        if stop is not None:
            return
        if not exchange.keep_alive:
            self._transport.close()
        elif self._waiting:
            self._loop.call_soon(self._next)  # not from here: a thousand waiting requests would be as deep a stack
        elif self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()

    def _end(self, how: str) -> None:
        if self._exchange is not None and self._exchange.account is not None:
            self._owner.site.observer.end(self._exchange.account, how)
        self._exchange = self._player = None

    def _refuse(self, status: int, message: str) -> None:
        """Answer a request that cannot be read to its end, unless another answer is running, and close."""
        if self._exchange is None:
            for step in play(error_reply(status, message), NO_WISH, keep_alive=False).steps:
                self._transport.write(getattr(step, "data", b""))
        self._transport.close()
