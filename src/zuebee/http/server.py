"""An ASGI application on a guarded listener whose end the caller controls, step by step."""

import asyncio
import ctypes
import math
import os
import socket
import ssl
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from typing import Any

from zuebee.http import server
from zuebee.http.connections import FRESH, ConnectionTable, Phase, ReceiveLimits, RenderError
from zuebee.http.protocol import GuardedProtocol
from zuebee.lib import clock
from zuebee.lib.tasks import Tasks

# A door for TLS: connections count from the moment they are accepted, not only once their handshake is done.

AT_ONCE = 64
"""So many are accepted in one round of the event loop."""
PAUSE_S = 0.1
"""After accepting failed for want of files or memory."""


class Handshake:
    """One connection whose handshake is on its way; it has its place in the table until the protocol takes over."""

    def __init__(self, began_s: float) -> None:
        self.held_bytes = 0
        self.task: asyncio.Task[None] | None = None
        self._began_s = began_s
        self._done = False

    def idle_key(self) -> float:
        return math.inf if self._done else FRESH + self._began_s

    def give_way(self) -> None:
        self._done = True
        if self.task is not None:
            self.task.cancel()

    def drop_held(self) -> None:
        """It holds nothing."""


class TlsDoor:
    """Accepts on a socket that is bound already. `make` makes a protocol that takes over a handshake's place."""

    def __init__(
        self,
        sock: socket.socket,
        tls: ssl.SSLContext,
        table: ConnectionTable,
        make: Callable[[Handshake], GuardedProtocol],
        *,
        handshake_timeout_s: float,
        backlog: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = socket.socket(fileno=os.dup(sock.fileno()))
        self._sock.setblocking(False)
        self._sock.listen(backlog)
        self._tls = tls
        self._table = table
        self._make = make
        self._timeout_s = handshake_timeout_s
        self._tasks = Tasks()
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def close(self) -> None:
        """Accept no more; handshakes on their way go on."""
        if self._pause is not None:
            self._pause.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    async def aclose(self) -> None:
        """Give up the handshakes that are on their way, too."""
        self.close()
        await self._tasks.aclose()

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no file or no memory is left
                if not self._table.make_room(clock.monotonic_s()):
                    self._loop.remove_reader(self._sock.fileno())
                    self._pause = self._loop.call_later(PAUSE_S, self._go_on)
                return
            sock.setblocking(False)
            address = peer[0] if isinstance(peer, tuple) else ""
            now_s = clock.monotonic_s()
            handshake = Handshake(self._loop.time())
            if self._table.enter(handshake, address, now_s):
                handshake.task = self._tasks.spawn(self._shake_hands(handshake, sock, address), "handshake")
            else:
                sock.close()

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock.fileno(), self._accept)

    async def _shake_hands(self, handshake: Handshake, sock: socket.socket, address: str) -> None:
        try:
            make: Any = partial(self._make, handshake)  # asyncio's types ask for its own base class, asyncio does not
            await self._loop.connect_accepted_socket(make, sock, ssl=self._tls, ssl_handshake_timeout=self._timeout_s)
        except (OSError, ssl.SSLError, TimeoutError):
            sock.close()
        finally:
            self._table.leave(handshake, address)


__all__ = ["HttpServer", "ReceiveLimits", "RenderError"]

SWEEP_INTERVAL_S = 0.25
BACKLOG = 2048
CLOSE_WAIT_S = 5.0
CROWD = 1000
"""When so many connections or more have become half of that, the memory that they needed is given back."""


class HttpServer:
    """Listens, serves, drains. The caller calls `start`, then at the end `stop_accepting`, `drain`, `close`."""

    def __init__(
        self,
        app: Any,
        *,
        limits: ReceiveLimits,
        keep_alive_s: float,
        render_error: RenderError,
        tls: ssl.SSLContext | None = None,
        is_proxy: Callable[[str], bool] | None = None,
        sweep_interval_s: float = SWEEP_INTERVAL_S,
        crowd: int = CROWD,
    ) -> None:
        self._app = app
        self._keep_alive_s = keep_alive_s
        self._limits = limits
        self._render_error = render_error
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._doors: list[TlsDoor] = []
        self._most = 0
        self._sweep_interval_s = sweep_interval_s
        self._crowd = crowd
        self._phase = Phase()
        self.table = ConnectionTable(
            limits.max_connections,
            limits.max_connections_per_address,
            lambda address: is_proxy is None or not is_proxy(address),
            self._phase,
        )
        self._phase.relieve = self.table.relieve

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port (useful with port 0). Raises OSError."""
        loop = asyncio.get_running_loop()
        make: Any = partial(  # asyncio's types ask for its own base class, asyncio does not
            GuardedProtocol,
            self._app,
            self.table,
            loop,
            self._limits,
            self._keep_alive_s,
            self._render_error,
            self._phase,
        )
        self._sweep()
        plain = self._tls is None
        self._server = await loop.create_server(make, host or None, port, backlog=BACKLOG, start_serving=plain)
        sockets: list[socket.socket] = list(self._server.sockets)
        if self._tls is not None:
            # Until the handshake is done there is no protocol to watch the clock.
            self._doors = [
                TlsDoor(
                    sock,
                    self._tls,
                    self.table,
                    lambda handshake: make(replaces=handshake),
                    handshake_timeout_s=self._limits.header_timeout_s,
                    backlog=BACKLOG,
                )
                for sock in sockets
            ]
        return int(sockets[0].getsockname()[1])

    @property
    def connection_count(self) -> int:
        """Open client connections."""
        return len(self.table)

    @property
    def held_bytes(self) -> int:
        """What all clients have sent of requests that are not looked at yet."""
        return self._phase.held_bytes

    @property
    def _connections(self) -> list[GuardedProtocol]:
        return [guest for guest in self.table.guests if isinstance(guest, GuardedProtocol)]

    @property
    def running_count(self) -> int:
        """Requests being answered."""
        return self._phase.running

    def begin_drain(self) -> None:
        """From now on each connection ends with the answer it carries. New ones are still taken."""
        self._phase.draining = True
        for connection in self._connections:
            connection.end_with_answer()

    def stop_accepting(self) -> None:
        """Close the listening socket and the idle connections."""
        if self._server is not None:
            self._server.close()
        for door in self._doors:
            door.close()
        for connection in self._connections:
            connection.shutdown()

    async def wait_idle(self, timeout_s: float, hurry: asyncio.Event) -> bool:
        """Wait until no request runs and every answer is out; False if `timeout_s` passed or `hurry` was set first."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        while self._phase.running or any(one.is_ending for one in self._connections):
            if loop.time() >= until_s or hurry.is_set():
                return False
            await asyncio.sleep(0.02)
        return True

    async def close(self) -> None:
        """Close all connections, whatever they do."""
        self.stop_accepting()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for door in self._doors:
            await door.aclose()
        for connection in self._connections:
            connection.transport.abort()
            connection.cancel()
        await self.wait_idle(CLOSE_WAIT_S, asyncio.Event())

    def _sweep(self) -> None:
        """Four times a second: overdue clients, and the Date header of the coming answers."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in self._connections:
            connection.sweep(now)
        self._most = max(self._most, len(self.table))
        if self._most >= self._crowd and len(self.table) <= self._most // 2:
            self._most = len(self.table)
            server.give_back()
        self._phase.date = b"date: " + formatdate(clock.wall_s(), usegmt=True).encode()
        self._sweeper = loop.call_later(self._sweep_interval_s, self._sweep)


# Memory that was needed for a while goes back to the system.


def give_back() -> bool:
    """Hand freed memory back to the system; False where the C library does not know how.

    glibc keeps what small pieces leave behind in the middle of its heap until it is asked. That takes some ten
    milliseconds for a hundred megabytes.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    trim(ctypes.c_size_t(0))
    return True
