"""Sums of whole numbers that may exceed 64 bits: SQLite gives up on them, PostgreSQL does not."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, cast, func, literal

_SHIFT = 1 << 31


class Sums:
    """The sums of some columns in a query: `columns` go into it, `read` makes them of its row."""

    def __init__(self, connection: Connection, summed: Sequence[ColumnElement[Any]]) -> None:
        self._halves = connection.dialect.name == "sqlite"
        # In two parts, each far from 64 bits.
        parts = [part for each in summed for part in _parts(each)] if self._halves else summed
        self.columns: list[ColumnElement[Any]] = [func.coalesce(func.sum(part), 0) for part in parts]
        self.order = [func.total(each) if self._halves else func.coalesce(func.sum(each), 0) for each in summed]
        """What to order by: the sums, to about 15 digits."""

    def read(self, values: Sequence[Any]) -> list[int]:
        """What the values of `columns` amount to."""
        whole = [int(value) for value in values]
        if not self._halves:
            return whole
        return [high * _SHIFT + low for high, low in zip(whole[::2], whole[1::2], strict=True)]


def _parts(column: ColumnElement[Any]) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    shift = cast(literal(_SHIFT), BigInteger)
    return column.op("/")(shift), column % shift
