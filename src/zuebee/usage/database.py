"""A reporter that writes events into a table of MySQL or MariaDB, PostgreSQL or SQLite.

The table has LLMProxy's columns; one that we make has further ones of ours. Rows go in many at a time, and a row whose
`request_id` is there already is passed over, so an event that comes twice is one row.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy
from sqlalchemy import BigInteger, Boolean, Column, Connection, DateTime, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects import mysql, postgresql, sqlite

from zuebee.config.settings_billing import ReporterSettings
from zuebee.contracts.usage import UsageEvent
from zuebee.lib.sql.database import Database, DatabaseError, database_url
from zuebee.usage.outbox import Delivered, Failed, OutboxEntry, Outcome, masked

MAX_INT = (1 << 31) - 1

_log = logging.getLogger("zuebee.usage")


class DatabaseSink:
    """One table, made when missing. Raises ValueError for a DSN that is none."""

    at_once = 1

    def __init__(self, settings: ReporterSettings) -> None:
        database = settings.database
        assert database is not None
        url = database_url(database.driver, database.dsn)
        if database.driver == "sqlite":
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        # A batch is one transaction: it gets the time of several statements.
        self._database = Database(url, timeout_s=max(settings.timeout_s, 5.0), max_connections=2)
        self._name = settings.name
        self._table_name = database.table
        self._table: Table | None = None
        self._unique = False
        self._masked = settings.api_key == "masked"
        self.round_s = max(settings.timeout_s, 5.0) * 4

    async def deliver(self, entries: Sequence[OutboxEntry], *, probe: bool) -> list[Outcome]:
        """Insert all; if that fails though the database answers, the halves are tried for themselves."""
        try:
            await self._database.run(lambda connection: self._insert(connection, entries))
        except DatabaseError as error:
            failed: Outcome = Failed(f"database: {error}")
            self._table = None  # it may have been made in this transaction, or be another one by now
            if len(entries) == 1 or not await self._answers():
                return [failed] * len(entries)
        else:
            return [Delivered()] * len(entries)
        middle = len(entries) // 2
        first = await self.deliver(entries[:middle], probe=probe)
        return first + await self.deliver(entries[middle:], probe=probe)

    async def _answers(self) -> bool:
        try:
            await self._database.run(lambda connection: connection.execute(sqlalchemy.select(1)))
        except DatabaseError:
            return False
        return True

    def _insert(self, connection: Connection, entries: Sequence[OutboxEntry]) -> None:
        table = self._table
        if table is None:
            table = self._table = self._prepare(connection)
        rows = {row["request_id"]: row for row in map(self._row, entries)}
        if not self._unique:
            known = sqlalchemy.select(table.c.request_id).where(table.c.request_id.in_(list(rows)))
            for request_id in connection.execute(known).scalars():
                rows.pop(request_id, None)
        if rows:
            names = set(table.c.keys())
            values = [{name: row[name] for name in row if name in names} for row in rows.values()]
            connection.execute(_insert_new(connection.dialect.name, table), values)

    def _prepare(self, connection: Connection) -> Table:
        """The table, made when missing. One that was there keeps its columns, and gets our unique index if it can."""
        schema, _, name = self._table_name.rpartition(".")
        wanted = _definition(name, schema or None)
        inspector = sqlalchemy.inspect(connection)
        if not inspector.has_table(name, schema=schema or None):
            with connection.begin_nested():
                wanted.create(connection)
            self._unique = True
            return wanted
        here = {column["name"] for column in inspector.get_columns(name, schema=schema or None)}
        indexes = inspector.get_indexes(name, schema=schema or None)
        keys = inspector.get_unique_constraints(name, schema=schema or None)
        self._unique = any(index["unique"] and index["column_names"] == ["request_id"] for index in indexes) or any(
            key["column_names"] == ["request_id"] for key in keys
        )
        if not self._unique:
            _log.warning(
                "%s: table %s has no unique index on request_id: two processes could write a row twice",
                self._name, self._table_name,
            )  # fmt: skip
        columns = [Column(column.name, column.type) for column in wanted.columns if column.name in here]
        return Table(name, MetaData(), *columns, schema=schema or None)

    def _row(self, entry: OutboxEntry) -> dict[str, Any]:
        event = msgspec.json.decode(entry.payload, type=UsageEvent)
        at = datetime.fromisoformat(event.timestamp.replace("Z", "+00:00")).astimezone(UTC)
        return {
            "request_id": _text(entry.event_id, 64),
            "timestamp": at.replace(tzinfo=None),
            "api_key": _text(masked(event.api_key) if self._masked else event.api_key, 128),
            "user_id": _text(event.user_id, 64),
            "method": _text(event.method, 10),
            "path": _text(event.path, 128),
            "backend_url": _text(event.backend_url, 256),
            "status_code": event.status_code,
            "latency_ms": event.latency_ms,
            "prompt_tokens": min(event.prompt_tokens, MAX_INT),
            "completion_tokens": min(event.completion_tokens, MAX_INT),
            "total_tokens": min(event.total_tokens, MAX_INT),
            "model": _text(event.model, 200),
            "is_stream": event.is_stream,
            "cached_tokens": min(event.cached_tokens, MAX_INT),
            "usage_source": _text(event.usage_source, 16),
            "termination_reason": _text(event.termination_reason, 32),
            "team_id": _text(event.team_id, 64),
            "organization_id": _text(event.organization_id, 64),
            "cost_nano": event.cost_nano,
            "currency": _text(event.currency, 3),
        }

    async def aclose(self) -> None:
        """Let go of the connections."""
        await asyncio.get_running_loop().run_in_executor(None, self._database.close)


def _text(text: str, most: int) -> str:
    """As much of the text as fits; PostgreSQL cannot keep a NUL."""
    return text.replace("\0", "")[:most]


def _definition(name: str, schema: str | None) -> Table:
    """LLMProxy's columns, and after `created_at` ours. `request_body` is always null: prompts are not kept."""
    # Ids differ in upper and lower case, which MySQL would otherwise not see.
    exact = String(64).with_variant(mysql.VARCHAR(64, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
    body = Text().with_variant(mysql.JSON(), "mysql", "mariadb").with_variant(postgresql.JSONB(), "postgresql")
    number = BigInteger().with_variant(Integer, "sqlite")
    now = sqlalchemy.func.current_timestamp()
    short = f"{name[:40]}_"
    return Table(
        name,
        MetaData(),
        Column("id", number, primary_key=True, autoincrement=True),
        Column("request_id", exact, nullable=False),
        Column("timestamp", DateTime, server_default=now),
        Column("api_key", String(128)),
        Column("user_id", String(64)),
        Column("method", String(10)),
        Column("path", String(128)),
        Column("backend_url", String(256)),
        Column("status_code", Integer),
        Column("latency_ms", BigInteger),
        Column("prompt_tokens", Integer, server_default="0"),
        Column("completion_tokens", Integer, server_default="0"),
        Column("total_tokens", Integer, server_default="0"),
        Column("request_body", body, nullable=True),
        Column("created_at", DateTime, server_default=now),
        Column("model", String(200)),
        Column("is_stream", Boolean),
        Column("cached_tokens", Integer),
        Column("usage_source", String(16)),
        Column("termination_reason", String(32)),
        Column("team_id", String(64)),
        Column("organization_id", String(64)),
        Column("cost_nano", BigInteger),
        Column("currency", String(3)),
        Index(f"{short}request_id", "request_id", unique=True),
        Index(f"{short}api_key", "api_key"),
        Index(f"{short}timestamp", "timestamp"),
        Index(f"{short}user_id", "user_id"),
        schema=schema,
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
    )


def _insert_new(dialect: str, table: Table) -> Any:
    """INSERT that passes over rows which are there."""
    if dialect in ("mysql", "mariadb"):
        # Not INSERT IGNORE, which would also bend values that do not fit.
        return mysql.insert(table).on_duplicate_key_update(request_id=table.c.request_id)
    make = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return make(table).on_conflict_do_nothing()
