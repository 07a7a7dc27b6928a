"""The simulated model server: start it in an event loop, or serve until told to stop."""

import asyncio
from collections.abc import Callable
from functools import partial

from zuebee.kit.tasks import Tasks
from zuebee.sim.connection import Connection
from zuebee.sim.settings import SimSettings
from zuebee.sim.site import Site

__all__ = ["SimServer", "SimSettings", "serve", "start"]

_BACKLOG = 4096


class SimServer:
    """A running simulated server; `start` makes one."""

    def __init__(self, settings: SimSettings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
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
        factory = partial(Connection, self, self._loop, settings.max_body_bytes)
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

    def opened(self, connection: Connection) -> int:
        """Register a connection and return its number, counted from 1."""
        self._connections.add(connection)
        self._accepted += 1
        self.site.observer.connected()
        return self._accepted

    def closed(self, connection: Connection) -> None:
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
