"""The ledger of one process: decides in memory at once, and a writer thread makes it durable on SQLite meanwhile.

Invariants: memory has every open hold of the file, for nobody else may serve from it. What memory says is written in
the order in which it was decided. What is committed stands; what is not yet can be called back (`LocalReservation`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

import msgspec

from zuebee.contracts.admission import NOTHING, Budget
from zuebee.contracts.inference import Job
from zuebee.contracts.limits import period_start_s
from zuebee.ledger.decide import decide, record_of, reserve
from zuebee.ledger.entries import TOKENS, Balance, HoldState, Path, Short
from zuebee.ledger.errors import StoreBusy, StoreFailed
from zuebee.ledger.journal_rows import outcome_of, settlement_of
from zuebee.ledger.ledger import Ledger
from zuebee.ledger.operations import Expire, Extend, Renew, Reserve, Settle, charge, settle_of, settle_text
from zuebee.ledger.port import Reservation, tell_nobody
from zuebee.ledger.sqlite.group_commit import LATER, NOW, SOON, Batch, Closing, Committer
from zuebee.ledger.sqlite.journal import Journal
from zuebee.ledger.sqlite.store import SqliteStore
from zuebee.lib import clock
from zuebee.lib.seldom import Seldom

_log: Final = logging.getLogger("zuebee.billing")

STUCK_S: Final = 1.0
"""A transaction that takes longer stops metered requests until it is through."""

FORGET_EVERY_S: Final = 3600.0
"""Between two looks for balances of periods that are over. They are kept for as long: something may be on its way."""

CLOSE_S: Final = 2.0
MAX_WAITING_RECORDS: Final = 200_000
WATCH_S: Final = 0.005
"""Between two looks at an attempt to write that nobody tells the end of."""


class LocalReservation(Reservation):
    """A hold of this process: on disk once its batch is."""

    def __init__(self, state: HoldState, batch: Batch, ledger: "SqliteLedger") -> None:
        super().__init__(state)
        self._batch = batch
        self._ledger = ledger

    @property
    def secured(self) -> bool:
        return self._batch.secured

    def can_join(self) -> bool:
        return self._ledger.is_filling(self._batch) and self.state.state == "open"

    async def secure(self, settle: Settle | None = None) -> bool:
        batch, ledger = self._batch, self._ledger
        if settle is None or not self.can_join():
            await ledger.hurry(batch)
            return batch.secured
        self.joined = True
        ledger.join(self.state, batch, settle)
        left: asyncio.CancelledError | None = None
        try:
            await ledger.hurry(batch)
        except asyncio.CancelledError as error:
            left = error
        # Flushed or not: what was written is charged and on record, so it is what the caller must see.
        while not batch.committed and not batch.call_back(self.state.id):
            try:
                await asyncio.sleep(WATCH_S)  # an attempt to write it is under way
            except asyncio.CancelledError as error:
                left = error
        if not batch.committed:
            ledger.part(self.state)
            self.joined = False
        if left is not None:
            raise left
        return batch.committed


class SqliteLedger:
    """The ledger on a SQLite file; see `LedgerPort`. Raises StoreBusy or StoreFailed when it cannot be used at first.

    With a `journal` a settlement survives this process as soon as it is decided; without one, when it is written.
    `hold_s`: for how long a hold lives without being renewed.
    """

    def __init__(
        self,
        store: SqliteStore,
        *,
        hold_s: float,
        commit_interval_s: float,
        timeout_s: float,
        journal: Journal | None = None,
    ) -> None:
        self.released: Callable[[Path], None] = tell_nobody
        self.reserved = 0
        self.polls: Final = False
        self._seldom = Seldom(_log)
        self._dropped = 0
        self._store = store
        self._hold_s = hold_s
        self._journal = journal
        self.damaged = 0 if journal is None else len(journal.damage)
        self._side = ThreadPoolExecutor(1, thread_name_prefix="ledger-side")
        self._opening = asyncio.Lock()
        now_s = clock.wall_s()
        start = store.start("zuebee", now_s)
        self.ledger = Ledger(start.owner)
        self._forgot_at_s = clock.monotonic_s()
        self.committer = Committer(
            store.write,
            store.flush,
            self._fill,
            store.close,
            closed=self._closed,
            interval_s=commit_interval_s,
            timeout_s=timeout_s,
            journal=journal,
        )
        self._resolve_orphans(start.orphans, now_s)

    # --- what is asked ---

    async def reserve(self, operation: Reserve, job: Job) -> Reservation | Short:
        budgets, at_s = operation.budgets, operation.at_s
        if self.ledger.path(budgets, at_s) is None:
            try:
                await self._bring_in(budgets, at_s)
            except (StoreBusy, StoreFailed) as error:
                self._seldom.error("an account could not be opened: %s", error)
                raise StoreBusy(str(error)) from None
        # Nothing is awaited once there is a hold: who asks has it, or it is not.
        held = reserve(self.ledger, operation, at_s)
        if isinstance(held, Short):
            if self.ledger.changes.entries:
                self.committer.touch(LATER)
            return held
        self.reserved += 1
        # A stream's first event waits for it; an answer in one piece is settled before it leaves, most in one batch.
        return LocalReservation(held, self.committer.touch(NOW if job.stream else SOON), self)

    async def _bring_in(self, budgets: tuple[Budget, ...], at_s: float) -> None:
        """Bring balances into memory that are not there yet."""
        async with self._opening:
            starts_s = [period_start_s(budget.period, at_s) for budget in budgets]
            known = [self.ledger.balance(b.account, start_s) for b, start_s in zip(budgets, starts_s, strict=True)]
            if None in known or self.ledger.path_of(known) is None:
                loop = asyncio.get_running_loop()
                paths = await loop.run_in_executor(self._side, self._store.open_path, budgets, starts_s)
                for path_id, balances in paths:
                    self.ledger.add_path(path_id, [self.ledger.add_balance(balance) for balance in balances])

    def settle(self, operation: Settle, reservation: Reservation | None) -> Awaitable[None] | None:
        if reservation is not None and reservation.joined:
            return None
        if reservation is None:
            self._keep_record(operation)
            return None
        state = reservation.state
        is_open = state.state == "open"
        if not is_open:
            self.ledger.add_hold(state)  # expired so long ago that it may have been forgotten
        self._do(operation, clock.wall_s())
        self.released(state.path)
        is_kept = is_open and self._journal is not None and self._note(self._journal, operation)
        batch = self.committer.touch(NOW)
        return None if is_kept else batch

    def _keep_record(self, operation: Settle) -> None:
        records = self.committer.current.records
        if len(records) >= MAX_WAITING_RECORDS:
            self._dropped += 1
            return
        self._do(operation, 0.0)
        self.committer.touch(LATER)

    def _do(self, operation: Settle | Expire, now_s: float) -> None:
        """Decide, and put what is to be recorded into the batch that is being filled."""
        _, record = decide(self.ledger, operation, now_s)
        if record is not None:
            self.committer.current.records.append(record)

    def _note(self, journal: Journal, operation: Settle) -> bool:
        try:
            return journal.add(settle_text(operation))
        except UnicodeEncodeError:
            return False

    def extend(self, asked: Sequence[tuple[Reservation, Extend]]) -> Awaitable[list[Short | None]]:
        now_s = clock.wall_s()
        short: list[Short | None] = []
        for _, operation in asked:
            answer, _ = decide(self.ledger, operation, now_s)
            short.append(answer if isinstance(answer, Short) else None)
        if asked:
            self.committer.touch(LATER)
        return _at_once(short)

    def renew(self, operation: Renew) -> None:
        decide(self.ledger, operation, clock.wall_s())
        self.committer.touch(LATER)

    async def refresh(self) -> None:
        self.committer.relieve()
        await self._take_foreign_grants()

    def sweep(self) -> None:
        now_s = clock.wall_s()
        # Nobody has renewed them, so nobody will settle them: a defect, but not one that locks a budget.
        leaked = [hold for hold in self.ledger.open.values() if hold.expires_at_s < now_s]
        for hold in leaked:
            _log.error("a hold was never settled: %s", hold.id)
            self._expire(hold, now_s)
        if clock.monotonic_s() - self._forgot_at_s > FORGET_EVERY_S:
            self._forgot_at_s = clock.monotonic_s()
            self.ledger.forget(now_s - FORGET_EVERY_S)

    def _expire(self, hold: HoldState, now_s: float) -> None:
        self._do(Expire(hold.id, is_ownerless=True), now_s)
        self.committer.touch(SOON)
        self.released(hold.path)

    async def _take_foreign_grants(self) -> None:
        """What commands have granted meanwhile: they write beside us, until they can ask whoever owns the ledger."""
        try:
            loop = asyncio.get_running_loop()
            entries = await loop.run_in_executor(self._side, self._store.foreign_entries)
        except Exception as error:
            self._seldom.warning("grants of other processes could not be read: %s", error)
            return
        for entry_id, account, starts_at_s, kind, tokens, money in entries:
            balance = self.ledger.balance(account, starts_at_s)
            if balance is not None and entry_id > balance.seen_entry:
                balance.add(kind, tokens if balance.unit == TOKENS else money, 0)  # type: ignore[arg-type]
                balance.seen_entry = entry_id

    # --- a hold and its settlement in one transaction ---

    def is_filling(self, batch: Batch) -> bool:
        """Whether a batch has not gone out yet."""
        return batch is self.committer.current

    def hurry(self, batch: Batch) -> Awaitable[None]:
        """Wait until a batch is on disk, or cannot be, or that takes too long."""
        return self.committer.hurry(batch)

    def join(self, state: HoldState, batch: Batch, settle: Settle) -> None:
        """Let a hold end with the batch that it was reserved in. It takes effect when that is written."""
        now_s = clock.wall_s()
        amount = settle.amount
        if amount is None:
            entries = self.ledger.close(state, "void", NOTHING, now_s)
            batch.closing[state.id] = Closing(state, "voided", NOTHING, entries, settle.record)
        else:
            entries = self.ledger.close(state, "post", amount, now_s)
            batch.closing[state.id] = Closing(state, "posted", amount, entries, settle.record)

    def part(self, state: HoldState) -> None:
        """It did not end so: it is open, and will be settled otherwise."""
        self.ledger.reopen(state)

    def _closed(self, batch: Batch) -> None:
        for each in batch.closing.values():
            self.ledger.closed(each.hold, each.state, each.amount)
            self.released(each.hold.path)

    def _fill(self, batch: Batch) -> None:
        batch.changes = self.ledger.take()
        batch.progress = [
            (hold.expires_at_s, hold.progress.tokens, hold.progress.cost_nano, hold.id)
            for hold in batch.changes.renewed
        ]

    # --- the start ---

    def _resolve_orphans(self, orphans: list[HoldState], now_s: float) -> None:
        """The holds of processes that are no more: nobody else can hold this file. The journal knows how some ended."""
        ledger = self.ledger
        lines = _lines(self._journal, {orphan.id: orphan.record for orphan in orphans})
        expired = 0
        for orphan in orphans:
            balances = [ledger.add_balance(balance) for balance in orphan.path.balances]
            orphan.path = ledger.add_path(orphan.path.id, balances)
            ledger.add_hold(orphan)
            settle = lines.get(orphan.id)
            if settle is None:
                self._expire(orphan, now_s)
                expired += 1
                continue
            self._do(settle, now_s)
            self.committer.touch(SOON)
        if expired:
            _log.warning("%d requests of an earlier process had not been settled: charged as far as known", expired)
        if len(orphans) > expired:
            _log.info("%d requests of an earlier process settled from its journal", len(orphans) - expired)
        if self._journal is not None:
            self.committer.touch(NOW)  # it takes lines once this is on disk

    # --- how it stands ---

    @property
    def dropped(self) -> int:
        return self._dropped

    @property
    def trouble(self) -> str:
        committer = self.committer
        if committer.failure or committer.stuck_s <= STUCK_S:
            return committer.failure
        return committer.busy or "the disk takes nothing"

    @property
    def usable(self) -> bool:
        return not self.committer.failure and self.committer.stuck_s <= STUCK_S

    def balances(self) -> Sequence[Balance]:
        return self.ledger.balances()

    @property
    def balances_at_s(self) -> float:
        return clock.wall_s()

    @property
    def commits(self) -> int:
        return self.committer.commits

    @property
    def commit_s(self) -> float:
        return self.committer.commit_s

    def open_holds(self) -> tuple[int, float]:
        oldest = next(iter(self.ledger.open.values()), None)
        age_s = 0.0 if oldest is None else max(0.0, clock.wall_s() + self._hold_s - oldest.expires_at_s)
        return len(self.ledger.open), age_s

    async def aclose(self) -> None:
        await self.committer.aclose()
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):  # what reads just now is not interrupted, nor waited for without end
            await asyncio.wait_for(loop.run_in_executor(self._side, self._store.close_side), CLOSE_S)
        self._side.shutdown(wait=False)
        if self._journal is not None:
            self._journal.close()


async def _at_once(answers: list[Short | None]) -> list[Short | None]:
    return answers


def _lines(journal: Journal | None, contexts: dict[str, str]) -> dict[str, Settle]:
    """What an earlier process left in the journal, by hold. `contexts`: what stands beside the holds that are open."""
    found: dict[str, Settle] = {}
    for line in journal.found if journal is not None else ():
        try:
            settle = _line(line, contexts)
        except msgspec.DecodeError as error:
            _log.error("a line of the journal cannot be read: %s", error)
        else:
            if settle is not None:
                found[settle.hold] = settle
    return found


def _line(line: bytes, contexts: dict[str, str]) -> Settle | None:
    """A line of the journal, also of an earlier version, which had the rest in what stands beside the hold."""
    try:
        return settle_of(line)
    except msgspec.DecodeError:
        outcome = outcome_of(line)
    context = contexts.get(outcome.hold)
    if context is None:
        return None
    settlement = settlement_of(outcome, context)
    return Settle(outcome.hold, charge(settlement), record_of(settlement, billed=True))
