"""The ledger on SQLite: one writer, one transaction for each batch, and then a flush to the disk.

`synchronous=NORMAL`: a commit is in the write-ahead log, which survives the process. Only the flush makes it survive a
power cut; SQLite itself flushes the log before it moves pages from it into the file, and the file before it starts the
log again.
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, TextIO

from zuebee.contracts.admission import Amount, Budget
from zuebee.contracts.usage import HEAD, head_name, next_hash
from zuebee.ledger.entries import TOKENS, Balance, Entry, Figures, HoldState, Kind, Path
from zuebee.ledger.errors import StoreBusy, StoreFailed
from zuebee.ledger.journal_rows import context_text
from zuebee.ledger.port import NoBound, Room
from zuebee.ledger.sqlite.group_commit import Batch
from zuebee.ledger.sqlite.usage import UsageRows, chunks, insert, marks
from zuebee.ledger.sqlite.wal_file import Log, WalFile
from zuebee.lib import clock

CHECKPOINT_PAGES = 8000  # 32 MB: pages that change again and again are moved once

_ENTRY = (
    "batch", "kind", "hold", "step", "path", "tokens", "cost_nano", "released_tokens", "released_cost_nano", "owner",
    "at_s",
)  # fmt: skip
_BALANCE = "id, account, unit, period, starts_at_s, granted, held, used, overdraft, limited, changes, owed, apart"
_ADD_TO_BALANCE = (
    "UPDATE ledger_balances SET granted = granted + ?, held = held + ?, used = used + ?, overdraft = overdraft + ?,"
    " limited = limited + ?, changes = changes + ?, apart = apart + ? WHERE id = ?"
)
NOTE_EVERY_S = 5.0
"""Between two notes of how far the chain of batches has come."""

_NOTE = (
    "INSERT INTO counters (name, value) VALUES (?, ?)"
    " ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE value < excluded.value"
)
# Of those that died; the first time, of all.
_NOTE_OTHERS = f"""
INSERT INTO counters (name, value) SELECT '{HEAD}' || o.id, b.sequence FROM ledger_owners o JOIN ledger_batches b
ON b.owner = o.id AND b.sequence = (SELECT max(sequence) FROM ledger_batches WHERE owner = o.id)
WHERE o.ended_at_s = 0 OR NOT EXISTS (SELECT 1 FROM counters WHERE name >= '{HEAD}' AND name < '{HEAD}~')
ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE value < excluded.value
"""
Connect = Callable[[str], Any]


@dataclass(frozen=True)
class Start:
    """What a process finds: its epoch, and what dead ones left open."""

    owner: int
    orphans: list[HoldState]


def connect(path: str) -> sqlite3.Connection:
    """A connection that many threads may use one after the other."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0, cached_statements=1000)


class SqliteStore:
    """Keeps batches. All methods block; `write`, `flush` and `close` belong to one thread, the rest to another, which
    calls `close_side` at the end.

    Raises StoreFailed when the file is in use by another process that serves.
    """

    def __init__(
        self,
        path: str,
        *,
        reporters: Sequence[str],
        currency: str,
        retention_days: int,
        room: Room | None = None,
        connect: Connect = connect,
        open_log: Callable[[str], Log] = WalFile,
    ) -> None:
        self._usage = UsageRows(reporters, currency, retention_days * 86400.0, room or NoBound())
        self._lock = _only_one(path)
        try:
            self._writer = connect(path)
            self._writer.execute("PRAGMA journal_mode=WAL")
            self._writer.execute("PRAGMA foreign_keys=ON")
            self._writer.execute("PRAGMA synchronous=NORMAL")
            self._writer.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
            self._side = connect(path)
            self._side.execute("PRAGMA synchronous=FULL")
            self._log = open_log(path)
        except (sqlite3.Error, OSError) as error:
            raise StoreFailed(f"{path}: {error}") from None
        self._sequence = 0
        self._hash = ""
        self._owner = 0
        self._foreign_owner = 0
        self._foreign_entry = 0
        self._note_at_s = 0.0

    # --- reading ---

    def start(self, name: str, now_s: float) -> Start:
        """Begin a new epoch. Raises StoreFailed."""
        try:
            return self._start(self._writer, name, now_s)
        except sqlite3.Error as error:
            raise _failure(self._writer, error) from error

    def _start(self, db: Any, name: str, now_s: float) -> Start:
        db.execute(_NOTE_OTHERS)
        cursor = db.execute(
            "INSERT INTO ledger_owners (name, started_at_s, seen_at_s) VALUES (?, ?, ?)", (name, now_s, now_s)
        )
        self._owner = self._foreign_owner = cursor.lastrowid or 0
        self._foreign_entry = _one(db, "SELECT coalesce(max(id), 0) FROM ledger_entries")
        holds = [
            (row, _ids(path))
            for *row, path in db.execute(
                "SELECT hold, path, h.tokens, h.cost_nano, owner, expires_at_s, record, progress_tokens,"
                " progress_cost_nano, balances FROM ledger_holds h JOIN ledger_paths p ON p.id = h.path"
            )
        ]
        wanted = sorted({each for _, ids in holds for each in ids})
        balances = {each: self._balance(db, f"id = {each:d}", ()) for each in wanted}
        return Start(self._owner, [_hold(row, [balances[each] for each in ids]) for row, ids in holds])

    def open_path(self, budgets: Sequence[Budget], starts_s: Sequence[int]) -> list[tuple[int, list[Balance]]]:
        """The path of budgets in the periods that began at `starts_s`, and after it the path of each balance alone;
        made when missing. Raises StoreBusy or StoreFailed.
        """
        db = self._side
        try:
            db.execute("BEGIN IMMEDIATE")
            balances = []
            for budget, start_s in zip(budgets, starts_s, strict=True):
                db.execute(
                    "INSERT INTO ledger_balances (account, unit, period, starts_at_s) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (account, starts_at_s) DO NOTHING",
                    (budget.account, budget.unit, budget.period, start_s),
                )
                balances.append(self._balance(db, "account = ? AND starts_at_s = ?", (budget.account, start_s)))
            paths = [(_path_id(db, some), some) for some in [balances, *([balance] for balance in balances)]]
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise _failure(db, error) from error
        return paths

    def _balance(self, db: Any, where: str, values: tuple[object, ...]) -> Balance:
        row = db.execute(
            f"SELECT {_BALANCE}, (SELECT coalesce(max(id), 0) FROM ledger_entries) FROM ledger_balances WHERE {where}",
            values,
        ).fetchone()
        return Balance(*row)

    def foreign_entries(self) -> list[tuple[int, str, int, str, int, int]]:
        """What other processes (the command line) have granted since the last time: entry id, account, its period's
        start, kind, tokens, money.
        """
        db = self._side
        newest = _one(db, "SELECT coalesce(max(id), 0) FROM ledger_owners")
        if newest <= self._foreign_owner:
            return []
        rows = db.execute(
            "SELECT e.id, b.account, b.starts_at_s, e.kind, e.tokens, e.cost_nano FROM ledger_entries e"
            " JOIN ledger_paths p ON p.id = e.path JOIN ledger_balances b ON p.balances = CAST(b.id AS TEXT)"
            " WHERE e.id > ? AND e.owner > ? AND e.kind IN ('grant', 'withdraw') ORDER BY e.id",
            (self._foreign_entry, self._owner),
        ).fetchall()
        open_owners = _one(db, "SELECT count(*) FROM ledger_owners WHERE id > ? AND ended_at_s = 0", (self._owner,))
        if rows:
            self._foreign_entry = rows[-1][0]
        if not open_owners:
            self._foreign_owner = newest
        return [tuple(row) for row in rows]

    # --- writing ---

    def write(self, batch: Batch) -> None:
        """Keep a batch: all of it or nothing. From then on it survives the process, and after the next `flush` a power
        cut as well. Raises StoreBusy (try again) or StoreFailed (do not).
        """
        db = self._writer
        sequence, digest = self._sequence, self._hash
        try:
            db.execute("BEGIN IMMEDIATE")
            batch.freeze()
            closing = batch.closing.values()
            entries = batch.changes.entries + [entry for each in closing for entry in each.entries]
            self._write_ledger(batch, entries)
            records = batch.records + [each.record for each in closing if each.record is not None]
            self._usage.write(db, records)
            db.execute("COMMIT")
        except Exception as error:
            failure = _failure(db, error)
            # A commit that failed may have happened.
            there = bool(batch.closing) and isinstance(failure, StoreFailed) and self._has(self._sequence)
            batch.thaw(committed=there)
            self._sequence, self._hash = sequence, digest
            raise failure from error
        batch.thaw(committed=True)

    def _has(self, sequence: int) -> bool:
        """Whether a batch of this process is in the store; False where nobody can say."""
        try:
            sql = "SELECT count(*) FROM ledger_batches WHERE owner = ? AND sequence = ?"
            return _one(self._writer, sql, (self._owner, sequence)) > 0
        except sqlite3.Error:
            return False

    def flush(self) -> None:
        """Put all that was written on the disk. Raises StoreFailed."""
        try:
            self._log.flush()
        except OSError as error:
            raise StoreFailed(f"the write-ahead log could not be flushed: {error.strerror or error}") from error

    def _write_ledger(self, batch: Batch, entries: list[Entry]) -> None:
        db = self._writer
        changes = batch.changes
        if changes.balances or changes.paths:
            raise StoreFailed("balances and paths come from `open_path`")
        if entries:
            self._write_entries(entries)
            self._write_holds(entries, changes.opened)
        if batch.progress:  # last: of a hold that this batch opened, too
            db.executemany(
                "UPDATE ledger_holds SET expires_at_s = ?, progress_tokens = ?, progress_cost_nano = ? WHERE hold = ?",
                batch.progress,
            )

    def _write_entries(self, entries: list[Entry]) -> None:
        self._sequence += 1
        self._hash = write_entries(self._writer, self._owner, self._sequence, self._hash, entries)
        now_s = clock.monotonic_s()
        if now_s >= self._note_at_s:
            self._note_at_s = now_s + NOTE_EVERY_S
            self._writer.execute(_NOTE, (head_name(self._owner), self._sequence))

    def _write_holds(self, entries: list[Entry], opened: list[HoldState]) -> None:
        """Amounts come from the entries: a hold itself may have moved on since."""
        ended = {entry.hold for entry in entries if entry.step == 1}
        reserved = (entry for entry in entries if entry.kind == "reserve")
        rows = []
        for entry, hold in zip(reserved, opened, strict=True):
            if entry.hold in ended:
                ended.discard(entry.hold)  # begun and ended in one batch: it never was open on disk
            else:
                rows.append(
                    (
                        hold.id,
                        entry.path.id,
                        entry.tokens,
                        entry.cost_nano,
                        hold.owner,
                        hold.expires_at_s,
                        context_text(hold.record),
                    )
                )
        columns = ("hold", "path", "tokens", "cost_nano", "owner", "expires_at_s", "record")
        insert(self._writer, "ledger_holds", columns, rows)
        extended = [(entry.tokens, entry.cost_nano, entry.hold) for entry in entries if entry.kind == "extend"]
        if extended:
            self._writer.executemany(
                "UPDATE ledger_holds SET tokens = tokens + ?, cost_nano = cost_nano + ? WHERE hold = ?", extended
            )
        for some in chunks(list(ended)):
            self._writer.execute(f"DELETE FROM ledger_holds WHERE hold IN ({marks(len(some))})", some)

    def close(self) -> None:
        """End the epoch."""
        with suppress(sqlite3.Error):  # of a dead process this is noted by the next start
            if self._sequence:
                self._writer.execute(_NOTE, (head_name(self._owner), self._sequence))
            self._writer.execute(
                "UPDATE ledger_owners SET ended_at_s = max(seen_at_s, started_at_s) WHERE id = ?", (self._owner,)
            )
        self._log.close()
        self._writer.close()
        self._lock.close()

    def close_side(self) -> None:
        """Close what reads, in its own thread: another one might close it in the middle of a query."""
        self._side.close()


def write_entries(db: Any, owner: int, sequence: int, previous: str, entries: list[Entry]) -> str:
    """Apply entries: they and their batch, and the balances. Answers with the hash of the batch; `previous`: of the one
    before it.
    """
    rows: list[tuple[object, ...]] = [
        (sequence, e.kind, e.hold, e.step, e.path.id, e.tokens, e.cost_nano, e.released_tokens,
         e.released_cost_nano, owner, e.at_s)
        for e in entries
    ]  # fmt: skip
    digest = next_hash(previous, rows)
    insert(db, "ledger_entries", _ENTRY, rows)
    db.executemany(
        _ADD_TO_BALANCE,
        [
            (t.granted, t.held, t.used, t.overdraft, t.limited, t.changes, t.apart, balance_id)
            for balance_id, t in _totals(entries).items()
        ],
    )
    db.execute(
        "INSERT INTO ledger_batches (owner, sequence, entries, hash) VALUES (?, ?, ?, ?)",
        (owner, sequence, len(entries), digest),
    )
    return digest


def _only_one(path: str) -> TextIO:
    """A lock that ends with the process, however it ends."""
    FilePath(path).parent.mkdir(parents=True, exist_ok=True)
    lock = open(os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600), "w")  # noqa: SIM115  (held for the store's life)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        reason = "another process serves from it; several processes need PostgreSQL (`store.url`)"
        raise StoreFailed(f"{path}: {reason}") from None
    return lock


def _failure(db: Any, error: Exception) -> StoreBusy | StoreFailed:
    """Undo, and say whether trying again makes sense."""
    with suppress(sqlite3.Error):
        if db.in_transaction:
            db.execute("ROLLBACK")
    reason = getattr(error, "sqlite_errorname", "")
    if reason.startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL")):
        return StoreBusy(reason)
    return StoreFailed(f"{reason or type(error).__name__}: {error}")


def _path_id(db: Any, balances: Sequence[Balance]) -> int:
    key = ",".join(str(balance.id) for balance in balances)
    db.execute("INSERT INTO ledger_paths (balances) VALUES (?) ON CONFLICT (balances) DO NOTHING", (key,))
    return _one(db, "SELECT id FROM ledger_paths WHERE balances = ?", (key,))


class _BalanceTotal(Figures):
    """What entries add to a balance: to its figures, and to what stands of its limit."""

    def __init__(self) -> None:
        super().__init__()
        self.limited = 0
        self.changes = 0
        self.apart = 0


class _Sum:
    """What entries of one kind on one path add up to."""

    def __init__(self, kind: Kind, path: Path) -> None:
        self.kind: Kind = kind
        self.path = path
        self.tokens = 0
        self.cost_nano = 0
        self.released_tokens = 0
        self.released_cost_nano = 0


def _totals(entries: list[Entry]) -> dict[int, _BalanceTotal]:
    """What entries add to each balance. Nearly all are of few kinds and paths, so those are summed first."""
    sums: dict[tuple[str, int], _Sum] = {}
    totals: dict[int, _BalanceTotal] = {}
    for entry in entries:
        key = entry.kind, entry.path.id
        known = sums.get(key)
        if known is None:
            known = sums[key] = _Sum(entry.kind, entry.path)
        known.tokens += entry.tokens
        known.cost_nano += entry.cost_nano
        known.released_tokens += entry.released_tokens
        known.released_cost_nano += entry.released_cost_nano
        if entry.kind == "grant" or entry.kind == "withdraw":
            _add_limit(totals, entry)
    for some in sums.values():
        for balance in some.path.balances:
            total = totals.get(balance.id)
            if total is None:
                total = totals[balance.id] = _BalanceTotal()
            if balance.unit == TOKENS:
                total.add(some.kind, some.tokens, some.released_tokens)
            else:
                total.add(some.kind, some.cost_nano, some.released_cost_nano)
    return totals


def _add_limit(totals: dict[int, _BalanceTotal], entry: Entry) -> None:
    """What the ledger grants by itself, `ACCOUNT@START`, is what the account's limit amounts to."""
    for balance in entry.path.balances:
        if entry.hold.startswith(f"{balance.account}@"):
            total = totals.setdefault(balance.id, _BalanceTotal())
            amount = entry.tokens if balance.unit == TOKENS else entry.cost_nano
            total.limited += amount if entry.kind == "grant" else -amount
            total.changes += 1
            total.apart += entry.apart


def _ids(path: str) -> list[int]:
    return [int(each) for each in path.split(",")]


def _hold(row: list[Any], balances: list[Balance]) -> HoldState:
    path = Path(row[1], tuple(balances))
    return HoldState(row[0], path, row[2], row[3], row[4], row[5], row[6], Amount(row[7], row[8]))


def _one(db: Any, sql: str, values: tuple[object, ...] = ()) -> int:
    return int(db.execute(sql, values).fetchone()[0])
