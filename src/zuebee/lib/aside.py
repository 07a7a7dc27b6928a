"""One thread for work on large bodies, which would hold the event loop.

Python's lock is held while it works, so the thread rests after each piece, as long as that took, and longer after one
that took long: whoever is served by the loop meanwhile waits for one such piece at most. The smallest work that waits
is next.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from heapq import heappop, heappush
from itertools import count
from typing import TypeVar

T = TypeVar("T")

LONG_S = 0.02
MAX_REST_S = 0.75


class Aside:
    """The thread, and those that wait for it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bodies")
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._busy = False
        self._rests_until_s = 0.0

    async def run(self, size: int, work: Callable[[], T]) -> T:
        """The result of `work`, which is about `size` bytes. If its caller leaves, it is not begun, or ends unheard."""
        loop = asyncio.get_running_loop()
        if self._busy:
            turn: asyncio.Future[None] = loop.create_future()
            heappush(self._waiting, (size, next(self._numbers), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next()
                raise
        self._busy = True
        try:
            return await loop.run_in_executor(self._thread, self._work, work)
        finally:
            self._next()

    def _next(self) -> None:
        """Hand the thread to the next one. What still runs there for one who left is waited for by the executor."""
        self._busy = False
        while self._waiting:
            _, _, turn = heappop(self._waiting)
            if not turn.done():
                self._busy = True
                turn.set_result(None)
                return

    def _work(self, work: Callable[[], T]) -> T:
        if (rest_s := self._rests_until_s - time.monotonic()) > 0:
            time.sleep(rest_s)
        began_s = time.monotonic()
        try:
            return work()
        finally:
            ended_s = time.monotonic()
            took_s = ended_s - began_s
            self._rests_until_s = ended_s + (took_s if took_s < LONG_S else min(3 * took_s, MAX_REST_S))


_aside = Aside()


async def aside(size: int, work: Callable[[], T]) -> T:
    """All parts of the process share one: what counts is that only one thread holds the lock."""
    return await _aside.run(size, work)
