"""The part of a settling transaction on SQLite that is not the ledger: usage records, totals of days, the outbox."""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import groupby
from typing import Any

from zuebee.ledger import usage_rows
from zuebee.ledger.operations import Record
from zuebee.ledger.port import Room
from zuebee.ledger.usage_rows import AT_S, MAX_NAMES, Totals, Unbilled

# Many rows with few statements, on SQLite: each one lets go of the interpreter and must win it back.

ROWS_PER_STATEMENT = 100

Row = tuple[Any, ...]


def insert(db: Any, table: str, columns: tuple[str, ...], rows: Sequence[Row]) -> int:
    """Add rows; the id of the last one, and those before it have the ids before. 0 for no rows."""
    last = 0
    for some in chunks(rows):
        values: list[object] = []
        for row in some:
            values += row
        last = db.execute(_insert(table, columns, len(some)), values).lastrowid
    return last


def marks(count: int) -> str:
    """So many placeholders."""
    return ",".join("?" * count)


def chunks(rows: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """As many at a time as go into one statement."""
    return (rows[start : start + ROWS_PER_STATEMENT] for start in range(0, len(rows), ROWS_PER_STATEMENT))


@cache
def _insert(table: str, columns: tuple[str, ...], rows: int) -> str:
    row = f"({marks(len(columns))})"
    return f"INSERT INTO {table} ({','.join(columns)}) VALUES {','.join([row] * rows)}"


CLEANING_INTERVAL_S = 3600.0
CLEANED_AT_ONCE = 10_000

_COLUMNS = (*usage_rows.COLUMNS, "currency")
_ADD_TO_DAY = """
INSERT INTO usage_days (key_id, day, requests, prompt_tokens, completion_tokens, cost_nano) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key_id, day) DO UPDATE SET requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens, cost_nano = cost_nano + excluded.cost_nano
"""
_ADD_TO_UNBILLED = """
INSERT INTO unbilled_usage (organization_id, month, user_id, model, requests, prompt_tokens, cached_tokens,
    completion_tokens, cost_nano, currency) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (organization_id, month, user_id, model, currency) DO UPDATE SET requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens, cached_tokens = cached_tokens + excluded.cached_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens, cost_nano = cost_nano + excluded.cost_nano
"""
_NAMES = "SELECT DISTINCT model FROM unbilled_usage WHERE organization_id = ? AND month = ? LIMIT ?"
# In the order of records: the cleaning relies on it. CROSS JOIN keeps the reporters in the inner loop.
_ADD_EVENTS = """
INSERT INTO usage_outbox (event_id, reporter, record, currency, created_at_s, due_at_s)
SELECT r.request_id, n.column1, r.id, ?, r.at_s, r.at_s FROM usage_records r CROSS JOIN (VALUES {}) n
WHERE r.id BETWEEN ? AND ? ORDER BY r.id
"""
_OLD = """
SELECT min(id), max(id) FROM (SELECT id FROM usage_records WHERE id > ? AND at_s < ? ORDER BY id LIMIT ?)
"""
# Ids grow in both tables together, for there is one writer: an event after the first of a later record tells of a later
# one as well. So this reads no more of the outbox than what is as old as the records that go.
_FORGET = """
DELETE FROM usage_records WHERE id BETWEEN ?1 AND ?2 AND at_s < ?3 AND id NOT IN (
    SELECT record FROM usage_outbox WHERE id < coalesce((
        SELECT id FROM usage_outbox WHERE record > ?2 ORDER BY id LIMIT 1), 9223372036854775807))
"""


class UsageRows:
    """Writes for one store. `room` says which events may be kept; records older than `retention_s` go, 0: none do."""

    def __init__(
        self,
        reporters: Sequence[str],
        currency: str,
        retention_s: float,
        room: Room,
        cleaned_at_once: int = CLEANED_AT_ONCE,
    ) -> None:
        self._cleaned_at_once = cleaned_at_once
        self._reporters = reporters  # read each time, for it may change
        self._add_events: dict[int, str] = {}  # by how many reporters there are
        self._currency = currency
        self._retention_s = retention_s
        self._room = room
        self._unbilled: Unbilled | None = None
        self._cleaned_at_s = 0.0
        self._cleaned_to = 0

    def write(self, db: Any, records: list[Record]) -> None:
        """Add records, and what they add to the totals, within the transaction of `db`."""
        if not records:
            return
        rows: list[Row] = [each.row for each in records]
        last = insert(db, "usage_records", _COLUMNS, [(*row, self._currency) for row in rows])
        db.executemany(_ADD_TO_DAY, usage_rows.days(rows))
        self._write_unbilled(db, rows)
        if self._reporters:
            self._write_outbox(db, records, last - len(records) + 1)
        self._clean(db, rows[-1][AT_S])

    def _write_unbilled(self, db: Any, rows: list[Row]) -> None:
        if self._unbilled is None:
            self._unbilled = Unbilled(
                lambda organization, month: [
                    name for (name,) in db.execute(_NAMES, (organization, month, MAX_NAMES)).fetchall()
                ]
            )
        totals = Totals(self._unbilled)
        for row in rows:
            totals.add(row)
        if added := totals.rows():
            db.executemany(_ADD_TO_UNBILLED, [(*row, self._currency) for row in added])

    def _write_outbox(self, db: Any, records: list[Record], first: int) -> None:
        """The records have the ids from `first` on."""
        reporters = tuple(self._reporters)
        room, count, added = self._room, len(reporters), 0
        if not count:
            return
        statement = self._add_events.get(count)
        if statement is None:
            statement = self._add_events[count] = _ADD_EVENTS.format(",".join(["(?)"] * count))
        kept = [room.room_for(count, billed=each.billed) for each in records]
        at = first
        for fits, run in groupby(kept):
            length = sum(1 for _ in run)
            if fits:
                db.execute(statement, (self._currency, *reporters, at, at + length - 1))
                added += length * count
            at += length
        late = [(each.event_id, record) for record, each in enumerate(records, first) if each.event_id != each.row[0]]
        if late:
            db.executemany("UPDATE usage_outbox SET event_id = ? WHERE record = ?", late)
        room.added(added)

    def _clean(self, db: Any, now_s: float) -> None:
        """Remove a part of what is too old to be kept, so that no transaction takes long; but not what an event in the
        outbox is still to be made of.
        """
        if not self._retention_s or now_s - self._cleaned_at_s <= CLEANING_INTERVAL_S:
            return
        before_s = now_s - self._retention_s
        first, last = db.execute(_OLD, (self._cleaned_to, before_s, self._cleaned_at_once)).fetchone()
        if first is None:
            self._cleaned_at_s, self._cleaned_to = now_s, 0
            return
        db.execute(_FORGET, (first, last, before_s))
        self._cleaned_to = last
