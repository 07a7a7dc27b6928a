"""The table of kept answers, on SQLite and PostgreSQL. Each function is one transaction of its caller.

A row is `running` while its request runs: then `expires_at_s` is the end of a lease that its process renews. After
that it is `done` or `too_large` until it expires. Who may change a running row is told by `owner`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from zuebee.contracts.answers import Ticket
from zuebee.schema.tables import kept_answers as rows

SWEEP_ROWS = 500


class Row(NamedTuple):
    """What is known of a key."""

    fingerprint: str
    state: str
    owner: int
    answer: bytes | None
    expires_at_s: float


def read(connection: Connection, row_id: str, now_s: float) -> Row | None:
    """The row of a key; None if there is none, or it has expired."""
    columns = (rows.c.fingerprint, rows.c.state, rows.c.owner, rows.c.answer, rows.c.expires_at_s)
    found = connection.execute(select(*columns).where(rows.c.id == row_id, rows.c.expires_at_s > now_s)).one_or_none()
    return None if found is None else Row(*found)


def claim(connection: Connection, ticket: Ticket, now_s: float, lease_s: float) -> Row | None:
    """Enter a running row, in the place of an expired one if need be; the row that stands in the way, if one does."""
    connection.execute(delete(rows).where(rows.c.id == ticket.id, rows.c.expires_at_s <= now_s))
    insert: Any = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    entered = connection.execute(
        insert(rows)
        .values(
            id=ticket.id, fingerprint=ticket.fingerprint, state="running", owner=ticket.owner, answer=None,
            created_at_s=now_s, expires_at_s=now_s + lease_s,
        )
        .on_conflict_do_nothing()
        .returning(rows.c.id)
    )  # fmt: skip
    return None if entered.first() is not None else read(connection, ticket.id, 0.0)


def finish(connection: Connection, ticket: Ticket, answer: bytes | None, expires_at_s: float) -> bool:
    """Keep the answer (None: it was too large); False if the row is another's by now."""
    state = "done" if answer is not None else "too_large"
    changed = connection.execute(
        update(rows)
        .where(rows.c.id == ticket.id, rows.c.owner == ticket.owner)
        .values(state=state, answer=answer, expires_at_s=expires_at_s)
    )
    return bool(changed.rowcount)


def remove(connection: Connection, ticket: Ticket) -> None:
    """Take an own row away."""
    connection.execute(delete(rows).where(rows.c.id == ticket.id, rows.c.owner == ticket.owner))


def renew(connection: Connection, owners: Sequence[int], expires_at_s: float) -> None:
    """Renew the leases of running rows."""
    connection.execute(
        update(rows).where(rows.c.owner.in_(owners), rows.c.state == "running").values(expires_at_s=expires_at_s)
    )


def sweep(connection: Connection, now_s: float) -> int:
    """Remove some of the expired rows; how many."""
    oldest = select(rows.c.id).where(rows.c.expires_at_s <= now_s).order_by(rows.c.expires_at_s).limit(SWEEP_ROWS)
    return connection.execute(delete(rows).where(rows.c.id.in_(oldest))).rowcount
