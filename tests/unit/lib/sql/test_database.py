import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from zuebee.lib.sql.database import Connection, Database, DatabaseError


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'a.db'}", timeout_s=5)
    opened.call(lambda connection: connection.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)")))
    yield opened
    opened.close()


def insert(connection: Connection) -> None:
    connection.execute(text("INSERT INTO t VALUES (1)"))


def rows(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM t")).scalar_one())


def test_work_is_one_transaction(database: Database) -> None:
    def half(connection: Connection) -> None:
        insert(connection)
        raise ValueError("not from the database, so passed on as it is")

    with pytest.raises(ValueError, match="passed on"):
        database.call(half)
    assert database.call(rows) == 0
    database.call(insert)
    assert database.call(rows) == 1


async def test_work_runs_in_a_thread(database: Database) -> None:
    await database.run(insert)
    assert await database.run(rows) == 1
    assert await database.run(lambda _: threading.get_ident()) != threading.get_ident()


def test_a_failure_shows_neither_values_nor_the_statement(database: Database) -> None:
    def secret(connection: Connection) -> None:
        connection.execute(text("INSERT INTO nowhere VALUES (:value)"), {"value": "s3cret"})

    with pytest.raises(DatabaseError) as caught:
        database.call(secret)
    assert str(caught.value) == "no such table: nowhere (OperationalError)"


async def test_nobody_waits_longer_than_told(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'a.db'}", timeout_s=0.02)
    go_on = threading.Event()
    try:
        async with asyncio.timeout(2):
            with pytest.raises(DatabaseError, match="no answer in time"):
                await database.run(lambda _: go_on.wait(2))
    finally:
        go_on.set()
        database.close()


def test_what_sqlite_commits_is_on_disk(database: Database) -> None:
    def modes(connection: Connection) -> tuple[object, object]:
        journal = connection.execute(text("PRAGMA journal_mode")).scalar_one()
        return journal, connection.execute(text("PRAGMA synchronous")).scalar_one()

    full = 2
    assert database.call(modes) == ("wal", full)


def test_a_file_of_somebody_else_is_neither_made_nor_changed(tmp_path: Path) -> None:
    path = tmp_path / "with space.db"
    absent = Database(f"sqlite:///{path}", timeout_s=1, read_only=True)
    with pytest.raises(DatabaseError):
        absent.call(lambda connection: connection.execute(text("SELECT 1")))
    absent.close()
    assert not path.exists()

    other = sqlite3.connect(path)
    other.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")
    other.close()
    before = path.read_bytes()
    database = Database(f"sqlite:///{path}", timeout_s=1, read_only=True)
    assert database.call(rows) == 0
    with pytest.raises(DatabaseError):
        database.call(insert)
    database.close()
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
