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


def test_the_outbox_of_schema_2_keeps_its_events_and_gives_no_id_again(tmp_path: Path) -> None:
    path = tmp_path / "zuebee.db"
    migrate.upgrade(str(path), "0002")
    connection = sqlite3.connect(path, isolation_level=None)
    add = "INSERT INTO usage_outbox (event_id, reporter, record, due_at_s, attempts) VALUES (?, 'hook', ?, 2.5, 3)"
    connection.executemany(add, [(f"r{number}", number) for number in range(5)])
    connection.execute("DELETE FROM usage_outbox WHERE id < 3")
    before = connection.execute("SELECT * FROM usage_outbox ORDER BY id").fetchall()
    prepare(str(path))
    assert connection.execute("SELECT * FROM usage_outbox ORDER BY id").fetchall() == before
    connection.execute("DELETE FROM usage_outbox")
    connection.execute(add, ("new", 1))
    assert connection.execute("SELECT id FROM usage_outbox").fetchall() == [(6,)]
    connection.close()


def test_what_is_on_no_invoice_is_taken_over_and_what_is_not_known_is_said(tmp_path: Path) -> None:
    path = tmp_path / "zuebee.db"
    migrate.upgrade(str(path), "0002")
    connection = sqlite3.connect(path, isolation_level=None)
    october_s, november_s = 1759276800.0, 1761955200.0
    rows = [
        (october_s + 5, 1000.0, "acme", "ann", 7),  # on the invoice
        (november_s - 5, 9000.0, "acme", "ann", 11),  # which was made while this one ran
        (november_s + 5, 1000.0, "acme", "ann", 13),
        (november_s + 6, 1000.0, "acme", "ann", 17),
        (october_s + 5, 1000.0, "other", "eve", 19),
        (october_s + 5, 1000.0, "", "free", 23),
    ]
    add = (
        "INSERT INTO usage_records (at_s, duration_ms, organisation_id, user_id, cost_nano, model, prompt_tokens,"
        " completion_tokens) VALUES (?, ?, ?, ?, ?, 'm', 1, 2)"
    )
    connection.executemany(add, rows)
    invoice = "INSERT INTO invoices (number, organisation_id, starts_at_s, ends_at_s, created_at_s) VALUES (?,?,?,?,?)"
    connection.execute(invoice, ("1", "acme", october_s, november_s, november_s + 1))
    connection.execute("INSERT INTO usage_days (key_id, day) VALUES ('k', ?)", (int(october_s) // 86400 - 100,))
    prepare(str(path))
    kept = "SELECT organisation_id, month, user_id, model, requests, cost_nano FROM unbilled_usage ORDER BY 1, 2"
    assert connection.execute(kept).fetchall() == [
        ("acme", october_s, "ann", "m", 1, 11),
        ("acme", november_s, "ann", "m", 2, 30),
        ("other", october_s, "eve", "m", 1, 19),
    ]
    since = connection.execute("SELECT value FROM counters WHERE name = 'unbilled_since'").fetchall()
    assert since == [(november_s,)]
    connection.close()


def names(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    found = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    return found
