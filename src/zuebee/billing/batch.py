"""What is written together, and who waits for it."""

import asyncio
import threading
from collections.abc import Generator
from typing import Any, Protocol

from zuebee.billing.entries import Changes, Entry, HoldState, State
from zuebee.contracts.admission import Amount, Settlement


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


class Closing:
    """How a hold ends if its batch is written: the entries, and what the ledger is told then."""

    __slots__ = ("amount", "entries", "hold", "settlement", "state")

    def __init__(
        self, hold: HoldState, state: State, amount: Amount, entries: list[Entry], settlement: Settlement
    ) -> None:
        self.hold = hold
        self.state: State = state
        self.amount = amount
        self.entries = entries
        self.settlement = settlement


class Batch:
    """One transaction: changes of the ledger, usage records, and progress of running holds (expiry, tokens, money, id).

    First it is `written`, and survives the process; then it is `secured`, and survives a power cut. Awaiting it waits
    for the first, `flushed` for the second. Both also end when it is `done` without having got so far, for it cannot be
    written or flushed, and when waiting has taken too long.

    `closing`: the ends of holds that were reserved in it, by hold. Each can be called back until the writer's thread
    has the lock of the store and begins to write (`frozen`), and again when that attempt has failed; what was
    `committed` stands.
    """

    __slots__ = (
        "_lock", "_waiting", "_waiting_for_flush", "begun_at_s", "changes", "closing", "committed", "done", "frozen",
        "progress", "records", "secured", "written",
    )  # fmt: skip

    def __init__(self) -> None:
        self.changes = Changes()
        self.records: list[Settlement] = []
        self.progress: list[tuple[float, int, int, str]] = []
        self.closing: dict[str, Closing] = {}
        self.frozen = False
        self.committed = False
        self.begun_at_s = 0.0
        self.done = False
        self.written = False
        self.secured = False
        self._waiting: list[asyncio.Future[None]] = []
        self._waiting_for_flush: list[asyncio.Future[None]] = []
        self._lock = threading.Lock()

    def freeze(self) -> None:
        """In the writer's thread: what is in it now is written."""
        with self._lock:
            self.frozen = True

    def thaw(self, *, committed: bool) -> None:
        """In the writer's thread: the attempt to write it is over."""
        with self._lock:
            self.committed = committed
            self.frozen = False

    def call_back(self, hold_id: str) -> bool:
        """Let a hold not end with this batch. False: too late, it is being written or was."""
        with self._lock:
            if self.frozen or self.committed:
                return False
            self.closing.pop(hold_id, None)
            return True

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
        self.changes, self.records, self.progress, self.closing = Changes(), [], [], {}
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
