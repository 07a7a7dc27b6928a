"""Cancels a task at a chosen turn of the event loop: by counting up, each await that it can be in is found."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from zuebee.ledger.postgres.commit import Hands, Order

T = TypeVar("T")


async def cancelled_at(turn: int, work: Coroutine[Any, Any, T], *, first: bool) -> "asyncio.Task[T]":
    """Run `work`, cancel it at that turn of the loop, and answer with its task, which is over.

    `first`: before whatever else happens in that turn, else after what was known to happen when it began.
    """
    loop = asyncio.get_running_loop()
    box: list[asyncio.Task[T]] = []

    def count(left: int) -> None:
        if not left:
            box[0].cancel()
        elif not box[0].done():
            loop.call_soon(count, left - 1)

    if first:
        loop.call_soon(count, turn + 1)
    box.append(loop.create_task(work))
    if not first:
        loop.call_soon(count, turn)
    await asyncio.wait(box)
    return box[0]


async def at_every_turn(
    work: Callable[[], Coroutine[Any, Any, T]], check: Callable[["asyncio.Task[T]"], Awaitable[None]], most: int
) -> None:
    """Cancel `work` at each of `most` turns, before and after what else happens in it, and `check` each time."""
    for first in (True, False):
        for turn in range(most):
            await check(await cancelled_at(turn, work(), first=first))


class InTurn(Hands):
    """The work of the committer's thread is done on the loop, so many turns later."""

    def __init__(self, turns: int, do: Callable[[Order], bool]) -> None:
        self._work = do
        self._turns = turns
        self._loop = asyncio.get_running_loop()

    def put(self, order: Order) -> None:
        self._later(order, self._turns)

    def join(self, timeout_s: float) -> None:
        """There is no thread."""

    def _later(self, order: Order, turns: int) -> None:
        if turns:
            self._loop.call_soon(self._later, order, turns - 1)
        else:
            self._work(order)
