"""Many rows with few statements, on SQLite: each one lets go of the interpreter and must win it back."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

ROWS_PER_STATEMENT = 100

Row = tuple[object, ...]


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
