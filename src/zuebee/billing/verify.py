"""Does the ledger in a database keep its promises? Reads only, one snapshot, at any time, beside a running gateway.

Checked are the invariants I1 to I14 (docs/billing.md) as far as tables can show them; I7 and I12 say what a caller
was told, which no table knows: the crash proofs and the property tests see to those (docs/proofs.md).
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from sqlalchemy import Connection, text

from zuebee.billing.verify_entries import (
    BalanceRow,
    BatchRow,
    Chain,
    EntryRow,
    Fold,
    HoldRow,
    Violation,
    odd_fields,
    table_violations,
)
from zuebee.contracts.chain import HEAD
from zuebee.kit import clock

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
