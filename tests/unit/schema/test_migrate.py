import sqlite3
from pathlib import Path

import pytest

from tests.support import old_store
from zuebee.contracts.usage import next_hash
from zuebee.ledger.audit import reading, verify
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
    kept = "SELECT organization_id, month, user_id, model, requests, cost_nano FROM unbilled_usage ORDER BY 1, 2"
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


def test_organizations_get_their_new_name_and_what_holds_is_stated(tmp_path: Path) -> None:
    path = tmp_path / "zuebee.db"
    migrate.upgrade(str(path), "0005")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(_BEFORE_6)
    prepare(str(path))
    assert connection.execute("SELECT id, name FROM organizations").fetchall() == [("acme", "Acme")]
    assert connection.execute("SELECT organization_id FROM teams").fetchall() == [("acme",)]
    assert connection.execute("SELECT payload FROM usage_outbox").fetchall() == [
        ('{"organization_id":"acme","termination_reason":"complete"}',)
    ]
    connection.execute("DELETE FROM usage_outbox")  # its record is not there, which the last check would see
    assert connection.execute("SELECT limits FROM teams").fetchall() == [('{"on_store_down":"open"}',)]
    assert connection.execute("SELECT account, scope FROM budgets").fetchall() == [
        ("organization:acme/USD/monthly", "organization")
    ]
    (balance,) = connection.execute(
        "SELECT id, account, starts_at_s, typeof(starts_at_s), granted FROM ledger_balances"
    )
    assert balance == (1, "organization:acme/USD/monthly", 1759276800, "integer", 7)
    assert connection.execute("SELECT hold, at_s FROM ledger_entries").fetchall() == [
        ("organisation:acme/USD/monthly@1759276800", 1759276805.25)
    ], "entries never change"
    with reading(str(path)) as books:
        assert list(verify(books)) == []
    with pytest.raises(sqlite3.IntegrityError, match="ledger_balances_figures"):
        connection.execute("UPDATE ledger_balances SET held = 8")
    with pytest.raises(sqlite3.IntegrityError, match="ledger_entries_amounts"):
        connection.execute("UPDATE ledger_entries SET cost_nano = -1")
    connection.close()


def test_books_that_are_broken_are_told_and_stay_as_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "zuebee.db"
    migrate.upgrade(str(path), "0005")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(_BEFORE_6)
    connection.execute("UPDATE ledger_balances SET held = -1")
    prepare(str(path))
    assert "ledger_balances has rows that are not right" in caplog.text
    assert connection.execute("SELECT held FROM ledger_balances").fetchall() == [(-1,)]
    connection.close()


_ROW = ("organisation:acme/USD/monthly@1759276800", 1, 7, 1759276805.25)
_BEFORE_6 = f"""
INSERT INTO organisations (id, name) VALUES ('acme', 'Acme');
INSERT INTO teams (id, organisation_id, limits) VALUES ('red', 'acme', '{{"when_down":"open"}}');
INSERT INTO usage_outbox (event_id, reporter, payload)
    VALUES ('r', 'hook', '{{"organisation_id":"acme","ending":"complete"}}');
INSERT INTO budgets (account, scope, scope_id, unit, period, amount)
    VALUES ('organisation:acme/USD/monthly', 'organisation', 'acme', 'USD', 'monthly', 7);
INSERT INTO ledger_owners (name, ended_at_s) VALUES ('zuebee', 1);
INSERT INTO ledger_balances (account, unit, period, starts_at_s, granted, limited, changes)
    VALUES ('organisation:acme/USD/monthly', 'USD', 'monthly', 1759276800.0, 7, 7, 1);
INSERT INTO ledger_paths (balances) VALUES ('1');
INSERT INTO ledger_entries (batch, kind, hold, step, path, cost_nano, owner, at_s)
    VALUES (1, 'grant', '{_ROW[0]}', 0, 1, 7, 1, {_ROW[3]});
INSERT INTO ledger_batches (owner, sequence, entries, hash)
    VALUES (1, 1, 1, '{next_hash("", [(1, "grant", _ROW[0], 0, 1, 0, 7, 0, 0, 1, _ROW[3])])}');
"""
