"""An ASGI application on a guarded listener whose end the caller controls, step by step."""

import asyncio
import socket
import ssl
from email.utils import formatdate
from functools import partial
from typing import Any

from zuebee.kit import clock
from zuebee.kit.http_guard import GuardedProtocol
from zuebee.kit.http_limits import Phase, ReceiveLimits, RenderError

__all__ = ["HttpServer", "ReceiveLimits", "RenderError"]

SWEEP_INTERVAL_S = 0.25
BACKLOG = 2048
CLOSE_WAIT_S = 5.0


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
    ) -> None:
        self._app = app
        self._keep_alive_s = keep_alive_s
        self._connections: set[GuardedProtocol] = set()
        self._limits = limits
        self._render_error = render_error
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._phase = Phase()

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port (useful with port 0). Raises OSError."""
        loop = asyncio.get_running_loop()
        make: Any = partial(  # asyncio's types ask for its own base class, asyncio does not
            GuardedProtocol,
            self._app,
            self._connections,
            loop,
            self._limits,
            self._keep_alive_s,
            self._render_error,
            self._phase,
        )
        self._sweep()
        # Until the handshake is done there is no protocol to watch the clock.
        handshake_s = self._limits.header_timeout_s if self._tls is not None else None
        self._server = await loop.create_server(
            make, host or None, port, ssl=self._tls, backlog=BACKLOG, ssl_handshake_timeout=handshake_s
        )
        sock: socket.socket = self._server.sockets[0]
        return int(sock.getsockname()[1])

    @property
    def connection_count(self) -> int:
        """Open client connections."""
        return len(self._connections)

    @property
    def running_count(self) -> int:
        """Requests being answered."""
        return self._phase.running

    def begin_drain(self) -> None:
        """From now on each connection ends with the answer it carries. New ones are still taken."""
        self._phase.draining = True
        for connection in list(self._connections):
            connection.end_with_answer()

    def stop_accepting(self) -> None:
        """Close the listening socket and the idle connections."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.shutdown()

    async def wait_idle(self, timeout_s: float, hurry: asyncio.Event) -> bool:
        """Wait until no request runs and every answer is out; False if `timeout_s` passed or `hurry` was set first."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        while self._phase.running or any(one.transport.get_write_buffer_size() for one in self._connections):
            if loop.time() >= until_s or hurry.is_set():
                return False
            await asyncio.sleep(0.02)
        return True

    async def close(self) -> None:
        """Close all connections, whatever they do."""
        self.stop_accepting()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._connections):
            connection.transport.abort()
            connection.cancel()
        await self.wait_idle(CLOSE_WAIT_S, asyncio.Event())

    def _sweep(self) -> None:
        """Four times a second: overdue clients, and the Date header of the coming answers."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in list(self._connections):
            connection.sweep(now)
        self._phase.date = b"date: " + formatdate(clock.wall_s(), usegmt=True).encode()
        self._sweeper = loop.call_later(SWEEP_INTERVAL_S, self._sweep)
