"""Settlements that the database has not taken yet, in a file that survives the process.

One line for each, as JSON, flushed to the disk before `append` returns.
"""

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from zuebee.contracts.admission import Amount
from zuebee.contracts.inference import Job
from zuebee.ledger.decide import release, storable
from zuebee.ledger.entries import HoldState, Short
from zuebee.ledger.errors import StoreFailed, UnknownOwner
from zuebee.ledger.operations import Answer, Operation, Record, Reserve, Settle, settle_of, settle_text
from zuebee.ledger.postgres.store import PostgresStore

_log = logging.getLogger("zuebee.billing")


@dataclass
class SpoolLine:
    """A settlement, and which batch of which owner it is a part of. `number`: its own, if it is done alone."""

    owner: int
    batch: int
    settle: Settle
    number: int = 0  # files of an earlier version do not say


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[int, int, int, msgspec.Raw]).decode


def _text(line: SpoolLine) -> bytes:
    settle = line.settle
    try:
        text = settle_text(settle)
    except UnicodeEncodeError:
        record = settle.record
        if record is not None:
            record = Record(tuple(map(storable, record.row)), storable(record.event_id), record.billed)
        text = settle_text(Settle(settle.hold, settle.amount, record, settle.if_held))
    return _encode((line.owner, line.batch, line.number, msgspec.Raw(text)))


def _line(text: bytes) -> SpoolLine:
    """Raises msgspec.DecodeError."""
    if text.startswith(b"{"):
        return _old_line(text)
    owner, batch, number, settle = _decode(text)
    return SpoolLine(owner, batch, settle_of(settle), number)


class _OldAmount(msgspec.Struct):
    tokens: int
    cost_nano: int


class _OldRecord(msgspec.Struct, array_like=True):
    row: tuple[Any, ...]
    event: str
    event_id: str


class _OldSettle(msgspec.Struct):
    hold: str
    amount: _OldAmount | None
    record: _OldRecord | None
    if_held: bool = False


class _OldLine(msgspec.Struct):
    """A line as earlier versions wrote it: an object."""

    owner: int
    batch: int
    settle: _OldSettle
    number: int = 0


_decode_old = msgspec.json.Decoder(_OldLine).decode


def _old_line(text: bytes) -> SpoolLine:
    line = _decode_old(text)
    amount, record, hold = line.settle.amount, line.settle.record, line.settle.hold
    settle = Settle(
        hold,
        None if amount is None else Amount(amount.tokens, amount.cost_nano),
        None if record is None else Record(record.row, record.event_id, bool(hold)),
        line.settle.if_held,
    )
    return SpoolLine(line.owner, line.batch, settle, line.number)


class Spool:
    """The file. Only one process may have it. All methods block and may raise OSError.

    `damaged` counts the lines that could not be read or done.
    """

    def __init__(self, path: str) -> None:
        self.damaged = 0
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            reason = "another process uses it; give each process a `store.spool_path` of its own"
            raise OSError(f"{path}: {reason}") from None
        folder = os.open(self._path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def read(self) -> list[SpoolLine]:
        """What is in it, in order. A last line that was cut off was never confirmed to anybody, and is left out."""
        lines = []
        content = self._path.read_bytes().split(b"\n")
        for number, text in enumerate(content, 1):
            if not text:
                continue
            try:
                lines.append(_line(text))
            except msgspec.DecodeError:
                if number < len(content):
                    self.damaged += 1
                    self.keep_damaged()
                    _log.error("%s: line %d cannot be read; a copy of the file is beside it", self._path, number)
        return lines

    def append(self, lines: list[SpoolLine]) -> None:
        """Keep settlements."""
        content = b"".join(_text(line) + b"\n" for line in lines)
        before = os.fstat(self._file).st_size
        try:
            while content:
                content = content[os.write(self._file, content) :]
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, before)  # half a line would spoil the next
            raise

    def empty(self) -> None:
        """All of them are in the database."""
        os.ftruncate(self._file, 0)
        os.fsync(self._file)

    def close(self) -> None:
        """Let others have it."""
        os.close(self._file)

    def keep_damaged(self) -> None:
        """Leave a copy for people, with the ending `.damaged`."""
        copy = self._path.with_name(f"{self._path.name}.damaged")
        if not copy.exists():
            copy.write_bytes(self._path.read_bytes())


def replay(store: PostgresStore, spool: Spool) -> None:
    """Do what an earlier process could not. Raises StoreBusy, OSError."""
    groups: dict[tuple[int, int], list[SpoolLine]] = {}
    for line in spool.read():
        groups.setdefault((line.owner, line.batch), []).append(line)
    for (owner, batch), group in groups.items():
        try:
            applied = store.applied(owner)
            # Some of them it may have done one by one.
            store.apply(batch, [line.settle for line in group if not 0 < line.number <= applied], owner)
        except StoreFailed as error:
            _log.error("%d settlements of an earlier process: %s; trying each alone", len(group), error)
            for line in sorted(group, key=lambda line: line.number):
                _do_alone(store, spool, line)
    spool.empty()


def _do_alone(store: PostgresStore, spool: Spool, line: SpoolLine) -> None:
    try:
        try:
            store.apply(line.number, [line.settle], line.owner)
        except UnknownOwner:
            store.apply(0, [line.settle])  # a store that was restored from before that process
    except StoreFailed as error:
        spool.damaged += 1
        spool.keep_damaged()
        _log.error("a settlement cannot be done: %s; a copy of the spool file is beside it", error)


# Operations that are done together, and who waits for them.


class Pending:
    """An operation and whoever waits for its answer.

    What was reserved belongs to this object until its caller goes on with the answer. A caller that stops waiting, at
    whatever moment, says so by `leave`; one whose task was cancelled and did not run since has a cancelled future. In
    both cases, and when nobody can say what became of it, `let_go` has what gives the hold back, once.
    """

    __slots__ = ("abandoned", "future", "job", "kept", "left", "number", "operation", "released")

    def __init__(
        self, operation: Operation, future: "asyncio.Future[Any] | None" = None, job: Job | None = None
    ) -> None:
        self.operation = operation
        self.future = future
        self.job = job  # that it is for
        self.number = 0  # by which it is known that it was done, if it is done alone
        self.abandoned = False  # nobody will take the answer
        self.left = False  # for its caller went away
        self.kept = False
        self.released = False

    @property
    def is_over(self) -> bool:
        """Whether nobody wants it any more, so that it need not be begun. May be asked by any thread."""
        return self.abandoned or (self._is_cancelled and isinstance(self.operation, Reserve))

    @property
    def _is_cancelled(self) -> bool:
        return self.future is not None and self.future.cancelled()

    def answer(self, answer: Answer) -> Settle | None:
        """Wake whoever waits. What is to be settled instead, if nobody does."""
        future = self.future
        if future is not None and not future.done():
            future.set_result(answer)
            # Without an answer it is refused, and may have been done all the same.
            return self.let_go(answer) if answer is None else None
        if self._is_cancelled:
            self.abandoned = self.left = True
        return self.let_go(answer) if self.abandoned else None

    def leave(self) -> Settle | None:
        """The caller stops waiting. What is to be settled, if its answer is there already."""
        future = self.future
        self.left = True
        if not self.abandoned:
            self.abandoned = True
            if future is not None and future.done() and not future.cancelled() and future.exception() is None:
                return self.let_go(future.result())
        return None

    def let_go(self, answer: Answer = None) -> Settle | None:
        """What gives back the hold that nobody takes; None if there is none, or it was given back before."""
        operation = self.operation
        if not isinstance(operation, Reserve) or self.released or isinstance(answer, Short):
            return None
        if isinstance(answer, HoldState) and answer.state != "open":
            return None
        self.released = True
        return release(operation, left=self.left, cut_for=None if self.job is None else self.job.cut_for)


MAX_BATCH = 512
STEP = 1024
"""Between the numbers of two batches: each operation has one of its own below that of its batch."""


class SharedBatch:
    """One transaction. Batches of a process are numbered, so that one whose end was not seen can be found again, and so
    can each of its operations.
    """

    __slots__ = ("begun_at_s", "items", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.items: list[Pending] = []
        self.begun_at_s = 0.0

    def add(self, pending: Pending) -> None:
        """Let it be a part of this."""
        self.items.append(pending)
        pending.number = self.number - STEP + len(self.items)


# While the database does not answer: settlements that wait are put on this machine's disk, by a thread of its own.

LAST_WAIT_S = 2.0


class Spooling:
    """The spool file and its thread. All methods belong to the event loop.

    `done` is called when settlements are on the disk, or could not be put there (False).
    """

    def __init__(self, spool: Spool, done: Callable[[bool], None]) -> None:
        self._spool = spool
        self._done = done
        self._lines = 0
        self._failed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="spool")

    def keep(self, owner: int, waiting: list[tuple[int, Pending]]) -> None:
        """Put on the disk what is not there yet, with the number of its batch; nothing while that is being done."""
        if not self._idle.is_set():
            return
        kept: list[Pending] = []
        lines: list[SpoolLine] = []
        for number, pending in waiting:
            if isinstance(pending.operation, Settle) and not pending.kept:
                kept.append(pending)
                lines.append(SpoolLine(owner, number, pending.operation, pending.number))
        if kept:
            self._idle.clear()
            self._lines += len(lines)
            writing = self._disk.submit(self._spool.append, lines)
            writing.add_done_callback(lambda done: self._call(kept, done.exception()))

    def _call(self, kept: list[Pending], failure: BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop is gone
            self._loop.call_soon_threadsafe(self._kept, kept, failure)

    def _kept(self, kept: list[Pending], failure: BaseException | None) -> None:
        self._idle.set()
        if failure is not None:
            if not self._failed:
                _log.error("the spool file cannot be written, settlements wait in memory: %s", failure)
        else:
            for pending in kept:
                pending.kept = True
                pending.answer(None)
        self._failed = failure is not None
        self._done(failure is None)

    def empty(self) -> None:
        """The database has all that is in the file."""
        if self._lines and self._idle.is_set():
            self._lines = 0
            self._disk.submit(self._empty)

    @property
    def has_lines(self) -> bool:
        """Whether there is anything in the file that the database may not have."""
        return bool(self._lines) and self._idle.is_set()

    def _empty(self) -> None:
        try:
            self._spool.empty()
        except OSError as error:
            _log.error("the spool file cannot be emptied: %s", error)

    async def last(self, owner: int, waiting: list[tuple[int, Pending]]) -> None:
        """Put all that is left on the disk, also while an earlier call is under way."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WAIT_S):
                await self._idle.wait()
        self.keep(owner, waiting)

    async def aclose(self) -> None:
        """Let go of the file, once it is written."""
        await self._loop.run_in_executor(None, self._disk.shutdown)
        self._spool.close()
