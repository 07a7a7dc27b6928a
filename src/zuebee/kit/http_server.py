"""An ASGI application on a guarded listener whose end the caller controls, step by step."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from typing import Any

from zuebee.kit import clock, memory
from zuebee.kit.http_guard import GuardedProtocol
from zuebee.kit.http_limits import Phase, ReceiveLimits, RenderError
from zuebee.kit.http_table import Table
from zuebee.kit.http_tls_door import TlsDoor

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
        self._phase = Phase()
        self.table = Table(
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
        if self._most >= CROWD and len(self.table) <= self._most // 2:
            self._most = len(self.table)
            memory.give_back()
        self._phase.date = b"date: " + formatdate(clock.wall_s(), usegmt=True).encode()
        self._sweeper = loop.call_later(SWEEP_INTERVAL_S, self._sweep)
