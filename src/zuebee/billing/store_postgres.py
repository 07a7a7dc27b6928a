"""The ledger on PostgreSQL, for many processes: a batch of operations is one transaction of two round trips.

The first locks and loads what the operations touch, a fresh `Ledger` decides, the second writes and commits.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import psycopg

from zuebee.billing import postgres_statements as sql
from zuebee.billing import records
from zuebee.billing.batch import NoBound, Room, StoreBusy, StoreFailed
from zuebee.billing.ledger import Balance, Entry, HoldState, Ledger, State
from zuebee.billing.operations import Answer, Expire, Operation, Record, Renew, Reserve, decide, holds_of
from zuebee.billing.postgres_connection import PostgresConnection, StoreLost
from zuebee.contracts.admission import Amount
from zuebee.contracts.chain import next_hash
from zuebee.contracts.periods import period_start_s

MAX_KNOWN = 200_000
MAX_SHOWN = 1000
EXPIRED_AT_ONCE = 200
FORGOTTEN_AT_ONCE = 10_000
SILENT_HOLDS = 10
"""An owner that gave no sign of life for so many times the life of a hold has ended."""

_STATES: dict[str, State] = {"post": "posted", "void": "voided", "expire": "expired", "adjust": "adjusted"}
_CHARGED = ("post", "expire", "overdraft", "adjust")


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
        self.decided: list[Answer] = []
        super().__init__(url, timeout_s)
        self._reporters = tuple(reporters)
        self.currency = currency
        self._retention_s = retention_days * 86400.0
        self._hold_s = hold_s
        self._balance_ids: dict[tuple[str, float], int] = {}
        self._path_ids: dict[str, int] = {}

    # --- epochs ---

    def start(self, name: str) -> int:
        """Connect, and begin an epoch if there is none; answers with its number."""
        self._name = name
        return self.resume()

    def resume(self) -> int:
        """Connect again, in the same epoch unless the store does not know it any more."""
        self.connect()
        if self.owner:
            return self.owner
        try:
            row = self.connection.execute(sql.BEGIN_OWNER, (self._name,)).fetchone()
        except psycopg.Error as error:
            raise self.failure(error) from None
        self.owner = int(row[0]) if row is not None else 0
        return self.owner

    def end(self) -> None:
        """End the epoch: what it still holds may be expired at once."""
        try:
            self.connection.execute(sql.END_OWNER, (self.owner,))
        except psycopg.Error as error:
            raise self.failure(error) from None

    def sweep(self) -> list[Expire]:
        """What resolves the holds that have expired by the clock of the database. Also removes records that are too
        old, a part at a time.
        """
        try:
            db = self.connection
            db.execute(sql.END_SILENT_OWNERS, (self._hold_s * SILENT_HOLDS,))
            if self._retention_s:
                db.execute(sql.FORGET_RECORDS, (self._retention_s, FORGOTTEN_AT_ONCE))
            return [Expire(*row) for row in db.execute(sql.EXPIRED, (self.owner, EXPIRED_AT_ONCE))]
        except psycopg.Error as error:
            raise self.failure(error) from None

    def balances(self) -> list[Balance]:
        """How the accounts stand that this process has used lately."""
        ids = list(islice(reversed(self._balance_ids.values()), MAX_SHOWN))
        try:
            return [Balance(*row) for row in self.connection.execute(sql.BALANCES, (ids,))]
        except psycopg.Error as error:
            raise self.failure(error) from None

    # --- operations ---

    def apply(self, batch: int, operations: list[Operation], owner: int = 0) -> list[Answer] | None:
        """Do all of them in one transaction, and note that this batch of the owner (default: ourselves) is done.

        None: it was done before, by a transaction whose end was not seen; `decided` has what that one decided. A batch
        0 is not noted.
        """
        owner = owner or self.owner
        try:
            known = self._open(operations)
            db = self.connection
            self.transactions += 1
            loaded = self._load(db, operations, known, owner)
            if batch and loaded.applied >= batch:
                db.execute("ROLLBACK")
                return None
            before = {b.id: _figures(b) for b in loaded.ledger.balances()}
            decided = [decide(loaded.ledger, each, loaded.now_s, self.currency) for each in operations]
            self.decided = [answer for answer, _ in decided]
            with db.pipeline():
                self._write_ledger(db, loaded, before)
                self._renew(db, operations)
                billed = [isinstance(each, Expire) or bool(getattr(each, "hold", "")) for each in operations]
                kept = zip((record for _, record in decided), billed, strict=True)
                self._write_usage(db, [(record, paid) for record, paid in kept if record is not None])
                db.execute(sql.APPLIED if owner == self.owner else sql.APPLIED_FOR_ANOTHER, (batch, owner))
                db.execute("COMMIT")
        except psycopg.Error as error:
            raise self.failure(error) from None
        except Exception:
            self.undo()
            raise
        return self.decided

    def _open(self, operations: list[Operation]) -> list[list[int]]:
        """The balances of each reservation; made when missing, in a transaction of their own, and then remembered."""
        reserves = [each for each in operations if isinstance(each, Reserve)]
        wanted = {(b.account, period_start_s(b.period, each.at_s)): b for each in reserves for b in each.budgets}
        missing = sorted(key for key in wanted if key not in self._balance_ids)
        if missing:
            if len(self._balance_ids) + len(missing) > MAX_KNOWN:
                self._balance_ids.clear()
                missing = sorted(wanted)
            accounts, starts = [key[0] for key in missing], [key[1] for key in missing]
            units, periods = [wanted[key].unit for key in missing], [wanted[key].period for key in missing]
            with self.connection.pipeline():
                self.connection.execute(sql.OPEN_BALANCES, (accounts, units, periods, starts))
                found = self.connection.execute(sql.FIND_BALANCES, (accounts, starts))
            self._balance_ids.update({(account, start_s): number for account, start_s, number in found})
        ids = [
            [self._balance_ids[b.account, period_start_s(b.period, each.at_s)] for b in each.budgets]
            for each in reserves
        ]
        self._open_paths(ids)
        return ids

    def _open_paths(self, ids: list[list[int]]) -> None:
        names = {_name(path) for path in ids} | {str(each) for path in ids for each in path}
        missing = sorted(name for name in names if name not in self._path_ids)
        if missing:
            if len(self._path_ids) + len(missing) > MAX_KNOWN:
                self._path_ids.clear()
                missing = sorted(names)
            with self.connection.pipeline():
                self.connection.execute(sql.OPEN_PATHS, (missing,))
                found = self.connection.execute(sql.FIND_PATHS, (missing,))
            self._path_ids.update(dict(found.fetchall()))

    def _load(
        self, db: psycopg.Connection[Any], operations: list[Operation], known: list[list[int]], owner: int
    ) -> "_Loaded":
        ids = sorted({each for path in known for each in path})
        holds = holds_of(operations)
        with db.pipeline():
            db.execute("BEGIN")
            at_owner = db.execute(sql.LOCK_OWNER, (owner,))
            at_balances = db.execute(sql.LOCK_BALANCES, (ids, holds))
            at_holds = db.execute(sql.FIND_HOLDS, (holds,))
            at_entries = db.execute(sql.FIND_ENTRIES, (holds,))
            at_batch = db.execute(sql.LAST_BATCH, (self.owner,))
        row = at_owner.fetchone()
        if row is None:
            if owner == self.owner:
                self.owner = 0  # restored from a back-up, perhaps: begin a new epoch
                self.disconnect()
                raise StoreLost("the store does not know this process any more")
            raise StoreFailed("the store does not know that process")
        ledger = Ledger(self.owner)
        balances = {b[0]: ledger.add_balance(Balance(*b)) for b in at_balances}
        for path in known:
            ledger.add_path(self._path_ids[_name(path)], [balances[each] for each in path])
            for each in path:
                ledger.add_path(self._path_ids[str(each)], [balances[each]])
        try:
            _add_holds(ledger, balances, at_holds, at_entries)
        except KeyError:
            raise StoreBusy("another process has just reserved under the same id") from None
        sequence, digest = at_batch.fetchone() or (0, "")
        return _Loaded(ledger, row[0], row[1], sequence, digest)

    def _write_ledger(self, db: psycopg.Connection[Any], loaded: "_Loaded", before: dict[int, tuple[int, ...]]) -> None:
        changes = loaded.ledger.take()
        entries = changes.entries
        assert not changes.balances, "they come from `_open`"
        assert not changes.paths, "they come from `_open`"
        if not entries:
            return
        sequence = loaded.sequence + 1
        rows = [
            (sequence, e.kind, e.hold, e.step, e.path.id, e.tokens, e.cost_nano, e.released_tokens,
             e.released_cost_nano, self.owner, e.at_s)
            for e in entries
        ]  # fmt: skip
        db.execute(sql.ADD_ENTRIES, _columns(rows))
        db.execute(sql.ADD_BATCH, (self.owner, sequence, len(rows), next_hash(loaded.digest, rows)))
        moved = [
            (b.id, *(now - then for now, then in zip(_figures(b), before[b.id], strict=True)))
            for b in loaded.ledger.balances()
        ]
        db.execute(sql.ADD_TO_BALANCES, _columns([row for row in moved if any(row[1:])], 7))
        _write_holds(db, entries, changes.opened)

    def _renew(self, db: psycopg.Connection[Any], operations: list[Operation]) -> None:
        for each in operations:
            if isinstance(each, Renew) and each.holds:
                db.execute(sql.RENEW_HOLDS, (each.hold_s, *_columns(each.holds)))

    def _write_usage(self, db: psycopg.Connection[Any], kept_for: list[tuple[Record, bool]]) -> None:
        if not kept_for:
            return
        kept = [record for record, _ in kept_for]
        rows = [dict(zip(records.COLUMNS, record.row, strict=True)) for record in kept]
        db.execute(sql.ADD_RECORDS, _columns([tuple(record.row) for record in kept]))
        days: dict[tuple[str, int], list[int]] = {}
        for row in rows:
            total = days.setdefault((row["key_id"], int(row["at_s"]) // records.DAY_S), [0, 0, 0, 0])
            total[0] += 1
            total[1] += row["prompt_tokens"] or 0
            total[2] += row["completion_tokens"] or 0
            total[3] += row["cost_nano"]
        db.execute(sql.ADD_TO_DAYS, _columns([(*key, *total) for key, total in sorted(days.items())]))
        events = [
            (record.event_id, reporter, record.event, row["at_s"], row["at_s"])
            for (record, billed), row in zip(kept_for, rows, strict=True)
            if self._room.room_for(len(self._reporters), billed=billed)
            for reporter in self._reporters
        ]
        if events:
            db.execute(sql.ADD_EVENTS, _columns(events))
            self._room.added(len(events))


class _Loaded:
    """What a transaction has locked and read."""

    def __init__(self, ledger: Ledger, applied: int, now_s: float, sequence: int, digest: str) -> None:
        self.ledger = ledger
        self.applied = applied
        self.now_s = now_s
        self.sequence = sequence
        self.digest = digest


def _add_holds(
    ledger: Ledger, balances: dict[int, Balance], open_rows: Iterable[Any], entry_rows: Iterable[Any]
) -> None:
    """Holds as they stand; of those that are resolved, how, and what was charged."""
    for hold, path_id, names, tokens, cost, owner, expires_at_s, record, spent, spent_cost in open_rows:
        path = ledger.add_path(path_id, [balances[int(each)] for each in names.split(",")])
        progress = Amount(spent, spent_cost)
        ledger.add_hold(HoldState(hold, path, tokens, cost, owner, expires_at_s, record, progress))
    resolved: dict[str, HoldState] = {}
    for hold, kind, path_id, names, tokens, cost, owner in entry_rows:
        if hold in ledger.open:
            continue
        state = resolved.get(hold)
        if state is None:
            path = ledger.add_path(path_id, [balances[int(each)] for each in names.split(",")])
            state = resolved[hold] = HoldState(hold, path, 0, 0, owner, 0.0)
        state.state = _STATES.get(kind, state.state)
        if kind in ("reserve", "extend"):
            state.tokens += tokens
            state.cost_nano += cost
        if kind in _CHARGED:
            state.charged = Amount(state.charged.tokens + tokens, state.charged.cost_nano + cost)
    for state in resolved.values():
        if state.state != "open":  # an id of a grant is none of a hold
            ledger.add_hold(state)


def _write_holds(db: psycopg.Connection[Any], entries: list[Entry], opened: list[HoldState]) -> None:
    """Amounts come from the entries: a hold itself may have moved on since."""
    ended = {entry.hold for entry in entries if entry.step == 1}
    reserved = (entry for entry in entries if entry.kind == "reserve")
    rows = [
        (hold.id, entry.path.id, entry.tokens, entry.cost_nano, hold.owner, hold.expires_at_s, hold.record)
        for entry, hold in zip(reserved, opened, strict=True)
        if hold.id not in ended
    ]
    if rows:
        db.execute(sql.ADD_HOLDS, _columns(rows))
    extended = [(e.hold, e.tokens, e.cost_nano) for e in entries if e.kind == "extend" and e.hold not in ended]
    if extended:
        db.execute(sql.EXTEND_HOLDS, _columns(extended))
    if ended:
        db.execute(sql.END_HOLDS, (sorted(ended),))


def _figures(balance: Balance) -> tuple[int, ...]:
    b = balance
    return b.granted, b.held, b.used, b.overdraft, b.limited, b.changes


def _name(path: Sequence[int]) -> str:
    return ",".join(map(str, path))


def _columns(rows: Sequence[Sequence[object]], width: int = 0) -> tuple[list[object], ...]:
    """Rows as one list for each column."""
    return tuple(map(list, zip(*rows, strict=True))) if rows else tuple([] for _ in range(width))
