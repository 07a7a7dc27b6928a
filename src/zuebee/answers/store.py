"""The table of kept answers, on SQLite and PostgreSQL. Each function is one transaction of its caller.

A row is `running` while its request runs: then `expires_at_s` is the end of a lease that its process renews. A lease
that ran out says that the request may have run, and what became of it is `lost`: it stays so for as long as an answer
would have been kept, and is never run again. After the run a row is `done`, `too_large` or `lost` until it expires. Who
may change a running row is told by `owner`. The time is the database's where several machines use it.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Connection, Double, cast, delete, extract, func, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite

from zuebee.contracts.answers import Ticket
from zuebee.kit import clock
from zuebee.schema.tables import kept_answers as rows

SWEEP_ROWS = 500
TRIES = 3
"""A row that stood in the way may be gone by the time it is read."""

State = Literal["running", "done", "too_large", "lost"]


class Row(NamedTuple):
    """What is known of a key, and for how long."""

    fingerprint: str
    state: str
    owner: int
    answer: bytes | None
    left_s: float


def _now(connection: Connection) -> ColumnElement[float]:
    if connection.dialect.name == "postgresql":
        return cast(extract("epoch", func.clock_timestamp()), Double)
    return literal(clock.wall_s(), Double)


def _gone(now: ColumnElement[float], retention_s: float) -> ColumnElement[bool]:
    return (rows.c.expires_at_s <= now - retention_s) | ((rows.c.state != "running") & (rows.c.expires_at_s <= now))


def read(connection: Connection, row_id: str, retention_s: float) -> Row | None:
    """The row of a key; None if there is none, or it has expired."""
    now = _now(connection)
    columns = (rows.c.fingerprint, rows.c.state, rows.c.owner, rows.c.answer, rows.c.expires_at_s - now)
    found = connection.execute(select(*columns).where(rows.c.id == row_id, ~_gone(now, retention_s))).one_or_none()
    if found is None:
        return None
    row = Row(*found)
    return row._replace(state="lost") if row.state == "running" and row.left_s <= 0 else row


def claim(connection: Connection, ticket: Ticket, lease_s: float, retention_s: float) -> Row | None:
    """Enter a running row, in the place of an expired one if need be; the row that stands in the way, if one does."""
    now = _now(connection)
    connection.execute(delete(rows).where(rows.c.id == ticket.id, _gone(now, retention_s)))
    insert: Any = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    enter = (
        insert(rows)
        .values(
            id=ticket.id, fingerprint=ticket.fingerprint, state="running", owner=ticket.owner, answer=None,
            created_at_s=now, expires_at_s=now + lease_s,
        )
        .on_conflict_do_nothing()
        .returning(rows.c.id)
    )  # fmt: skip
    for _ in range(TRIES):
        if connection.execute(enter).first() is not None:
            return None
        if (other := read(connection, ticket.id, retention_s)) is not None:
            return other
    return Row(ticket.fingerprint, "running", 0, None, 1.0)


def finish(connection: Connection, ticket: Ticket, state: State, answer: bytes | None, retention_s: float) -> bool:
    """What became of it; False if the row is not its own."""
    changed = connection.execute(
        update(rows)
        .where(rows.c.id == ticket.id, rows.c.owner == ticket.owner)
        .values(state=state, answer=answer, expires_at_s=_now(connection) + retention_s)
    )
    return bool(changed.rowcount)


def remove(connection: Connection, ticket: Ticket) -> None:
    """Take an own row away."""
    connection.execute(delete(rows).where(rows.c.id == ticket.id, rows.c.owner == ticket.owner))


def renew(connection: Connection, owners: Sequence[int], lease_s: float) -> None:
    """Renew the leases of running rows."""
    until = _now(connection) + lease_s
    connection.execute(
        update(rows).where(rows.c.owner.in_(owners), rows.c.state == "running").values(expires_at_s=until)
    )


def sweep(connection: Connection, retention_s: float) -> int:
    """Remove some of the expired rows; how many."""
    gone = _gone(_now(connection), retention_s)
    oldest = select(rows.c.id).where(gone).order_by(rows.c.expires_at_s).limit(SWEEP_ROWS)
    return connection.execute(delete(rows).where(rows.c.id.in_(oldest))).rowcount
