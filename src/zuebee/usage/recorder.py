"""The usage records: one row for each request that was let in, in SQLite.

Rows are written by one thread in batches; a batch is one transaction, flushed to the disk (`synchronous=FULL`).
"""

import sqlite3
from pathlib import Path

from zuebee.contracts.admission import Settlement
from zuebee.kit import clock
from zuebee.kit.batch_writer import BatchWriter

COMMIT_INTERVAL_S = 0.02
MAX_WAITING_ROWS = 200_000
ROWS_PER_STATEMENT = 100
CLEANING_INTERVAL_S = 86400.0
SCHEMA_VERSION = 1

_COLUMNS = (
    "request_id", "at_s", "timestamp", "key_id", "key_name", "user_id", "model", "endpoint", "is_stream", "status",
    "ending", "code", "backend", "attempts", "prompt_tokens", "completion_tokens", "total_tokens", "usage_source",
    "duration_ms", "first_token_ms",
)  # fmt: skip

_SCHEMA = """
CREATE TABLE IF NOT EXISTS usage_records (
    request_id TEXT PRIMARY KEY,
    at_s REAL NOT NULL,
    timestamp TEXT NOT NULL,
    key_id TEXT NOT NULL,
    key_name TEXT NOT NULL,
    user_id TEXT NOT NULL,
    model TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    is_stream INTEGER NOT NULL,
    status INTEGER NOT NULL,
    ending TEXT NOT NULL,
    code TEXT NOT NULL,
    backend TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    total_tokens INTEGER,
    usage_source TEXT,
    duration_ms REAL NOT NULL,
    first_token_ms REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS usage_records_by_key ON usage_records (key_id, at_s);
"""


class UsageStore:
    """A `Recorder` on a SQLite file. Raises OSError or sqlite3.Error at once if the file cannot be used."""

    def __init__(self, path: str, retention_days: int) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
        self._prepare(path)
        self._retention_s = retention_days * 86400.0
        self._cleaned_at_s = 0.0
        self._writer: BatchWriter[Settlement] = BatchWriter(
            "usage-store",
            self._write,
            interval_s=COMMIT_INTERVAL_S,
            max_items=MAX_WAITING_ROWS,
            retries=8,
            on_close=self._connection.close,
        )

    def _prepare(self, path: str) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"{path} was written by a newer version")
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.executescript(_SCHEMA)
        self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        self._path = path

    def record(self, settlement: Settlement) -> None:
        """See `Recorder.record`. Requests that were never let in leave no row."""
        if settlement.grant is not None:
            self._writer.put(settlement)

    @property
    def dropped(self) -> int:
        """Rows that could not be written."""
        return self._writer.dropped

    def tokens_since(self, key_id: str, since_s: float) -> int:
        """Tokens on record for a key since a moment."""
        with sqlite3.connect(self._path, timeout=5.0) as connection:
            row = connection.execute(
                "SELECT coalesce(sum(total_tokens), 0) FROM usage_records WHERE key_id = ? AND at_s >= ?",
                (key_id, since_s),
            ).fetchone()
        connection.close()
        return int(row[0])

    def close(self) -> None:
        """Write what waits."""
        self._writer.close(10.0)

    def _write(self, batch: list[Settlement]) -> None:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for start in range(0, len(batch), ROWS_PER_STATEMENT):
                rows = batch[start : start + ROWS_PER_STATEMENT]
                values = ",".join([_ROW] * len(rows))
                # A batch is tried again when its commit failed in doubt: a row already there is the same row.
                statement = f"INSERT OR IGNORE INTO usage_records ({','.join(_COLUMNS)}) VALUES {values}"
                connection.execute(statement, [value for row in rows for value in _row(row)])
            self._clean()
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _clean(self) -> None:
        now_s = clock.wall_s()
        if self._retention_s and now_s - self._cleaned_at_s > CLEANING_INTERVAL_S:
            self._cleaned_at_s = now_s
            self._connection.execute("DELETE FROM usage_records WHERE at_s < ?", (now_s - self._retention_s,))


_ROW = f"({','.join('?' * len(_COLUMNS))})"


def _row(settlement: Settlement) -> tuple[object, ...]:
    usage = settlement.usage
    return (
        settlement.request_id,
        settlement.at_s,
        clock.rfc3339(settlement.at_s),
        settlement.principal.key_id,
        settlement.principal.name,
        settlement.principal.user_id,
        settlement.model,
        settlement.route,
        settlement.stream,
        settlement.status,
        settlement.ending,
        settlement.code,
        settlement.backend,
        settlement.attempts,
        usage.prompt_tokens if usage else None,
        usage.completion_tokens if usage else None,
        usage.prompt_tokens + usage.completion_tokens if usage else None,
        usage.source if usage else None,
        round(settlement.duration_s * 1000, 3),
        round(settlement.first_token_s * 1000, 3) if settlement.first_token_s >= 0 else None,
    )
