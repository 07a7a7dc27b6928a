"""The SQLite file as version 0.1.0 wrote it: statements kept from that version, for tests of upgrades."""

import sqlite3
from pathlib import Path

_SCHEMA = """
CREATE TABLE usage_records (
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
CREATE TABLE usage_days (
    key_id TEXT NOT NULL,
    day INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    PRIMARY KEY (key_id, day)
) WITHOUT ROWID;
"""
COLUMNS = (
    "id, request_id, at_s, key_id, key_name, user_id, model, endpoint, is_stream, status, ending, code, backend,"
    " attempts, prompt_tokens, completion_tokens, usage_source, duration_ms, first_token_ms, total_tokens, timestamp"
)


def write(path: Path, rows: int) -> None:
    """A file with so many records, the last of them of a request that failed, and the totals of a day."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(_SCHEMA)
    connection.execute("PRAGMA user_version=1")
    connection.execute("BEGIN")
    for number in range(1, rows + 1):
        tokens = (None, None, None) if number == rows else (number, 5, "provider")
        row = (f"req_{number}", 1_800_000_000.5 + number, "key_1", "mine", "me", "m", "/v1/chat/completions", 1, 200)
        connection.execute(
            "INSERT INTO usage_records (request_id, at_s, key_id, key_name, user_id, model, endpoint, is_stream,"
            " status, ending, code, backend, attempts, prompt_tokens, completion_tokens, usage_source, duration_ms,"
            " first_token_ms) VALUES (?,?,?,?,?,?,?,?,?,'complete','','a',1,?,?,?,500.25,NULL)",
            (*row, *tokens),
        )
    connection.execute("INSERT INTO usage_days VALUES ('key_1', 20833, ?, 100, 50)", (rows,))
    connection.execute("COMMIT")
    connection.close()


def records(path: Path) -> list[tuple[object, ...]]:
    """All that 0.1.0 knew of each record, in order."""
    connection = sqlite3.connect(path)
    try:
        there = {row[1] for row in connection.execute("PRAGMA table_info(usage_records)")}
        columns = COLUMNS if "ending" in there else COLUMNS.replace("ending", "termination_reason")
        return connection.execute(f"SELECT {columns} FROM usage_records ORDER BY id").fetchall()
    finally:
        connection.close()


def days(path: Path) -> list[tuple[object, ...]]:
    """The totals of days."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(
            "SELECT key_id, day, requests, prompt_tokens, completion_tokens FROM usage_days"
        ).fetchall()
    finally:
        connection.close()
