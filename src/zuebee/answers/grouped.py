"""Small transactions of many requests, done together: one commit to disk for all that wait at a moment."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection

from zuebee.kit.database import Database, DatabaseError
from zuebee.kit.tasks import Tasks

MAX_GROUP = 64
MAX_WAITING = 10_000

T = TypeVar("T")


class Grouped:
    """A database whose `run` may share its transaction with others. For works that never fail by themselves.

    SQLite has one writer: its groups are as large as what has come meanwhile. Elsewhere each work has a transaction of
    its own, as locks that several processes take in different orders would block one another.
    """

    def __init__(self, database: Database, *, timeout_s: float, writers: int) -> None:
        self._database = database
        self._timeout_s = timeout_s
        self._writers = writers
        self._max_group = MAX_GROUP if database.engine.dialect.name == "sqlite" else 1
        self._waiting: deque[tuple[Callable[[Connection], Any], asyncio.Future[Any]]] = deque()
        self._busy = 0
        self._tasks = Tasks()

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Do `work`; when it returns, it is committed. Raises DatabaseError, also when that takes too long."""
        if len(self._waiting) >= MAX_WAITING:
            raise DatabaseError("too much to do")
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, done))
        if self._busy < self._writers:
            self._busy += 1
            self._tasks.spawn(self._work(), "kept answers: write")
        try:
            async with asyncio.timeout(self._timeout_s):
                return await done
        except TimeoutError:
            raise DatabaseError("no answer in time") from None

    async def aclose(self) -> None:
        """Finish what waits, and close the database."""
        await self._tasks.wait(self._timeout_s)
        await self._tasks.aclose()
        self._database.close()

    async def _work(self) -> None:
        try:
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_group))]
                await self._do([(work, done) for work, done in group if not done.done()])
        finally:
            self._busy -= 1

    async def _do(self, group: list[tuple[Callable[[Connection], Any], asyncio.Future[Any]]]) -> None:
        try:
            results = await self._database.run(lambda connection: [work(connection) for work, _ in group])
        except Exception as error:
            for _, done in group:
                if not done.done():
                    done.set_exception(error)
            return
        for (_, done), result in zip(group, results, strict=True):
            if not done.done():
                done.set_result(result)
