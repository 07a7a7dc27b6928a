"""The usage records: one row for each request that was let in, in SQLite.

Rows are written by one thread in batches; a batch is one transaction, flushed to the disk (`synchronous=FULL`).
"""

import sqlite3
from functools import cache
from pathlib import Path

from zuebee.contracts.admission import Settlement
from zuebee.kit import clock
from zuebee.kit.batch_writer import BatchWriter

COMMIT_INTERVAL_S = 0.05
MAX_WAITING_ROWS = 200_000
ROWS_PER_STATEMENT = 100
CLEANING_INTERVAL_S = 86400.0
SCHEMA_VERSION = 1

_COLUMNS = (
    "request_id", "at_s", "key_id", "key_name", "user_id", "model", "endpoint", "is_stream", "status", "ending",
    "code", "backend", "attempts", "prompt_tokens", "completion_tokens", "usage_source", "duration_ms",
    "first_token_ms",
)  # fmt: skip

# Rows are only ever appended, so the table has no index to keep; totals by key and day answer the common questions.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS usage_records (
    id INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL,
    at_s REAL NOT NULL,
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
    usage_source TEXT,
    duration_ms REAL NOT NULL,
    first_token_ms REAL,
    total_tokens INTEGER GENERATED ALWAYS AS (prompt_tokens + completion_tokens) VIRTUAL,
    timestamp TEXT GENERATED ALWAYS AS (strftime('%Y-%m-%dT%H:%M:%fZ', at_s, 'unixepoch')) VIRTUAL
);
CREATE TABLE IF NOT EXISTS usage_days (
    key_id TEXT NOT NULL,
    day INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    PRIMARY KEY (key_id, day)
) WITHOUT ROWID;
"""

_ADD_TO_DAY = """
INSERT INTO usage_days VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens
"""

DAY_S = 86400


class UsageStore:
    """A `Recorder` on a SQLite file. Raises OSError at once if the file cannot be used."""

    def __init__(self, path: str, retention_days: int) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30.0)
            self._prepare(path)
        except sqlite3.Error as error:
            raise OSError(f"{path}: {error}") from None
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
            raise sqlite3.DatabaseError("written by a newer version")
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
        """Tokens on record for a key since the beginning of a day (UTC)."""
        connection = sqlite3.connect(self._path, timeout=5.0)
        try:
            row = connection.execute(
                "SELECT coalesce(sum(prompt_tokens + completion_tokens), 0) FROM usage_days"
                " WHERE key_id = ? AND day >= ?",
                (key_id, int(since_s) // DAY_S),
            ).fetchone()
        finally:
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
                values: list[object] = []
                rows = batch[start : start + ROWS_PER_STATEMENT]
                for settlement in rows:
                    values += _row(settlement)
                connection.execute(_insert(len(rows)), values)
            connection.executemany(_ADD_TO_DAY, _days(batch))
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


@cache
def _insert(rows: int) -> str:
    return f"INSERT INTO usage_records ({','.join(_COLUMNS)}) VALUES {','.join([_ROW] * rows)}"


def _days(batch: list[Settlement]) -> list[tuple[str, int, int, int, int]]:
    """What a batch adds to the totals of its keys and days."""
    totals: dict[tuple[str, int], list[int]] = {}
    for settlement in batch:
        key_and_day = (settlement.principal.key_id, int(settlement.at_s) // DAY_S)
        total = totals.setdefault(key_and_day, [0, 0, 0])
        total[0] += 1
        if settlement.usage is not None:
            total[1] += settlement.usage.prompt_tokens
            total[2] += settlement.usage.completion_tokens
    return [(key_id, day, total[0], total[1], total[2]) for (key_id, day), total in totals.items()]


def _row(settlement: Settlement) -> tuple[object, ...]:
    usage = settlement.usage
    principal = settlement.principal
    first_token_s = settlement.first_token_s
    return (
        settlement.request_id,
        settlement.at_s,
        principal.key_id,
        principal.name,
        principal.user_id,
        settlement.model,
        settlement.route,
        settlement.stream,
        settlement.status,
        settlement.ending,
        settlement.code,
        settlement.backend,
        settlement.attempts,
        None if usage is None else usage.prompt_tokens,
        None if usage is None else usage.completion_tokens,
        None if usage is None else usage.source,
        settlement.duration_s * 1000,
        None if first_token_s < 0 else first_token_s * 1000,
    )
