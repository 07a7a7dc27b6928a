"""Does the ledger in a database keep its promises? Reads only, one snapshot, at any time, beside a running gateway.

Checked are the invariants I1 to I14 (docs/billing.md) as far as tables can show them; I7 and I12 say what a caller
was told, which no table knows: the crash proofs and the property tests see to those (docs/proofs.md).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from zuebee.contracts.usage import HEAD
from zuebee.ledger.invariants import (
    BalanceRow,
    BatchRow,
    Chain,
    EntryRow,
    Fold,
    HoldRow,
    Violation,
    effect,
    odd_fields,
    table_violations,
)
from zuebee.lib import clock
from zuebee.lib.sql.database import Database, DatabaseError, database_url
from zuebee.lib.sql.dsn import reason
from zuebee.schema.currency import find

SWEEP_S = 60.0
"""A hold may outlive its expiry for this long: then a running gateway has to have expired it."""

ROWS_AT_ONCE = 2000

R = TypeVar("R")

_BALANCES = (
    "SELECT id, account, unit, period, starts_at_s, granted, held, used, overdraft, limited, owed"
    " FROM ledger_balances ORDER BY id"
)
_PATHS = "SELECT id, balances FROM ledger_paths ORDER BY id"
_ENTRIES = (
    "SELECT id, batch, kind, hold, step, path, tokens, cost_nano, released_tokens, released_cost_nano, owner, at_s"
    " FROM ledger_entries ORDER BY id"
)
_BATCHES = "SELECT owner, sequence, entries, hash FROM ledger_batches ORDER BY id"
_NOTED = f"SELECT name, value FROM counters WHERE name LIKE '{HEAD}%' ORDER BY name"
_HOLDS = (
    "SELECT hold, path, tokens, cost_nano, expires_at_s, owner, owed_tokens, owed_cost_nano FROM ledger_holds"
    " ORDER BY hold"
)

_REPEATED = """
SELECT hold, step, count(*) FROM ledger_entries WHERE step IS NOT NULL GROUP BY hold, step HAVING count(*) > 1
"""
_LATE = """
SELECT e.hold, e.kind, r.kind FROM ledger_entries e LEFT JOIN ledger_entries r ON r.hold = e.hold AND r.step = 1
WHERE e.kind IN ('overdraft', 'adjust') AND e.hold NOT LIKE '%/before'
AND (r.kind IS NULL OR r.kind = 'void' OR (e.kind = 'adjust' AND r.kind <> 'expire'))
"""
_OVERDUE = """
SELECT hold, expires_at_s FROM ledger_holds WHERE expires_at_s < :late_s AND (:runs = 1
OR EXISTS (SELECT 1 FROM ledger_owners WHERE ended_at_s = 0 AND seen_at_s > :late_s AND started_at_s < :late_s))
ORDER BY hold
"""
# What each resolved hold was charged, beside what its usage records say.
_USAGE = """
SELECT c.hold, c.tokens, c.cost_nano, c.last_step, u.records, u.tokens, u.cost_nano
FROM (
    SELECT hold, sum(tokens) AS tokens, sum(cost_nano) AS cost_nano, max(step) AS last_step
    FROM ledger_entries WHERE kind IN ('post', 'void', 'expire', 'overdraft', 'adjust')
    GROUP BY hold HAVING min(step) = 1 AND max(at_s) >= :records_since_s
) c LEFT JOIN (
    SELECT request_id, count(*) AS records, sum(cost_nano) AS cost_nano,
        sum(coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0)) AS tokens
    FROM usage_records GROUP BY request_id
) u ON u.request_id = c.hold
WHERE u.records IS NULL OR u.records > c.last_step OR u.tokens <> c.tokens OR u.cost_nano <> c.cost_nano
"""
# Who has had a budget for an hour by then has been charged for what it used. Whatever the key's budget is called in
# the ledger, it was held in before.
_UNCHARGED = """
SELECT DISTINCT r.request_id, r.key_id FROM usage_records r JOIN keys k ON k.id = r.key_id JOIN budgets b
ON b.scope = 'key' AND b.scope_id = k.lineage AND r.at_s > b.created_at_s + 3600
WHERE r.at_s >= :records_since_s
AND (r.cost_nano > 0 OR coalesce(r.prompt_tokens, 0) + coalesce(r.completion_tokens, 0) > 0)
AND EXISTS (SELECT 1 FROM ledger_balances a WHERE a.account = b.account)
AND NOT EXISTS (SELECT 1 FROM ledger_entries e WHERE e.hold = r.request_id AND e.step = 0)
ORDER BY r.request_id
"""
_EVENTS_TWICE = """
SELECT event_id, reporter, count(*) FROM usage_outbox GROUP BY event_id, reporter HAVING count(*) > 1
"""
# The event of a late settlement is `ID/late`.
_EVENTS_OF_NOTHING = """
SELECT o.event_id, o.reporter FROM usage_outbox o LEFT JOIN usage_records u ON u.request_id =
    CASE WHEN o.event_id LIKE '%/late' THEN substr(o.event_id, 1, length(o.event_id) - 5) ELSE o.event_id END
    AND (o.record = 0 OR o.record = u.id)
WHERE u.id IS NULL AND o.created_at_s >= :records_since_s
"""


COUNTED = 10_000
"""Entries between two words about how far it is."""


def verify(
    connection: Connection,
    *,
    sweep_s: float = SWEEP_S,
    records_since_s: float = 0.0,
    said: Callable[[str], None] = lambda _: None,
) -> Iterator[Violation]:
    """Every violation, in one snapshot of a connection whose transaction has just begun. `said` hears how far it is.

    `records_since_s`: usage records from before (seconds since 1970) may have been removed. Memory grows with accounts
    and open holds, not with entries. May raise SQLAlchemyError.
    """
    begin_snapshot(connection)
    balances: list[BalanceRow] = []
    for balance in _rows(connection, _BALANCES, BalanceRow._make):
        if odd := odd_fields(balance):
            yield Violation("I1", str(balance.account), f"balance {balance.id}: {odd}")
        else:
            balances.append(balance)
    paths = list(_rows(connection, _PATHS, _path))
    yield from table_violations(balances, paths)
    yield from _entries(connection, Fold(balances, paths), said)
    for hold, step, count in _rows(connection, _REPEATED, tuple):
        invariant = "I3" if step == 1 else "I13"
        yield Violation(invariant, hold, f"has {count} entries with step {step}, which happens once")
    for hold, kind, resolution in _rows(connection, _LATE, tuple):
        yield Violation("I5", hold, f"has an {kind} entry, but its resolution is {resolution or 'missing'}")
    yield from overdue(connection, sweep_s)
    said("usage records")
    yield from _usage(connection, records_since_s)


def begin_snapshot(connection: Connection) -> None:
    """Let all that this transaction reads be of one moment."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN")  # its driver begins none for reading
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def store_time_s(connection: Connection) -> float:
    """The clock that holds expire by, in seconds since 1970: the database server's, or this machine's for SQLite."""
    if connection.dialect.name == "sqlite":
        return clock.wall_s()
    return float(connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())").scalar_one())


def overdue(connection: Connection, sweep_s: float = SWEEP_S, *, runs: bool = False) -> Iterator[Violation]:
    """I4: holds that a running gateway should have expired. While none runs, nobody can; `runs`: one does for sure."""
    now_s = store_time_s(connection)
    for hold, expires_at_s in _rows(connection, _OVERDUE, tuple, late_s=now_s - sweep_s, runs=int(runs)):
        yield Violation("I4", hold, f"is open, and expired {now_s - expires_at_s:.0f} s ago")


def _entries(connection: Connection, fold: Fold, said: Callable[[str], None]) -> Iterator[Violation]:
    chain = Chain(_rows(connection, _BATCHES, BatchRow._make), list(_noted(connection)))
    has_gaps = connection.dialect.name != "sqlite"  # elsewhere a transaction that fails leaves some
    last = 0
    for count, entry in enumerate(_rows(connection, _ENTRIES, EntryRow._make)):
        if count % COUNTED == 0:
            said(f"{count:,} entries")
        if not has_gaps and entry.id != last + 1:
            yield Violation("I5", "", f"the entries {last + 1} to {entry.id - 1} are gone")
        last = entry.id
        if odd := odd_fields(entry):
            yield Violation("I5", str(entry.hold), f"entry {entry.id}: {odd}")
            continue
        yield from fold.add(entry)
        yield from chain.add(entry)
    yield from chain.finish()
    holds: list[HoldRow] = []
    for hold in _rows(connection, _HOLDS, HoldRow._make):
        if odd := odd_fields(hold):
            yield Violation("I3", str(hold.hold), f"it is among the open holds, but {odd}")
        else:
            holds.append(hold)
    yield from fold.finish(holds)


def _usage(connection: Connection, records_since_s: float) -> Iterator[Violation]:
    for row in _rows(connection, _USAGE, tuple, records_since_s=records_since_s):
        hold, tokens, cost_nano, last_step, records, recorded_tokens, recorded_cost_nano = row
        if records is None:
            yield Violation("I8", hold, "was resolved, but has no usage record")
        elif records > last_step:
            yield Violation("I6", hold, f"has {records} usage records")
        else:
            text = f"was charged {tokens} tokens and {cost_nano}, its usage record says {recorded_tokens}"
            yield Violation("I6", hold, f"{text} and {recorded_cost_nano}")
    for hold, key_id in _rows(connection, _UNCHARGED, tuple, records_since_s=records_since_s):
        text = f"has a usage record of {key_id}, which has a budget, but no entries"
        yield Violation("I6", hold, f"{text} (unless the store was put back to a back-up while it ran)")
    for event, reporter, count in _rows(connection, _EVENTS_TWICE, tuple):
        yield Violation("I8", event, f"stands {count} times in the outbox for {reporter}")
    for event, reporter in _rows(connection, _EVENTS_OF_NOTHING, tuple, records_since_s=records_since_s):
        yield Violation("I8", event, f"stands in the outbox for {reporter}, but there is no such usage record")


def _noted(connection: Connection) -> Iterator[tuple[int, int]]:
    for name, value in _rows(connection, _NOTED, tuple):
        owner = str(name).removeprefix(HEAD)
        if owner.isascii() and owner.isdigit():
            yield int(owner), int(value)


def _rows(connection: Connection, sql: str, make: Callable[[Any], R], **values: object) -> Iterator[R]:
    result = connection.execute(text(sql), values, execution_options={"yield_per": ROWS_AT_ONCE})
    for some in result.partitions():
        for row in some:
            yield make(row)


def _path(row: Any) -> tuple[int, str]:
    return int(row[0]), str(row[1])


# The part of `verify` that is cheap enough for a gauge: what is new since the last time, in a few statements.

_SHIFT = 1 << 26
"""Sums are made of halves, for a sum of whole amounts could exceed 64 bits."""

SLICE: Final = 1_000_000
"""Entries that one call reads at most, twice as many at the end: on a slow disk that takes a few seconds."""

_HALVES = "sum({0} / :shift), sum({0} % :shift)"
_AMOUNTS = ("tokens", "cost_nano", "released_tokens", "released_cost_nano")
_FIGURES = ("granted", "held", "used", "overdraft")

_LAST = "SELECT coalesce(max(id), 0) FROM ledger_entries"
_NEW_ENTRIES = (
    f"SELECT path, kind, max(id), {', '.join(_HALVES.format(name) for name in _AMOUNTS)} FROM ledger_entries"
    " WHERE id > :last AND id <= :to GROUP BY path, kind"
)
_SUMS_OF_BALANCES = f"SELECT {', '.join(_HALVES.format(name) for name in _FIGURES)} FROM ledger_balances"
_BAD_BALANCES = """
SELECT account, granted, held, used, overdraft FROM ledger_balances
WHERE held < 0 OR used < 0 OR granted < 0 OR overdraft < 0 OR used + held > granted + overdraft ORDER BY id LIMIT 10
"""
_HELD = ("held", "owed")
_HELD_BY_BALANCES = f"SELECT {', '.join(_HALVES.format(name) for name in _HELD)} FROM ledger_balances"
_OF_HOLDS = ("tokens", "cost_nano", "owed_tokens", "owed_cost_nano")
_SUMS_OF_HOLDS = f"SELECT path, {', '.join(_HALVES.format(name) for name in _OF_HOLDS)} FROM ledger_holds GROUP BY path"


class QuickCheck:
    """I1 by sums over all accounts, I2, I4, and I11: what is held is what the open holds explain.

    For use inside a running gateway. Remembers sums from call to call, so that a call costs what has happened since.
    One call at a time.
    """

    def __init__(self, slice_entries: int = SLICE) -> None:
        self._slice = slice_entries
        self._last_entry = 0
        self._sums = [0, 0, 0, 0]
        self._again = False
        self._weights: dict[int, tuple[int, int]] = {}  # path: how many of its balances count tokens, and money

    def check(self, connection: Connection) -> list[Violation] | None:
        """The violations seen now; None: there are more entries than one call reads, so call again at once.

        The connection's transaction has just begun. May raise SQLAlchemyError, and then goes on from where it was.
        """
        begin_snapshot(connection)
        last = int(connection.execute(text(_LAST)).scalar_one())
        if not self._add_up(connection, last):
            return None
        found = list(self._sums_of_entries(connection))
        if found and not self._again:
            # Of several writers one may have taken its ids earlier and committed later: count anew before alarming.
            self._again = True
            self._last_entry, self._sums = 0, [0, 0, 0, 0]
            if not self._add_up(connection, last):
                return None
            found = list(self._sums_of_entries(connection))
        self._again = False
        for row in connection.execute(text(_BAD_BALANCES)):
            found.append(Violation("I2", row[0], f"granted, held, used, overdraft are {tuple(row[1:])}"))
        found += self._held(connection)
        found += list(overdue(connection, runs=True))[:10]
        return found

    def _add_up(self, connection: Connection, last: int) -> bool:
        """Add what is new, up to the entry `last`; False: not all of it. The newest are read together, for ids near
        the end may still be missing.
        """
        to = last if last - self._last_entry <= 2 * self._slice else self._last_entry + self._slice
        sums = list(self._sums)
        rows = connection.execute(text(_NEW_ENTRIES), {"last": self._last_entry, "to": to, "shift": _SHIFT}).fetchall()
        newest = self._last_entry
        for path, kind, last_of_path, *halves in rows:
            newest = max(newest, last_of_path)
            tokens, cost, released_tokens, released_cost = _wholes(halves)
            by_tokens, by_money = self._weight(connection, path)
            amount = tokens * by_tokens + cost * by_money
            released = released_tokens * by_tokens + released_cost * by_money
            for index, more in enumerate(effect(kind, amount, released)):
                sums[index] += more
        self._last_entry, self._sums = (newest if to == last else to), sums
        return to == last

    def _sums_of_entries(self, connection: Connection) -> Iterator[Violation]:
        found = _wholes(connection.execute(text(_SUMS_OF_BALANCES), {"shift": _SHIFT}).one())
        for name, expected, actual in zip(_FIGURES, self._sums, found, strict=True):
            if expected != actual:
                yield Violation("I1", "", f"all accounts together have {actual} {name}, the entries say {expected}")

    def _held(self, connection: Connection) -> Iterator[Violation]:
        explained = [0, 0]
        for path, *halves in connection.execute(text(_SUMS_OF_HOLDS), {"shift": _SHIFT}).fetchall():
            tokens, cost, owed_tokens, owed_cost = _wholes(halves)
            by_tokens, by_money = self._weight(connection, path)
            explained[0] += tokens * by_tokens + cost * by_money
            explained[1] += owed_tokens * by_tokens + owed_cost * by_money
        found = _wholes(connection.execute(text(_HELD_BY_BALANCES), {"shift": _SHIFT}).one())
        for name, expected, actual in zip(_HELD, explained, found, strict=True):
            if expected != actual:
                told = f"of all accounts together {actual} is {name}, the open holds explain {expected}"
                yield Violation("I11", "", told)

    def _weight(self, connection: Connection, path: int) -> tuple[int, int]:
        if path not in self._weights:
            ids = connection.execute(text("SELECT balances FROM ledger_paths WHERE id = :id"), {"id": path}).scalar()
            units = [
                connection.execute(text("SELECT unit FROM ledger_balances WHERE id = :id"), {"id": int(one)}).scalar()
                for one in str(ids or "").split(",")
                if one
            ]
            by_tokens = units.count("tokens")
            self._weights[path] = (by_tokens, len(units) - units.count(None) - by_tokens)
        return self._weights[path]


def _wholes(halves: Any) -> list[int]:
    return [int(high or 0) * _SHIFT + int(low or 0) for high, low in zip(halves[::2], halves[1::2], strict=True)]


# What an operator asks the ledger: balances, last entries, open holds. Reads only; any SQLAlchemyError passes.

TIMEOUT_S = 24 * 3600.0
"""For a check of a very large ledger; the report is written while it runs."""

_BALANCES_SHOWN = """
SELECT id, account, unit, period, starts_at_s, granted, used, held, overdraft FROM ledger_balances
WHERE account = :account ORDER BY starts_at_s DESC LIMIT :shown
"""
_LAST_ENTRIES = """
SELECT e.id, e.at_s, e.kind, e.hold, e.tokens, e.cost_nano, e.released_tokens, e.released_cost_nano
FROM ledger_entries e WHERE e.path IN
    (SELECT p.id FROM ledger_paths p WHERE ',' || p.balances || ',' LIKE :balance)
ORDER BY e.id DESC LIMIT :shown
"""
_HOLDS_SHOWN = """
SELECT hold, tokens, cost_nano, progress_tokens, progress_cost_nano, owner, expires_at_s
FROM ledger_holds ORDER BY expires_at_s, hold LIMIT :shown
"""
_HEADS = """
SELECT owner, sequence, hash FROM ledger_batches b
WHERE sequence = (SELECT max(sequence) FROM ledger_batches WHERE owner = b.owner) ORDER BY owner
"""
_HASH = "SELECT hash FROM ledger_batches WHERE owner = :owner AND sequence = :sequence"


class ChainHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The newest batch of an owner. Its hash stands for all entries of that owner up to it."""

    owner: int
    sequence: int
    hash: str


@contextmanager
def reading(store: str) -> Iterator[Connection]:
    """A connection to a SQLite file or a postgresql:// URL, closed at the end. Raises DatabaseError, or ValueError if
    it is no URL.
    """
    url = database_url("postgres" if "://" in store else "sqlite", store)
    database = Database(url, timeout_s=TIMEOUT_S, max_connections=1)
    try:
        with database.engine.begin() as connection:
            yield connection
    except SQLAlchemyError as error:
        raise DatabaseError(reason(error)) from error
    finally:
        database.close()


def violations(
    connection: Connection, *, sweep_s: float, records_since_s: float, said: Callable[[str], None] = lambda _: None
) -> Iterator[Violation]:
    """What is wrong in the books of a store."""
    return verify(connection, sweep_s=sweep_s, records_since_s=records_since_s, said=said)


def currency(connection: Connection) -> str:
    """That of all money in the store; empty if nobody has said it yet, or a version before schema 5 wrote it."""
    known = inspect(connection).has_table("store_facts")
    return find(connection) if known else ""


def count_entries(connection: Connection) -> int:
    """How many entries the ledger has."""
    return int(connection.execute(text("SELECT count(*) FROM ledger_entries")).scalar_one())


def account(connection: Connection, name: str, shown: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The balances of an account, newest period first, and the last entries of the newest. Empty: there is none."""
    begin_snapshot(connection)
    balances = _dicts(connection, _BALANCES_SHOWN, account=name, shown=shown)
    for balance in balances:
        balance["available"] = balance["granted"] - balance["used"] - balance["held"]
    if not balances:
        return [], []
    return balances, _dicts(connection, _LAST_ENTRIES, balance=f"%,{balances[0]['id']},%", shown=shown)


def open_holds(connection: Connection, shown: int) -> tuple[list[dict[str, Any]], int]:
    """The holds that expire first, each with `expires_in_s`, and how many there are in all."""
    begin_snapshot(connection)
    now_s = store_time_s(connection)
    found = _dicts(connection, _HOLDS_SHOWN, shown=shown)
    for hold in found:
        hold["expires_in_s"] = round(hold["expires_at_s"] - now_s, 3)
    return found, int(connection.execute(text("SELECT count(*) FROM ledger_holds")).scalar_one())


def heads_of(connection: Connection) -> list[ChainHead]:
    """The ends of the chains of all owners, to be kept elsewhere: who changes the ledger later cannot change those."""
    return [ChainHead(*row) for row in connection.execute(text(_HEADS))]


def heads_text(heads: Iterable[ChainHead]) -> str:
    """Heads as they are kept: one JSON object a line."""
    return "".join(msgspec.json.encode(head).decode() + "\n" for head in heads)


def heads_from(kept: str) -> list[ChainHead]:
    """Heads that were kept. Raises ValueError."""
    return [msgspec.json.decode(line, type=ChainHead) for line in kept.splitlines() if line.strip()]


def missing(connection: Connection, kept: Iterable[ChainHead]) -> Iterator[Violation]:
    """Which of these heads are not in their chains any more. Whether the entries give the hashes says `verify`."""
    for head in kept:
        values = {"owner": head.owner, "sequence": head.sequence}
        found = connection.execute(text(_HASH), values).scalar()
        if found is None:
            yield Violation("I5", "", f"owner {head.owner}: batch {head.sequence} was there once, and is gone")
        elif found != head.hash:
            yield Violation("I5", "", f"owner {head.owner}: batch {head.sequence} once had another hash")


def _dicts(connection: Connection, sql: str, **values: object) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(text(sql), values).mappings()]
