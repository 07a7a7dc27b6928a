import sqlite3
from pathlib import Path

import pytest

from tests.support import old_store
from zuebee.schema import migrate
from zuebee.schema.prepare import prepare
from zuebee.schema.version import HEAD, current_version


def test_the_file_of_version_0_1_0_is_taken_over_with_every_row(tmp_path: Path) -> None:
    path = tmp_path / "zuebee.db"
    old_store.write(path, 300)
    records, days = old_store.records(path), old_store.days(path)
    prepare(str(path))
    assert current_version(str(path)) == HEAD
    assert old_store.records(path) == records
    assert old_store.days(path) == days
    assert len(records) == 300


def test_the_questions_that_people_asked_0_1_0_are_still_answered(tmp_path: Path) -> None:
    path = tmp_path / "zuebee.db"
    old_store.write(path, 3)
    prepare(str(path))
    connection = sqlite3.connect(path)
    question = "SELECT user_id, model, sum(total_tokens), min(timestamp) FROM usage_records GROUP BY user_id, model"
    assert connection.execute(question).fetchall() == [("me", "m", 13, "2027-01-15T08:00:01.500Z")]
    connection.close()


def test_version_0_1_0_would_keep_away_from_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "zuebee.db"
    old_store.write(path, 1)
    prepare(str(path))
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone()[0] > 1
    connection.close()


def test_nothing_is_left_of_the_old_tables(tmp_path: Path) -> None:
    old_store.write(tmp_path / "old.db", 1)
    for name in ("old.db", "new.db"):
        prepare(str(tmp_path / name))
    assert names(tmp_path / "old.db") == names(tmp_path / "new.db")


def test_what_a_migration_did_before_it_failed_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "zuebee.db"
    old_store.write(path, 10)
    records = old_store.records(path)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE invoices (theirs TEXT)")  # the last table that is made
    connection.close()
    with pytest.raises(Exception, match="invoices already exists"):
        migrate.upgrade(str(path))
    assert old_store.records(path) == records
    assert current_version(str(path)) == 0


def test_events_that_wait_are_still_there_and_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "zuebee.db"
    migrate.upgrade(str(path), "0001")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("INSERT INTO usage_outbox (event_id, reporter, payload) VALUES ('r', 'hook', '{}')")
    prepare(str(path))
    found = connection.execute("SELECT event_id, payload, record FROM usage_outbox").fetchall()
    connection.close()
    assert found == [("r", "{}", 0)]


def names(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    return found
