"""The ledger on PostgreSQL, for many processes: a batch of operations is one transaction, of one or two round trips.

One, if memory decides, and the database agrees under its locks that memory is right. Otherwise two: the first locks and
reads what the operations touch, a `Ledger` decides by that, the second writes and commits.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus

from zuebee.contracts.limits import period_start_s
from zuebee.contracts.usage import next_hash
from zuebee.ledger import usage_rows
from zuebee.ledger.decide import storable
from zuebee.ledger.entries import Balance, Entry, HoldState
from zuebee.ledger.errors import StoreBusy, UnknownOwner
from zuebee.ledger.journal_rows import context_text
from zuebee.ledger.ledger import Ledger
from zuebee.ledger.operations import Answer, Expire, Operation, Record, Renew, Reserve, holds_of
from zuebee.ledger.port import NoBound, Room
from zuebee.ledger.postgres import statements as sql
from zuebee.ledger.postgres.connection import PostgresConnection, StoreLost
from zuebee.ledger.snapshot import Memory, Paths, Snapshot, add_holds, add_paths
from zuebee.ledger.usage_rows import MAX_NAMES, Totals, Unbilled, UnbilledRow
from zuebee.lib import clock
from zuebee.schema.currency import OtherCurrency

MAX_KNOWN = 200_000
MAX_SHOWN = 1000
EXPIRED_AT_ONCE = 500
EXPIRED_FOR_S = 5.0
"""What one process has found expired, another does not look at for so long."""

FORGOTTEN_AT_ONCE = 10_000
FORGET_EVERY_S = 3600.0
"""Between two looks for records that are too old: it reads all that there are."""

SILENT_HOLDS = 10
"""An owner that gave no sign of life for so many times the life of a hold has ended."""

MAX_DRIFT_S = 1.0
"""The database's clock is what it was plus the time since, or is asked again."""


class PostgresStore(PostgresConnection):
    """One connection. All methods block and belong to one thread, but for `cut`.

    They raise StoreBusy (try again), StoreLost (connect again, then try again) or StoreFailed (these operations can
    never be done).
    """

    def __init__(
        self,
        url: str,
        *,
        reporters: Sequence[str],
        currency: str,
        retention_days: int,
        timeout_s: float,
        hold_s: float,
        room: Room | None = None,
    ) -> None:
        self._room = room or NoBound()
        self.owner = 0
        self._name = ""
        self.transactions = 0
        self.remembered = 0  # of them, those that memory decided
        self.decided: list[Answer] = []
        super().__init__(url, timeout_s)
        self._reporters = reporters  # read each time, for it may change
        self._currency = currency
        self._retention_s = retention_days * 86400.0
        self._hold_s = hold_s
        self._balance_ids: dict[tuple[str, int], int] = {}
        self._path_ids: dict[str, int] = {}
        self._memory = Memory()
        self._added = 0
        self._has_room: dict[str, bool] = {}
        self._unbilled = Unbilled(self._unbilled_names)
        self._forget_at_s = 0.0

    # --- epochs ---

    def start(self, name: str) -> int:
        """Connect, and begin an epoch if there is none; answers with its number."""
        self._name = name
        return self.resume()

    def resume(self) -> int:
        """Connect again, in the same epoch unless the store does not know it any more."""
        self.connect()
        self._memory = Memory()
        if self.owner:
            return self.owner
        try:
            with self.apart() as db:
                row = db.execute(sql.BEGIN_OWNER, {"name": self._name, "currency": self._currency}).fetchone()
                other = db.execute(sql.FIND_CURRENCY).fetchone() if row is None else None
        except psycopg.Error as error:
            raise self.failure(error) from None
        if row is None:
            self.disconnect()
            theirs = str(other[0]) if other else "another currency"
            raise StoreLost(str(OtherCurrency(theirs, self._currency, "another server counts in it")))
        self.owner = int(row[0])
        return self.owner

    def end(self) -> None:
        """End the epoch: what it still holds may be expired at once."""
        try:
            with self.apart() as db:
                db.execute(sql.END_SILENT_OWNERS, (self._hold_s * SILENT_HOLDS, self.owner))
                db.execute(sql.END_OWNER, (self.owner,))
        except psycopg.Error as error:
            raise self.failure(error) from None

    def sweep(self) -> list[Expire]:
        """What resolves the holds that have expired by the clock of the database. Also removes records that are too
        old, a part at a time.
        """
        try:
            with self.apart() as db:
                db.execute(sql.END_SILENT_OWNERS, (self._hold_s * SILENT_HOLDS, self.owner))
            if self._retention_s and clock.monotonic_s() >= self._forget_at_s:
                with self.apart() as db:
                    gone = db.execute(sql.FORGET_RECORDS, (self._retention_s, FORGOTTEN_AT_ONCE))
                if gone.rowcount < FORGOTTEN_AT_ONCE:
                    self._forget_at_s = clock.monotonic_s() + FORGET_EVERY_S
            with self.apart() as db:
                found = db.execute(sql.EXPIRED, (self.owner, EXPIRED_FOR_S, EXPIRED_AT_ONCE)).fetchall()
            return [Expire(*row) for row in found]
        except psycopg.Error as error:
            raise self.failure(error) from None

    def balances(self) -> list[Balance]:
        """How the accounts stand that this process has used lately."""
        ids = list(islice(reversed(self._balance_ids.values()), MAX_SHOWN))
        try:
            with self.apart() as db:
                return [Balance(*row) for row in db.execute(sql.BALANCES, (ids,)).fetchall()]
        except psycopg.Error as error:
            raise self.failure(error) from None

    # --- operations ---

    def applied(self, owner: int) -> int:
        """The number of the last batch, or single operation, of an owner that was done. Waits for one under way."""
        try:
            with self.apart() as db:
                row = db.execute(sql.LOCK_OWNER, (owner, self._currency)).fetchone()
        except psycopg.Error as error:
            raise self.failure(error) from None
        return self._known(row, owner)[0]

    def apply(self, batch: int, operations: list[Operation], owner: int = 0) -> list[Answer] | None:
        """Do all of them in one transaction, and note that this batch of the owner (default: ourselves) is done.

        None: it was done before, by a transaction whose end was not seen; `decided` has what that one decided. A batch
        0 is not noted.
        """
        owner = owner or self.owner
        try:
            paths = self._open(operations)
            self.transactions += 1
            is_done = batch > 0 and owner == self.owner and self._do_remembering(batch, operations, paths)
            if not is_done and not self._do_reading(batch, operations, paths, owner):
                return None
        except psycopg.Error as error:
            self._memory = Memory()
            raise self.failure(error) from None
        except Exception:
            self._memory = Memory()
            self.undo()
            raise
        self._room.added(self._added)
        self._has_room.clear()
        return self.decided

    def _do_remembering(self, batch: int, operations: list[Operation], paths: Paths) -> bool:
        """Decide from memory, and write if the terms of that are met: one round trip. False: nothing was done."""
        sent_s = clock.monotonic_s()
        snapshot = self._memory.recall(self.owner, operations, paths, sent_s)
        if snapshot is None:
            return False
        snapshot.decide(operations)
        terms = snapshot.terms(operations, paths)
        if terms is None:
            return False
        self.decided = snapshot.answers
        unbilled = self._totals(snapshot.records)
        try:
            with self.together() as db:
                self.begin(db)
                at_owner = db.execute(
                    sql.LOCK_OWNER_AS_KNOWN, (self.owner, self._currency, batch, snapshot.now_s, MAX_DRIFT_S)
                )
                at_balances = db.execute(sql.LOCK_BALANCES, (snapshot.balances, []))
                count = len(terms.balances) + len(terms.holds)
                db.execute(sql.CHECK_TERMS, (*_columns(terms.balances, 3), *_columns(terms.holds, 3), count))
                self._write(db, batch, operations, snapshot, self.owner, unbilled)
        except (errors.DivisionByZero, errors.UniqueViolation):
            self.decided = []
            return False  # the transaction is still to be left, together with the next step
        [(_, snapshot.now_s)] = at_owner
        self._memory.learn(snapshot, operations, sent_s, [Balance(*row) for row in at_balances])
        self.remembered += 1
        return True

    def _do_reading(self, batch: int, operations: list[Operation], paths: Paths, owner: int) -> bool:
        """Lock and read, decide, and write: two round trips. False: it was done before."""
        sent_s = clock.monotonic_s()
        with self.together() as db:
            if db.info.transaction_status is TransactionStatus.INERROR:
                db.rollback()  # what was done in vain
            self.begin(db)
            at_owner = db.execute(sql.LOCK_OWNER, (owner, self._currency))
            ids, holds = sorted({each for path in paths for each in path}), holds_of(operations)
            at_balances = db.execute(sql.LOCK_BALANCES, (ids, holds))
            at_holds = db.execute(sql.FIND_HOLDS, (holds,))
            at_entries = db.execute(sql.FIND_ENTRIES, (holds,))
            at_batch = db.execute(sql.LAST_BATCH, (self.owner,))
        applied, now_s = self._known(at_owner.fetchone(), owner)
        if batch and applied >= batch:
            db.rollback()
            return False
        ledger, rows = Ledger(self.owner), at_balances.fetchall()
        balances = {row[0]: ledger.add_balance(Balance(*row)) for row in rows}
        add_paths(ledger, balances, paths)
        try:
            add_holds(ledger, balances, at_holds, at_entries)
        except KeyError:
            raise StoreBusy("another process has just reserved under the same id") from None
        snapshot = Snapshot(ledger, now_s, *(at_batch.fetchone() or (0, "")))
        snapshot.decide(operations)
        self.decided = snapshot.answers
        unbilled = self._totals(snapshot.records)
        with self.together():
            self._write(db, batch, operations, snapshot, owner, unbilled)
        self._memory.learn(snapshot, operations, sent_s, [Balance(*row) for row in rows])
        return True

    def _known(self, row: Any, owner: int) -> tuple[int, float]:
        """The last batch of an owner, and the time."""
        if row is not None:
            return row[0], row[1]
        if owner == self.owner:
            self.owner = 0  # restored from a back-up, perhaps: begin a new epoch
            self.disconnect()
            raise StoreLost("the store does not know this process any more")
        raise UnknownOwner("the store does not know that process")

    def _open(self, operations: list[Operation]) -> Paths:
        """The paths of all reservations, and each of their balances as a path; made when missing, in a transaction of
        their own, and then remembered.
        """
        reserves = [each for each in operations if isinstance(each, Reserve)]
        wanted = {(b.account, period_start_s(b.period, each.at_s)): b for each in reserves for b in each.budgets}
        missing = sorted(key for key in wanted if key not in self._balance_ids)
        if missing:
            if len(self._balance_ids) + len(missing) > MAX_KNOWN:
                self._balance_ids.clear()
                missing = sorted(wanted)
            accounts, starts = [key[0] for key in missing], [key[1] for key in missing]
            units, periods = [wanted[key].unit for key in missing], [wanted[key].period for key in missing]
            with self.together(), self.apart() as db:
                db.execute(sql.OPEN_BALANCES, (accounts, units, periods, starts))
                found = db.execute(sql.FIND_BALANCES, (accounts, starts))
            self._balance_ids.update({(account, start_s): number for account, start_s, number in found})
        ids = {
            tuple(self._balance_ids[b.account, period_start_s(b.period, each.at_s)] for b in each.budgets)
            for each in reserves
        }
        return self._open_paths(ids | {(each,) for path in ids for each in path})

    def _open_paths(self, paths: Iterable[tuple[int, ...]]) -> Paths:
        names = {path: ",".join(map(str, path)) for path in paths}
        missing = sorted(name for name in names.values() if name not in self._path_ids)
        if missing:
            if len(self._path_ids) + len(missing) > MAX_KNOWN:
                self._path_ids.clear()
                missing = sorted(names.values())
            with self.together(), self.apart() as db:
                db.execute(sql.OPEN_PATHS, (missing,))
                found = db.execute(sql.FIND_PATHS, (missing,))
            self._path_ids.update(dict(found.fetchall()))
        return {path: self._path_ids[name] for path, name in names.items()}

    def _unbilled_names(self, organization_id: str, month: int) -> list[str]:
        found = self.connection.execute(sql.UNBILLED_NAMES, (organization_id, month, MAX_NAMES))
        return [name for (name,) in found]

    def _totals(self, kept: Iterable[Record | None]) -> list[UnbilledRow]:
        totals = Totals(self._unbilled)
        for record in kept:
            if record is not None:
                totals.add(record.row)
        return totals.rows()

    def _write(
        self,
        db: psycopg.Connection[Any],
        batch: int,
        operations: list[Operation],
        snapshot: Snapshot,
        owner: int,
        unbilled: list[UnbilledRow],
    ) -> None:
        write_ledger(db, self.owner, snapshot)
        for each in operations:
            if isinstance(each, Renew) and each.holds:
                db.execute(sql.RENEW_HOLDS, (each.hold_s, *_columns(each.holds)))
        if unbilled:
            db.execute(sql.ADD_TO_UNBILLED, (self._currency, *_columns(unbilled)))
        self._write_usage(db, [record for record in snapshot.records if record is not None])
        db.execute(sql.APPLIED if owner == self.owner else sql.APPLIED_FOR_ANOTHER, (batch, owner))
        db.execute("COMMIT")

    def _write_usage(self, db: psycopg.Connection[Any], records: list[Record]) -> None:
        self._added = 0
        if not records:
            return
        reporters = tuple(self._reporters)
        events = [
            (place, storable(record.event_id), reporter)
            for place, record in enumerate(records, 1)
            if self._fits(record, len(reporters))
            for reporter in reporters
        ]
        self._added = len(events)
        columns = _columns([_stored(record.row) for record in records])
        if events:
            db.execute(sql.ADD_RECORDS_WITH_EVENTS, (self._currency, *columns, *_columns(events)))
        else:
            db.execute(sql.ADD_RECORDS, (self._currency, *columns))
        db.execute(sql.ADD_TO_DAYS, _columns(sorted(usage_rows.days(record.row for record in records))))

    def _fits(self, record: Record, count: int) -> bool:
        """Whether there is room for its events; asked once, however often the batch is tried."""
        fits = self._has_room.get(record.event_id)
        if fits is None:
            fits = self._has_room[record.event_id] = self._room.room_for(count, billed=record.billed)
        return fits


def write_ledger(db: psycopg.Connection[Any], owner: int, snapshot: Snapshot) -> None:
    """Apply what was decided: entries and their batch, balances, and open holds."""
    changes = snapshot.ledger.take()
    entries = changes.entries
    if not entries:
        return
    snapshot.sequence += 1
    rows = [
        (snapshot.sequence, e.kind, e.hold, e.step, e.path.id, e.tokens, e.cost_nano, e.released_tokens,
         e.released_cost_nano, owner, e.at_s)
        for e in entries
    ]  # fmt: skip
    snapshot.digest = next_hash(snapshot.digest, rows)
    db.execute(sql.ADD_ENTRIES, _columns(rows))
    db.execute(sql.ADD_BATCH, (owner, snapshot.sequence, len(rows), snapshot.digest))
    db.execute(sql.ADD_TO_BALANCES, _columns(snapshot.moved(), 9))
    _write_holds(db, entries, changes.opened, snapshot.ledger)


def _write_holds(db: psycopg.Connection[Any], entries: list[Entry], opened: list[HoldState], ledger: Ledger) -> None:
    """Amounts come from the entries: a hold itself may have moved on since. What is owed is as it stands at the end."""
    ended = {entry.hold for entry in entries if entry.step == 1}
    reserved = (entry for entry in entries if entry.kind == "reserve")
    rows = [
        (hold.id, entry.path.id, entry.tokens, entry.cost_nano, hold.owner, hold.expires_at_s,
         storable(context_text(hold.record)),
         hold.owed.tokens, hold.owed.cost_nano)
        for entry, hold in zip(reserved, opened, strict=True)
        if hold.id not in ended
    ]  # fmt: skip
    if rows:
        db.execute(sql.ADD_HOLDS, _columns(rows))
    extended = [
        (e.hold, e.tokens, e.cost_nano, owed.tokens, owed.cost_nano)
        for e in entries
        if e.kind == "extend" and e.hold not in ended and (owed := ledger.open[e.hold].owed) is not None
    ]
    if extended:
        db.execute(sql.EXTEND_HOLDS, _columns(extended))
    if ended:
        db.execute(sql.END_HOLDS, (sorted(ended),))


def _stored(row: usage_rows.Row) -> list[Any]:
    """A record as PostgreSQL takes it: its numbers are of one kind, and SQLite's 1 and 0 are no truth here."""
    values = [storable(value) for value in row]
    for place in _FLOATS:
        if values[place] is not None:
            values[place] = float(values[place])
    values[usage_rows.IS_STREAM] = bool(values[usage_rows.IS_STREAM])
    return values


_FLOATS = tuple(usage_rows.COLUMNS.index(name) for name in sql.FLOATS)


def _columns(rows: Sequence[Sequence[object]], width: int = 0) -> tuple[list[object], ...]:
    """Rows as one list for each column."""
    return tuple(map(list, zip(*rows, strict=True))) if rows else tuple([] for _ in range(width))
