"""The simulated model server: start it in an event loop, or serve until told to stop."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol, cast

import httptools

from zuebee.lib.tasks import Tasks
from zuebee.sim.base import Headers, Send, SimRequest, SimSettings, Step, Stop, Wait, error_reply
from zuebee.sim.site import CONTROL_PREFIX, SimExchange, Site
from zuebee.sim.wire import CONTINUE, NO_WISH, play

# Plays the steps of one exchange on a transport: in time, and no faster than the peer reads.

_BURST = 64
"""Steps taken in one go before other connections have their turn."""
_RESET_AFTER_S = 0.02
"""A reset discards what the kernel has not sent yet; so long it gets to send the bytes before it."""
_LINGER_NOTHING = struct.pack("ii", 1, 0)


class Player:
    """One exchange on a connection.

    `sent(events, tokens)` is called for writes that deliver some; `done(None)` when the steps are at their
    end, `done(stop)` when they ended the connection. After `cancel()` neither is called any more.
    At most one timer runs at a time.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        steps: Iterator[Step],
        sent: Callable[[int, int], None],
        done: Callable[[Stop | None], None],
    ) -> None:
        self._loop, self._transport, self._steps = loop, transport, steps
        self._sent, self._done = sent, done
        self._timer: asyncio.Handle | None = None
        self._due = loop.time()
        self._paused = False

    def run(self) -> None:
        """Take steps until one has to be waited for."""
        self._timer = None
        for _ in range(_BURST):
            if self._paused or self._transport.is_closing():
                return
            step = next(self._steps, None)
            if isinstance(step, Send):
                self._transport.write(step.data)
                if step.events or step.tokens:
                    self._sent(step.events, step.tokens)
            elif isinstance(step, Wait):
                self._due += step.delay_s
                if self._due > self._loop.time():
                    self._timer = self._loop.call_at(self._due, self.run)
                    return
            else:
                self._finish(step)
                return
        self._timer = self._loop.call_soon(self.run)

    def pause(self) -> None:
        """Write nothing more: the peer does not read."""
        self._paused = True

    def resume(self) -> None:
        """Go on: the peer has read."""
        self._paused = False
        if self._timer is None:
            self.run()

    def cancel(self) -> None:
        """Stop: the connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
        self._paused = True

    def _finish(self, stop: Stop | None) -> None:
        if stop is Stop.HANG:
            return
        if stop is Stop.RESET:
            self._timer = self._loop.call_later(_RESET_AFTER_S, self._reset)
            return
        if stop is Stop.CLOSE:
            self._transport.close()
        self._done(stop)

    def _reset(self) -> None:
        """Close with a reset: with nothing to linger for, the kernel sends RST instead of FIN."""
        connection = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOTHING)
        self._transport.abort()
        self._done(Stop.RESET)


# One connection: HTTP/1.1 requests in, the steps of their answers out, one exchange after another.


class ConnectionHost(Protocol):
    """What a connection needs of its server."""

    site: Site

    def opened(self, connection: "SimConnection") -> int:
        """Register the connection and return its number."""

    def closed(self, connection: "SimConnection") -> None:
        """Forget the connection."""


class SimConnection(asyncio.Protocol):
    """Parses requests and plays their answers in order; a request that comes early waits its turn."""

    _transport: asyncio.Transport

    def __init__(self, owner: ConnectionHost, loop: asyncio.AbstractEventLoop, max_body_bytes: int) -> None:
        self._owner, self._loop, self._max_body_bytes = owner, loop, max_body_bytes
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[SimRequest] = deque()
        self._exchange: SimExchange | None = None
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
        request = SimRequest(
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


__all__ = ["SimServer", "SimSettings", "serve", "start"]

_BACKLOG = 4096


class SimServer:
    """A running simulated server; `start` makes one."""

    def __init__(self, settings: SimSettings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._connections: set[SimConnection] = set()
        self._listener: asyncio.Server | None = None
        self._tasks = Tasks()
        self._accepted = 0
        self.port = settings.port
        self.site = Site(settings, self.refuse)

    @property
    def url(self) -> str:
        """The address of the server, without a slash at its end."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"{'https' if self._settings.ssl else 'http'}://{host}:{self.port}"

    async def listen(self) -> None:
        """Accept connections; raise OSError when the port cannot be had."""
        settings = self._settings
        factory = partial(SimConnection, self, self._loop, settings.max_body_bytes)
        self._listener = await self._loop.create_server(
            factory, settings.host, self.port, ssl=settings.ssl, backlog=_BACKLOG
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    def refuse(self, for_s: float) -> None:
        """Refuse new connections for a while, and close the idle ones, so that their owners notice.

        Running exchanges and connections that carry control calls go on.
        """
        if self._listener is None:
            return
        self._listener.close()
        self._listener = None
        self._loop.call_soon(self._close_idle)
        self._tasks.spawn(self._listen_after(for_s), "sim: listen again")

    async def _listen_after(self, for_s: float) -> None:
        await asyncio.sleep(for_s)
        await self.listen()

    def _close_idle(self) -> None:
        for connection in list(self._connections):
            if connection.idle and connection.counted:
                connection.abort()

    def opened(self, connection: SimConnection) -> int:
        """Register a connection and return its number, counted from 1."""
        self._connections.add(connection)
        self._accepted += 1
        self.site.observer.connected()
        return self._accepted

    def closed(self, connection: SimConnection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        if connection.counted:
            self.site.observer.disconnected()

    async def close(self) -> None:
        """Stop listening and cut all connections."""
        await self._tasks.aclose()
        for connection in list(self._connections):
            connection.abort()
        if self._listener is not None:
            self._listener.close()
            await self._listener.wait_closed()


async def start(settings: SimSettings) -> SimServer:
    """Start a simulated server in the running event loop; raise OSError when its port cannot be had."""
    server = SimServer(settings)
    await server.listen()
    return server


async def serve(settings: SimSettings, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Serve until `stop` is set; `ready` is called with the address once connections are accepted."""
    server = await start(settings)
    try:
        ready(server.url)
        await stop.wait()
    finally:
        await server.close()
