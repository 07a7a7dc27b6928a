"""An HTTP/1.1 client for one origin: a pool of keep-alive connections.

A connection whose exchange did not end cleanly is closed and never given out again.
"""

import asyncio
from typing import Final, Protocol

from zuebee.http.client import Connection
from zuebee.http.connect import Connector
from zuebee.lib.failures import HttpFailure, Timeouts

__all__ = ["Connection", "HttpFailure", "HttpPool", "Timeouts"]

IDLE_LIMIT_S: Final = 60.0
UNSEEN_S: Final = 2.0
"""A kept connection that closes later than this after a request was sent had brought it to the server: the news that
it was closed before is no longer on its way."""


class Sent(Protocol):
    """What is known of the sendings of one request. `doubts`: how many of them a server may have acted upon, and none
    was answered.
    """

    doubts: int
    shared: bool


class HttpPool:
    """Keep-alive connections to one origin.

    At most `max_connections` exchanges at once (more fail with `overflow`) and `max_idle` idle connections, each for
    `idle_limit_s`. `unseen_s`: see `UNSEEN_S`.
    """

    def __init__(
        self,
        connector: Connector,
        *,
        max_idle: int,
        max_connections: int,
        idle_limit_s: float = IDLE_LIMIT_S,
        unseen_s: float = UNSEEN_S,
    ) -> None:
        self.in_use = 0
        self._connector = connector
        self._loop = asyncio.get_running_loop()
        self._max_idle = max_idle
        self._max_connections = max_connections
        self._idle_limit_s = idle_limit_s
        self._unseen_s = unseen_s
        self._idle: list[Connection] = []
        self._closed = False

    async def send(
        self, head: bytes, body: bytes, timeouts: Timeouts, *, is_head: bool = False, request: Sent | None = None
    ) -> Connection:
        """Send a request and return the connection once the head of the answer is there.

        The caller reads the body and must call `finish`. Raises HttpFailure. A kept connection that the server
        closed before it saw the request is replaced by a new one, once (RFC 9112, section 9.3.1), and `request` told
        so; not where that has another server, for this one may have died of it. A request that is in doubt already is
        sent on a new connection only, and not again.
        """
        kept = self._take_idle() if request is None or not request.doubts else None
        sent = False
        if kept is not None:
            kept.begin(head, body, timeouts, is_head=is_head)
            try:
                await kept.answer()
                return kept
            except HttpFailure as failure:
                if kept.answered or failure.kind != "reset":
                    raise
                if sent := failure.sent:
                    if self._loop.time() - kept.begun_s > self._unseen_s or (request is not None and request.shared):
                        raise
                    if request is not None:
                        request.doubts += 1
        try:
            fresh = await self._open()
            fresh.begin(head, body, timeouts, is_head=is_head)
            return await fresh.answer()
        except HttpFailure as failure:
            failure.sent = failure.sent or sent
            raise

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and self._loop.time() - connection.idle_since_s < self._idle_limit_s:
                self.in_use += 1
                return connection
            connection.abort()
        return None

    async def _open(self) -> Connection:
        if self.in_use >= self._max_connections:
            raise HttpFailure("overflow", "too many connections to this backend", sent=False)
        self.in_use += 1
        try:
            return await self._connector.connect(lambda: Connection(self, self._loop))
        except TimeoutError:
            self.in_use -= 1
            raise HttpFailure("connect_timeout", "connecting took too long", sent=False) from None
        except OSError as error:
            self.in_use -= 1
            raise HttpFailure("connect", f"cannot connect: {error}", sent=False) from error
        except BaseException:
            self.in_use -= 1
            raise

    def ended(self, connection: Connection, *, reusable: bool) -> None:
        """Take back a connection whose exchange is over."""
        self.in_use -= 1
        if not reusable:
            return
        if self._closed or len(self._idle) >= self._max_idle:
            connection.abort()
            return
        connection.idle_since_s = self._loop.time()
        self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        """Forget an idle connection that the server closed."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close the idle connections now, and the others as their exchanges end."""
        self._closed = True
        while self._idle:
            self._idle.pop().abort()
