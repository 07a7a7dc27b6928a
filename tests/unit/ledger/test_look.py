"""What an operator sees of the ledger."""

from pathlib import Path

import pytest

from tests.support.ledger_history import write_history
from zuebee.ledger.audit import account, count_entries, open_holds, reading, violations
from zuebee.lib.sql.database import DatabaseError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_history(tmp_path / "z.db", rounds=3)
    return tmp_path / "z.db"


def test_an_operator_sees_accounts_and_holds(path: Path) -> None:
    with reading(str(path)) as connection:
        balances, entries = account(connection, "team:t/USD/never", 5)
    assert [b["available"] for b in balances] == [balances[0]["granted"] - balances[0]["used"] - balances[0]["held"]]
    assert entries[0]["hold"] == "open-2"
    assert len(entries) == 5
    with reading(str(path)) as connection:
        assert account(connection, "nobody", 5) == ([], [])
    with reading(str(path)) as connection:
        found, total = open_holds(connection, 2)
        assert (len(found), total, count_entries(connection)) == (2, 3, 47)


def test_the_checks_of_verify_are_reached_from_here(path: Path) -> None:
    with reading(str(path)) as connection:
        assert list(violations(connection, sweep_s=60.0, records_since_s=0.0)) == []


def test_what_is_no_store_is_said_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "z.db").write_bytes(b"this is no database, but a text that is long enough to look at" * 20)
    with pytest.raises(DatabaseError, match="database"), reading(str(tmp_path / "z.db")) as connection:
        count_entries(connection)
