"""Whose turn it is on one connection: one request after the other, and no more of the next ones than may be kept."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Final

from zuebee.http.connections import MAX_HELD_BYTES, Phase
from zuebee.http.cycle import HIGH_WATER_BYTES, Cycle, Flow

_log: Final = logging.getLogger("zuebee.http")

MAX_UNSENT_BYTES: Final = 16 * 1024
"""No request is begun while more of the answers before it waits for the client."""


class QueueOwner(ABC):
    """The connection, as the queue of its requests knows it."""

    transport: asyncio.Transport

    @abstractmethod
    def has_ended(self) -> bool:
        """Whether no request may begin any more, and none may end well that has not."""

    @abstractmethod
    def has_more(self) -> bool:
        """Whether something is there that nobody has looked at."""

    @abstractmethod
    async def find_next(self) -> bool:
        """Look at what is there; False if nothing can come of it before the client sends more."""


class RequestOrder:
    """Order: the requests of one connection, which are answered one after the other.

    What always holds:

    * At most one is `running`: its task alone writes to the client, so that answers leave in the order of requests.
      (Only the connection's own last answer, to a fault, is written beside it, when no other comes after.)
    * Nothing is in `waiting` while one is `running`, and never more than one: the reader makes a request of bytes only
      when none is before it. What a client sends behind that stays bytes, in the `Backlog`.
    * One task serves them all, from the first request on: a new one each time costs more. It sleeps only while nothing
      waits and nothing is there to be looked at.
    * Whatever a request does, when it has ended its answer is whole, or the transport is closed.

    Who may call: the connection only.
    """

    __slots__ = ("_app", "_loop", "_phase", "_sleep", "_worker", "running", "waiting")

    def __init__(self, app: Any, loop: asyncio.AbstractEventLoop, phase: Phase) -> None:
        self.running: Cycle | None = None
        self.waiting: deque[Cycle] = deque()
        self._app = app
        self._loop = loop
        self._phase = phase
        self._worker: asyncio.Task[None] | None = None
        self._sleep: asyncio.Future[None] | None = None

    def is_free(self) -> bool:
        """Whether a request that comes now would be the first in line."""
        return self.running is None and not self.waiting

    def last(self) -> Cycle | None:
        """The request whose answer is the last to be given."""
        return self.waiting[-1] if self.waiting else self.running

    def add(self, cycle: Cycle, owner: QueueOwner) -> None:
        """Hand a request to the application, behind those that came before it."""
        self.waiting.append(cycle)
        if self._worker is None:
            self._worker = self._loop.create_task(self._work(owner))
        elif self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)

    def cancel(self) -> None:
        """Cancel the running request."""
        if self._worker is not None:
            self._worker.cancel()

    def close(self, *, goes_on: bool) -> None:
        """The client is gone: nothing more is begun, and what runs is cancelled, unless it `goes_on`."""
        self.waiting.clear()
        if not goes_on:
            self.cancel()
            self._worker = None

    async def _work(self, owner: QueueOwner) -> None:
        phase = self._phase
        while not owner.has_ended():
            if not self.waiting:
                if not owner.has_more() or not await owner.find_next():
                    self._sleep = self._loop.create_future()
                    await self._sleep
                    self._sleep = None
                continue
            self.running = cycle = self.waiting.popleft()
            phase.running += 1
            try:
                await self._app(cycle.scope, cycle.receive, cycle.send)
            except Exception:
                _log.exception("the application failed")
            finally:
                phase.running -= 1
                if not cycle.response_complete and not owner.has_ended():
                    owner.transport.close()  # an answer without its end must not look whole
                # The scope and its cycle know each other; parted, they need no garbage collector.
                cycle.scope.pop("zuebee.cycle", None)
                self.running = None
        self._worker = None


class Backlog:
    """Back-pressure: what one client has sent too early, and what it has not taken yet.

    What always holds:

    * `data`, from `at` on, are the bytes that came and were not looked at, in their order; empty: all were.
    * While they are more than `HIGH_WATER_BYTES`, nothing is read from the client (`flow.full`), and nobody else may
      resume it. Who is not read from is not seen to leave either, so it is no less than needed.
    * `held_bytes` of this connection is in the sum of all connections (`Phase.held_bytes`), and is taken out of it by
      `forget` at the latest. It counts heads that are not whole and requests whose turn has not come, not the
      bodies of running requests.
    * The next request of a client that sends several at once begins after others had their turn, and after the client
      has taken its answers but for `MAX_UNSENT_BYTES`.

    Who may call: the connection; `has_room` also whoever sees that the client took something.
    """

    __slots__ = ("_flow", "_loop", "_phase", "_room", "_transport", "at", "data", "held_bytes")

    def __init__(self, loop: asyncio.AbstractEventLoop, phase: Phase) -> None:
        self.data = b""
        self.at = 0
        self.held_bytes = 0
        self._loop = loop
        self._phase = phase
        self._room: asyncio.Future[None] | None = None

    def begin(self, transport: asyncio.Transport, flow: Flow) -> None:
        """The connection is there; before that nothing comes."""
        self._transport = transport
        self._flow = flow

    def keep(self, data: bytes, cycle: Cycle | None) -> None:
        """Put off bytes whose turn has not come."""
        self.data = self.data[self.at :] + data
        self.at = 0
        self.mind(cycle)

    def put_back(self, data: bytes, at: int, cycle: Cycle | None) -> None:
        """Put off what is left of bytes that were looked at up to `at`."""
        self.data = data
        self.at = at
        self.mind(cycle)

    def take(self) -> tuple[bytes, int]:
        """What was put off, and where it begins."""
        data, at = self.data, self.at
        self.data = b""
        self.at = 0
        return data, at

    def mind(self, cycle: Cycle | None) -> None:
        """Listen while not too much is put off, nor too much of the body of the request that came last."""
        flow = self._flow
        if len(self.data) - self.at > HIGH_WATER_BYTES:
            flow.full = True
            flow.pause_reading()
        elif flow.full:
            flow.full = False
            if cycle is None or len(cycle.body) <= HIGH_WATER_BYTES:
                flow.resume_reading()

    def count(self, *, in_headers: bool, header_bytes: int) -> None:
        """Tell how much is held of a head that is not whole, and of requests whose turn has not come."""
        held_bytes = 0
        if in_headers:
            held_bytes = len(self.data) - self.at + header_bytes
        if held_bytes == self.held_bytes:
            return
        phase = self._phase
        phase.held_bytes += held_bytes - self.held_bytes
        self.held_bytes = held_bytes
        if phase.held_bytes > MAX_HELD_BYTES:
            phase.relieve()

    def forget(self) -> None:
        """Nothing of it will be looked at."""
        self.data = b""
        self.at = 0
        self._phase.held_bytes -= self.held_bytes
        self.held_bytes = 0

    async def turn(self) -> None:
        """Before another request of the same client: let others pass, and let the client take its answers."""
        await self._phase.turns.enter(self._loop)
        while self._flow.write_paused or self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self._room = room = self._loop.create_future()
            await room

    def has_room(self) -> None:
        """The client may have taken something."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
