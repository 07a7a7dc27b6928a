"""Group commit: what happens on the event loop within the same moment is one transaction of a writer thread.

The loop fills a batch while the thread writes the one before it and flushes it to the disk. Who waits for a settlement
goes on when it is written, who waits for a hold when it is flushed. Batches are written in their order, so whoever
finds a later one on disk finds all earlier ones there.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Final

from zuebee.contracts.admission import Amount
from zuebee.ledger.entries import Changes, Entry, HoldState, State
from zuebee.ledger.errors import StoreBusy, StoreFailed
from zuebee.ledger.operations import Record
from zuebee.ledger.sqlite.journal import Journal
from zuebee.lib import clock

# What is written together, and who waits for it.


class Closing:
    """How a hold ends if its batch is written: the entries, what the ledger is told then, and the record."""

    __slots__ = ("amount", "entries", "hold", "record", "state")

    def __init__(
        self, hold: HoldState, state: State, amount: Amount, entries: list[Entry], record: Record | None
    ) -> None:
        self.hold = hold
        self.state: State = state
        self.amount = amount
        self.entries = entries
        self.record = record


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
        self.records: list[Record] = []
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


_log: Final = logging.getLogger("zuebee.billing")

LATER, SOON, NOW = 1, 2, 3
"""How urgent it is: within the interval of the settings, within SOON_S, or at once, for somebody waits."""

SOON_S: Final = 0.02

CROWD_INTERVAL_S: Final = 0.008
"""Between batches that somebody waits for, in a crowd: fewer and larger batches leave more time for requests. Where
there is none, nobody waits for others.
"""

CROWD: Final = 2000
"""So many entries a second; a request makes two."""

BUSY_WAIT_S: Final = 0.05


class Committer:
    """Owns the writer thread. All methods but the thread's own belong to the event loop.

    `fill` is called when a batch goes out, to put in what has changed, and `closed` with one that was written, before
    anybody hears of it; `write`, `flush` and `close` are called in the thread, which raise StoreFailed, and `write`
    StoreBusy as well. `journal` keeps what the batches settle until they are on disk.
    """

    def __init__(
        self,
        write: Callable[[Batch], None],
        flush: Callable[[], None],
        fill: Callable[[Batch], None],
        close: Callable[[], None],
        *,
        closed: Callable[[Batch], None],
        interval_s: float,
        timeout_s: float,
        journal: Journal | None = None,
    ) -> None:
        self.current = Batch()
        self.failure = ""
        self.busy = ""  # why the batch that is being written was not written yet
        self.commits = 0
        self.commit_s = 0.0
        self._write = write
        self._flush = flush
        self._fill = fill
        self._close = close
        self._closed = closed
        self._journal = journal
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._writing: Batch | None = None
        self._urgency = 0
        self._timer: asyncio.Handle | None = None
        self._sent_at_s = 0.0
        self._crowded = False
        self._entries = 0
        self._counted_at_s = clock.monotonic_s()
        self._closing = threading.Event()
        self._queue: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._writer = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._writer.start()

    def touch(self, urgency: int) -> Batch:
        """The current batch has got something: LATER, SOON or NOW. Answers with the batch."""
        if urgency > self._urgency:
            self._urgency = urgency
            if self._writing is None:
                self._schedule()
        return self.current

    async def hurry(self, batch: Batch) -> None:
        """Wait until a batch is on disk that may not have been in a hurry so far."""
        if batch is self.current:
            self.touch(NOW)
        await batch.flushed()

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._urgency == NOW:
            wait_s = self._sent_at_s + CROWD_INTERVAL_S - self._loop.time() if self._crowded else 0.0
        else:
            wait_s = SOON_S if self._urgency == SOON else self._interval_s
        self._timer = self._loop.call_later(wait_s, self._send) if wait_s > 0 else self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._timer = None
        batch, self.current = self.current, Batch()
        self._urgency = 0
        self._fill(batch)
        self._entries += len(batch.changes.entries) + len(batch.closing)
        batch.begun_at_s = self._sent_at_s = self._loop.time()
        if self.failure:
            batch.finish(secured=False)
            return
        self._writing = batch
        if self._journal is not None:
            self._journal.turn()
        self._queue.put(batch)

    def _flushed(self, batch: Batch, failure: str) -> None:
        self._writing = None
        self.commits += 1
        self.commit_s += self._loop.time() - batch.begun_at_s
        if failure:
            _log.error("the ledger cannot be written, metered requests are refused from now on: %s", failure)
            self.failure = failure
        elif self._journal is not None:
            self._journal.forget()
        if batch.committed and batch.closing:
            self._closed(batch)
        batch.finish(secured=not failure)
        if self._urgency:
            self._schedule()

    @property
    def stuck_s(self) -> float:
        """For how long the batch that is being written has been on its way."""
        return 0.0 if self._writing is None else self._loop.time() - self._writing.begun_at_s

    def relieve(self) -> None:
        """Called once a second: let nobody wait longer than the timeout, and see whether there is a crowd."""
        now_s = clock.monotonic_s()
        self._crowded = self._entries > CROWD * (now_s - self._counted_at_s)
        self._entries, self._counted_at_s = 0, now_s
        if self.stuck_s > self._timeout_s and self._writing is not None:
            self._writing.give_up()
            self.current.give_up()

    async def aclose(self) -> None:
        """Write all there is, for at most the timeout, and close the store."""
        if self._timer is not None:
            self._timer.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                if self._writing is not None:
                    await self._writing.flushed()
                if self._writing is None:
                    self._send()
                if self._writing is not None:
                    await self._writing.flushed()
        self._closing.set()
        self._queue.put(None)
        await self._loop.run_in_executor(None, self._writer.join, self._timeout_s)

    # --- the thread ---

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            failure = self._try(batch)
            try:
                if not failure and batch.is_awaited:  # a wake-up of the loop less where nobody is
                    self._loop.call_soon_threadsafe(batch.note_written)
                failure = failure or self._try_flush()
                self._loop.call_soon_threadsafe(self._flushed, batch, failure)
            except RuntimeError:  # the loop is gone
                break
        self._close()

    def _try_flush(self) -> str:
        try:
            self._flush()
        except StoreFailed as error:
            return str(error)
        except Exception as error:
            _log.exception("a batch of the ledger could not be flushed")
            return type(error).__name__
        return ""

    def _try(self, batch: Batch) -> str:
        warned_at_s = 0.0
        while True:
            try:
                self._write(batch)
            except StoreBusy as error:
                self.busy = str(error)
                now_s = clock.monotonic_s()
                if now_s - warned_at_s > 10:
                    warned_at_s = now_s
                    _log.warning("the ledger cannot be written just now, trying again: %s", error)
                if self._closing.wait(BUSY_WAIT_S):
                    return str(error)
            except StoreFailed as error:
                return str(error)
            except Exception as error:
                _log.exception("a batch of the ledger could not be written")
                return type(error).__name__
            else:
                self.busy = ""
                return ""
