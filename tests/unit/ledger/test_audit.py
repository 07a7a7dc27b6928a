"""A ledger in which everything has happened is found right; break one thing by hand, and that one is named."""

import time
from pathlib import Path

import pytest

from tests.support.ledger_history import BROKEN, NOW_S, change, write_history
from zuebee.ledger.audit import reading, verify
from zuebee.ledger.invariants import Violation


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_history(tmp_path / "z.db", rounds=3)
    return tmp_path / "z.db"


def violations(path: Path) -> list[Violation]:
    with reading(str(path)) as connection:
        return list(verify(connection))


@pytest.mark.requirement("A098")
def test_a_ledger_in_which_everything_happened_is_right(path: Path) -> None:
    assert violations(path) == []


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_named(path: Path, what: str) -> None:
    invariant, statements = BROKEN[what]
    change(path, *statements)
    assert invariant in {violation.invariant for violation in violations(path)}


def test_one_changed_entry_breaks_its_own_batch_and_none_after_it(path: Path) -> None:
    change(path, "UPDATE ledger_entries SET at_s = at_s + 1 WHERE hold = 'none-1' AND step = 0")
    (found,) = violations(path)
    assert found.invariant == "I5"
    assert found.text.startswith("the entries of batch 2 of owner 1, from entry ")


def test_records_that_were_removed_for_their_age_are_not_missed(path: Path) -> None:
    change(path, "DELETE FROM usage_records")
    with reading(str(path)) as connection:
        assert {v.invariant for v in verify(connection, records_since_s=0.0)} == {"I8"}
    with reading(str(path)) as connection:
        assert list(verify(connection, records_since_s=NOW_S + 100)) == []


def test_while_no_gateway_runs_nobody_can_expire_a_hold(path: Path) -> None:
    change(path, "UPDATE ledger_holds SET expires_at_s = 1000")
    assert violations(path) == []


@pytest.mark.slow
def test_many_entries_take_reasonable_time(tmp_path: Path) -> None:
    write_history(tmp_path / "z.db", rounds=500)
    started_s = time.perf_counter()
    assert violations(tmp_path / "z.db") == []
    assert time.perf_counter() - started_s < 5
