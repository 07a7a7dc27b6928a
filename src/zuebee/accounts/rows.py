"""Rows of the store and what they mean: lists and settings stand in them as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, func, insert, select, tuple_
from sqlalchemy.sql.elements import ColumnElement

from zuebee.config import LimitSettings

JSON = ("models", "endpoints", "limits", "tags", "budgets", "allowed_ips", "denied_ips", "lines")
MAX_PAGE = 1000


def begin_write(connection: Connection) -> None:
    """The first step of a transaction that reads before it writes: nobody else writes in between (SQLite)."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def to_row(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a form as columns."""
    return {name: _json(value) if name in JSON else value for name, value in fields.items()}


def _json(value: Any) -> str:
    if isinstance(value, LimitSettings):
        value = set_limits(value)
    return msgspec.json.encode(value).decode()


def set_limits(limits: LimitSettings) -> dict[str, Any]:
    """Those that differ from their default: 0, no limit."""
    default = LimitSettings()
    return {
        name: value for name in limits.__struct_fields__ if (value := getattr(limits, name)) != getattr(default, name)
    }


def to_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it is shown: JSON decoded, and never a key's digest."""
    return {
        str(name): msgspec.json.decode(value) if name in JSON else value
        for name, value in row.items()
        if name != "digest"
    }


def row_of(connection: Connection, table: Table, key: str) -> dict[str, Any] | None:
    """The row with this id."""
    found = connection.execute(select(table).where(table.c.id == key)).mappings().first()
    return None if found is None else dict(found)


def add_row(connection: Connection, table: Table, fields: Mapping[str, Any]) -> None:
    """Insert fields of a form."""
    connection.execute(insert(table).values(**to_row(fields)))


def page(
    connection: Connection, table: Table, conditions: Sequence[ColumnElement[bool]], *, limit: int, after: str
) -> tuple[list[dict[str, Any]], str]:
    """Rows in the order in which they were made, from behind the one with the id `after`; and the id that the next
    page begins behind, empty on the last page.
    """
    limit = max(1, min(limit, MAX_PAGE))
    statement = select(table).where(*conditions).order_by(table.c.created_at_s, table.c.id).limit(limit + 1)
    if after:
        mark = select(table.c.created_at_s).where(table.c.id == after).scalar_subquery()
        statement = statement.where(tuple_(table.c.created_at_s, table.c.id) > tuple_(func.coalesce(mark, 0), after))
    rows = [dict(row) for row in connection.execute(statement).mappings()]
    return rows[:limit], rows[limit - 1]["id"] if len(rows) > limit else ""
