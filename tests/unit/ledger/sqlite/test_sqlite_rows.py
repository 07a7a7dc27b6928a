import sqlite3

import pytest

from zuebee.ledger.sqlite import usage


@pytest.fixture
def db() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT, size INTEGER)")
    return connection


@pytest.mark.parametrize("count", [1, 99, 100, 101, 250])
def test_the_rows_of_a_call_have_ids_that_follow_one_another(db: sqlite3.Connection, count: int) -> None:
    db.execute("INSERT INTO things (id) VALUES (41)")
    db.execute("INSERT INTO things (id) VALUES (7)")
    rows = [(f"thing-{number}", number) for number in range(count)]
    last = usage.insert(db, "things", ("name", "size"), rows)
    found = db.execute("SELECT id, name, size FROM things WHERE id > 41 ORDER BY id").fetchall()
    assert found == [(last - count + 1 + number, *row) for number, row in enumerate(rows)]


def test_nothing_to_add_is_no_statement(db: sqlite3.Connection) -> None:
    assert usage.insert(db, "things", ("name",), []) == 0
    assert [list(some) for some in usage.chunks(range(101))] == [list(range(100)), [100]]
    assert usage.marks(3) == "?,?,?"
