"""Keys in a table of yours: read only, always by a parameter, never by text."""

import hmac
import re
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Literal

import sqlalchemy
from sqlalchemy import Connection
from sqlalchemy.sql import quoted_name

from zuebee.auth.lookups import UnreadableAnswer
from zuebee.auth.records import Data
from zuebee.contracts.errors import Refusal
from zuebee.contracts.keys import Credential
from zuebee.lib.sql.database import Database

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")


class DatabaseLookup:
    """The row of a key. `table` may be `schema.table`; no `fields` means all columns. Raises ValueError."""

    def __init__(
        self,
        database: Database,
        *,
        table: str,
        key_column: str,
        key_form: Literal["plain", "sha256"] = "plain",
        fields: Sequence[str] = (),
    ) -> None:
        schema, _, bare = table.rpartition(".")
        wanted = [_quoted(name) for name in fields]
        self._database = database
        self._key_column = key_column
        self._hashed = key_form == "sha256"
        place = sqlalchemy.table(_quoted(bare), schema=_quoted(schema) if schema else None)
        key: Any = sqlalchemy.column(_quoted(key_column))
        # The key's own column comes along: a database may hold other texts for equal.
        named = dict.fromkeys([*wanted, _quoted(key_column)])
        chosen: list[Any] = [sqlalchemy.column(name) for name in named]
        if not wanted:
            chosen = [sqlalchemy.literal_column("*")]
        self.statement = (
            sqlalchemy.select(*chosen)
            .select_from(place)
            .where(key == sqlalchemy.bindparam("shown", type_=sqlalchemy.String))
            .limit(2)
        )

    async def look(self, presented: Credential) -> Data | Refusal | None:
        assert presented.key is not None
        shown = presented.digest if self._hashed else presented.key.decode("ascii")

        def ask(connection: Connection) -> list[dict[str, Any]]:
            return [dict(row) for row in connection.execute(self.statement, {"shown": shown}).mappings()]

        rows = [row for row in await self._database.run(ask) if self._is(row, shown)]
        if len(rows) > 1:
            raise UnreadableAnswer("several rows have this key")
        return {str(name): _plain(value) for name, value in rows[0].items()} if rows else None

    def _is(self, row: dict[str, Any], shown: str) -> bool:
        """Whether the row is really this key's: MySQL's `=` knows no case, and CHAR columns are filled with blanks."""
        kept = str(row.get(self._key_column, "")).rstrip(" ")
        if self._hashed:
            kept = kept.lower()
        return hmac.compare_digest(kept.encode(), shown.encode())

    async def aclose(self) -> None:
        self._database.close()


def _plain(value: Any) -> Any:
    """A value as JSON would have it: a shared answer and a fresh one look the same to a script."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, date):
        return value.isoformat()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _quoted(name: str) -> quoted_name:
    if not _NAME.fullmatch(name):
        raise ValueError("expected the name of a table or column: letters, digits and `_`")
    return quoted_name(name, True)
