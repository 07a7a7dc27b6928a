"""What is written together, and who waits for it."""

import asyncio
from collections.abc import Generator
from typing import Any, Protocol

from zuebee.billing.ledger import Changes
from zuebee.contracts.admission import Settlement


class StoreBusy(Exception):
    """Not now: the same batch may be tried again."""


class StoreFailed(Exception):
    """Nothing more can be written; what was not confirmed may or may not be there."""


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

    It can be awaited: it is `done` when it is on disk (`secured`), when it cannot be (`secured` stays False), or when
    waiting for it has taken too long.
    """

    __slots__ = ("_waiting", "begun_at_s", "changes", "done", "progress", "records", "secured")

    def __init__(self) -> None:
        self.changes = Changes()
        self.records: list[Settlement] = []
        self.progress: list[tuple[float, int, int, str]] = []
        self.begun_at_s = 0.0
        self.done = False
        self.secured = False
        self._waiting: list[asyncio.Future[None]] = []

    def __await__(self) -> Generator[Any, None, None]:
        if not self.done:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            yield from waiter

    def finish(self, *, secured: bool) -> None:
        """Wake those who wait, and let go of the content.

        A settlement knows its hold and the hold its batch: with its content the batch would keep itself alive for ever.
        """
        self.done = True
        self.secured = secured
        self.changes, self.records, self.progress = Changes(), [], []
        self.give_up()

    def give_up(self) -> None:
        """Let nobody wait any longer."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()
