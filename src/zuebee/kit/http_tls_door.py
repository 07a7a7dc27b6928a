"""A door for TLS: connections count from the moment they are accepted, not only once their handshake is done."""

import asyncio
import math
import os
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

from zuebee.kit import clock
from zuebee.kit.http_guard import GuardedProtocol
from zuebee.kit.http_table import FRESH, Table
from zuebee.kit.tasks import Tasks

AT_ONCE = 64
"""So many are accepted in one round of the event loop."""
PAUSE_S = 0.1
"""After accepting failed for want of files or memory."""


class Handshake:
    """One connection whose handshake is on its way; it has its place in the table until the protocol takes over."""

    def __init__(self, sock: socket.socket, began_s: float) -> None:
        self.held_bytes = 0
        self.task: asyncio.Task[None] | None = None
        self._sock = sock
        self._began_s = began_s
        self._done = False

    def idle_key(self) -> float:
        """See `Guest`."""
        return math.inf if self._done else FRESH + self._began_s

    def give_way(self) -> None:
        """See `Guest`."""
        self._done = True
        if self.task is not None:
            self.task.cancel()

    def drop_held(self) -> None:
        """See `Guest`: it holds nothing."""


class TlsDoor:
    """Accepts on a socket that is bound already. `make` makes a protocol that takes over a handshake's place."""

    def __init__(
        self,
        sock: socket.socket,
        tls: ssl.SSLContext,
        table: Table,
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
            handshake = Handshake(sock, self._loop.time())
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
