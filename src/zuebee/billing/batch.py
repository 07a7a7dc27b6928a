"""What is written together, and who waits for it."""

import asyncio
from collections.abc import Generator
from typing import Any, Protocol

from zuebee.billing.entries import Changes
from zuebee.contracts.admission import Settlement


class Room(Protocol):
    """How much the outbox can still take (`usage/gate.py`)."""

    def room_for(self, rows: int, *, billed: bool) -> bool:
        """Whether rows are to be written; `billed`: for a request that a budget pays for."""
        ...

    def added(self, rows: int) -> None:
        """They were written."""
        ...


class NoBound:
    """Room for everything."""

    def room_for(self, rows: int, *, billed: bool) -> bool:
        """See `Room.room_for`."""
        return True

    def added(self, rows: int) -> None:
        """See `Room.added`."""


class Batch:
    """One transaction: changes of the ledger, usage records, and progress of running holds (expiry, tokens, money, id).

    First it is `written`, and survives the process; then it is `secured`, and survives a power cut. Awaiting it waits
    for the first, `flushed` for the second. Both also end when it is `done` without having got so far, for it cannot be
    written or flushed, and when waiting has taken too long.
    """

    __slots__ = (
        "_waiting", "_waiting_for_flush", "begun_at_s", "changes", "done", "progress", "records", "secured", "written",
    )  # fmt: skip

    def __init__(self) -> None:
        self.changes = Changes()
        self.records: list[Settlement] = []
        self.progress: list[tuple[float, int, int, str]] = []
        self.begun_at_s = 0.0
        self.done = False
        self.written = False
        self.secured = False
        self._waiting: list[asyncio.Future[None]] = []
        self._waiting_for_flush: list[asyncio.Future[None]] = []

    def __await__(self) -> Generator[Any, None, None]:
        if not (self.written or self.done):
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            yield from waiter

    async def flushed(self) -> None:
        """Wait until it is on disk."""
        if not self.done:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting_for_flush.append(waiter)
            await waiter

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for it to be written, and not for its flush."""
        return bool(self._waiting)

    def note_written(self) -> None:
        """Wake those who wait for no more than this."""
        self.written = True
        _wake(self._waiting)

    def finish(self, *, secured: bool) -> None:
        """Wake all who wait, and let go of the content. `secured`: it was written and flushed.

        A settlement knows its hold and the hold its batch: with its content the batch would keep itself alive for ever.
        """
        self.done = True
        self.secured = secured
        self.written = self.written or secured
        self.changes, self.records, self.progress = Changes(), [], []
        self.give_up()

    def give_up(self) -> None:
        """Let nobody wait any longer."""
        _wake(self._waiting)
        _wake(self._waiting_for_flush)


def _wake(waiting: "list[asyncio.Future[None]]") -> None:
    for waiter in waiting:
        if not waiter.done():
            waiter.set_result(None)
    waiting.clear()
