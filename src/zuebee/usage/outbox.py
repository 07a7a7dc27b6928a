"""The outbox: events that somebody must still be told of, one row for each event and reporter.

Whoever settles a request writes its rows, in the settling transaction. A row says of which usage record it tells; the
event is made of that when it is taken. Here rows are read, put off and removed.
"""

import logging
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, case, delete, func, select, tuple_, update

from zuebee.contracts.usage import RECORD_COLUMNS
from zuebee.kit.database import Database
from zuebee.schema.tables import usage_outbox, usage_records
from zuebee.usage import events
from zuebee.usage.delivery import PARKED_AT_S

IDS_PER_STATEMENT = 500
LATE = "/late"
"""After the request's id: the id of the event of what was charged after the hold had expired."""

_log = logging.getLogger("zuebee.usage")

_rows = usage_outbox.c
_parked = _rows.due_at_s >= PARKED_AT_S
_told = [usage_records.c[name] for name in RECORD_COLUMNS]
# An id is given again if records were removed by hand: the request must be the right one, too.
_its_record = (usage_records.c.id == _rows.record) & _rows.event_id.in_(
    [usage_records.c.request_id, usage_records.c.request_id + LATE]
)


Row = tuple[int, str]
"""What names a row for as long as anybody may remember it: its id, and the id of its event."""


class Entry(msgspec.Struct, frozen=True):
    """One row. `payload`: the event, as JSON; `rounds`: how many rounds of attempts failed so far."""

    id: int
    event_id: str
    payload: str
    rounds: int

    @property
    def row(self) -> Row:
        """Its name."""
        return self.id, self.event_id


class Result(msgspec.Struct):
    """What is to be written of a batch: rows that are done, and when the others are due, after how many rounds.

    `revive`: everything of this reporter is due now, parked events too.
    """

    done: list[Row] = []
    put_off: list[tuple[Row, float, int]] = []
    revive: bool = False


class Standing(msgspec.Struct, frozen=True):
    """How one reporter stands: rows that wait, rows that are parked, and when the oldest that waits was made."""

    reporter: str
    waiting: int
    parked: int
    oldest_at_s: float | None


class Outbox:
    """The outbox in the store. `shared`: other processes drain it too. Every method may raise `DatabaseError`.

    `removed`: how many rows `finish` has removed so far.
    """

    def __init__(self, database: Database) -> None:
        self.removed = 0
        self._database = database
        # Several processes drain the same outbox on PostgreSQL: there a row that is taken is put off, for so long that
        # its taker is done or dead. SQLite has one process, which knows by itself what it has taken.
        self.shared = database.engine.dialect.name == "postgresql"

    async def take(self, reporter: str, now_s: float, limit: int, lease_s: float) -> list[Entry]:
        """Up to `limit` rows that are due, oldest first. Nobody else gets them for `lease_s`.

        Rows whose record somebody has removed are parked: there is nothing left to tell.
        """
        return await self._database.run(lambda connection: self._take(connection, reporter, now_s, limit, lease_s))

    def _take(self, connection: Connection, reporter: str, now_s: float, limit: int, lease_s: float) -> list[Entry]:
        query = (
            select(_rows.id, _rows.event_id, _rows.attempts, _rows.record, _rows.payload, _rows.currency, *_told)
            .select_from(usage_outbox.outerjoin(usage_records, _its_record))
            .where(_rows.reporter == reporter, _rows.due_at_s <= now_s)
            .order_by(_rows.due_at_s, _rows.id)
            .limit(limit)
        )
        if self.shared:
            query = query.with_for_update(of=usage_outbox, skip_locked=True)
        entries, empty = [], []
        for row in connection.execute(query):
            payload = _payload(row)
            if payload:
                entries.append(Entry(row[0], row[1], payload, row[2]))
            else:
                empty.append(row[0])
        if self.shared and entries:
            taken = [entry.id for entry in entries]
            connection.execute(update(usage_outbox).where(_rows.id.in_(taken)).values(due_at_s=now_s + lease_s))
        if empty:
            _log.error("%s: %d events are parked, for their usage records were removed", reporter, len(empty))
            connection.execute(update(usage_outbox).where(_rows.id.in_(empty)).values(due_at_s=PARKED_AT_S))
        return entries

    async def next_due_s(self, reporter: str) -> float | None:
        """When the next row of a reporter is due; None if nothing waits."""
        query = select(func.min(_rows.due_at_s)).where(_rows.reporter == reporter, ~_parked)
        return await self._database.run(lambda connection: connection.execute(query).scalar())

    async def finish(self, reporter: str, result: Result, now_s: float) -> None:
        """Write what became of a batch, in one transaction."""
        self.removed += await self._database.run(lambda connection: self._finish(connection, reporter, result, now_s))

    def _finish(self, connection: Connection, reporter: str, result: Result, now_s: float) -> int:
        removed = 0
        for start in range(0, len(result.done), IDS_PER_STATEMENT):
            rows = result.done[start : start + IDS_PER_STATEMENT]
            mine = (_rows.reporter == reporter) & tuple_(_rows.id, _rows.event_id).in_(rows)
            removed += connection.execute(delete(usage_outbox).where(mine)).rowcount
        if result.put_off:
            change = update(usage_outbox).where(_rows.id == bindparam("row"), _rows.event_id == bindparam("event"))
            change = change.values(due_at_s=bindparam("due"), attempts=bindparam("rounds"))
            changes = [
                {"row": row, "event": event_id, "due": due_s, "rounds": rounds}
                for (row, event_id), due_s, rounds in result.put_off
            ]
            connection.execute(change, changes)
        if result.revive:
            _revive(connection, reporter, now_s)
        return removed

    async def is_parked(self, row: Row) -> bool:
        """Whether the row is there and parked."""
        query = select(_rows.id).where(_rows.id == row[0], _rows.event_id == row[1], _parked)
        return await self._database.run(lambda connection: connection.execute(query).first() is not None)

    async def standings(self) -> list[Standing]:
        """How all reporters stand. Reads an index from end to end: about half a second for 5 million rows."""
        return await self._database.run(standings)


def _payload(row: Any) -> str:
    """The event of a row; empty if its record is not there."""
    _, _, _, record, payload, currency, *values = row
    if not record:
        return str(payload)
    return events.event(values, currency) if values[0] is not None else ""


def standings(connection: Connection) -> list[Standing]:
    """See `Outbox.standings`."""
    query = select(
        _rows.reporter,
        func.count(),
        func.sum(case((_parked, 1), else_=0)),
        func.min(case((~_parked, _rows.id))),
    ).group_by(_rows.reporter)
    counted = connection.execute(query.order_by(_rows.reporter)).all()
    first = [row[3] for row in counted if row[3] is not None]
    creation = select(_rows.id, _rows.created_at_s).where(_rows.id.in_(first))
    made = {row.id: row.created_at_s for row in connection.execute(creation)}
    return [
        Standing(reporter, int(rows) - int(parked), int(parked), made.get(oldest))
        for reporter, rows, parked, oldest in counted
    ]


def retry(connection: Connection, reporter: str, now_s: float) -> int:
    """Make all events of a reporter due now, parked ones from the start of the schedule; how many were parked."""
    parked = connection.execute(
        update(usage_outbox).where(_rows.reporter == reporter, _parked).values(due_at_s=now_s, attempts=0)
    )
    _revive(connection, reporter, now_s)
    return int(parked.rowcount)


def discard(connection: Connection, reporter: str) -> int:
    """Remove all events of a reporter; how many there were."""
    return int(connection.execute(delete(usage_outbox).where(_rows.reporter == reporter)).rowcount)


def _revive(connection: Connection, reporter: str, now_s: float) -> None:
    # Without those that nobody tried yet: they are due already, or another process has just taken them.
    put_off = (_rows.reporter == reporter, _rows.due_at_s > now_s, _rows.attempts > 0)
    connection.execute(update(usage_outbox).where(*put_off).values(due_at_s=now_s))
