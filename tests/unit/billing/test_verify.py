"""A ledger in which everything has happened is found right; break one thing by hand, and that one is named."""

import time
from pathlib import Path

import pytest

from tests.support.ledger_history import NOW_S, change, write_history
from zuebee.billing.look import account, count_entries, open_holds, reading
from zuebee.billing.quick_check import QuickCheck
from zuebee.billing.verify import verify
from zuebee.billing.verify_entries import Violation
from zuebee.kit import clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_history(tmp_path / "z.db", rounds=3)
    return tmp_path / "z.db"


def violations(path: Path) -> list[Violation]:
    with reading(str(path)) as connection:
        return list(verify(connection))


def quick(path: Path, check: QuickCheck | None = None) -> list[Violation]:
    with reading(str(path)) as connection:
        return (check or QuickCheck()).check(connection)


@pytest.mark.requirement("A098")
def test_a_ledger_in_which_everything_happened_is_right(path: Path) -> None:
    assert violations(path) == []
    assert quick(path) == []


UNIQUE_OFF = "DROP INDEX ledger_entries_once"
AGAIN = (
    "INSERT INTO ledger_entries (batch, kind, hold, step, path, tokens, cost_nano, released_tokens,"
    " released_cost_nano, owner, at_s) SELECT batch, kind, hold, step, path, tokens, cost_nano, released_tokens,"
    " released_cost_nano, owner, at_s FROM ledger_entries WHERE {}"
)
LIVE = f"UPDATE ledger_owners SET ended_at_s = 0, started_at_s = 1, seen_at_s = {clock.wall_s() + 1000}"

# What is broken by hand, and the invariant that must be named. Others may be named beside it: one wrong row can
# contradict several of them.
BROKEN = {
    "a balance that its entries do not explain": ("I1", ["UPDATE ledger_balances SET used = used + 1 WHERE id = 1"]),
    "less granted than used": ("I2", ["UPDATE ledger_balances SET granted = 5 WHERE id = 2"]),
    "a negative balance": ("I2", ["UPDATE ledger_balances SET held = -1 WHERE id = 1"]),
    "a hold resolved twice": ("I3", [UNIQUE_OFF, AGAIN.format("hold = 'within-1' AND step = 1")]),
    "a hold neither open nor resolved": ("I3", ["DELETE FROM ledger_holds WHERE hold = 'open-1'"]),
    "an open hold that was resolved": (
        "I3",
        ["UPDATE ledger_holds SET hold = 'within-1' WHERE hold = 'open-1'"],
    ),
    "a hold that nobody expired": ("I4", [LIVE, "UPDATE ledger_holds SET expires_at_s = 1000"]),
    "a charge beyond the hold": ("I5", ["UPDATE ledger_entries SET tokens = 111 WHERE hold = 'within-1' AND step = 1"]),
    "a changed entry": ("I5", ["UPDATE ledger_entries SET at_s = at_s + 1 WHERE hold = 'none-2' AND step = 0"]),
    "a removed entry": ("I5", ["DELETE FROM ledger_entries WHERE hold = 'beyond-1' AND step IS NULL"]),
    "a removed batch": (
        "I5",
        [f"DELETE FROM ledger_{t} = 2" for t in ("entries WHERE batch", "batches WHERE sequence")],
    ),
    "an overdraft of nothing": ("I5", ["UPDATE ledger_entries SET hold = 'other' WHERE kind = 'overdraft'"]),
    "two usage records of one request": (
        "I6",
        ["UPDATE usage_records SET request_id = 'within-1' WHERE request_id = 'none-1'"],
    ),
    "a usage record of other tokens": ("I6", ["UPDATE usage_records SET prompt_tokens = 1 WHERE id = 1"]),
    "a usage record of another price": ("I6", ["UPDATE usage_records SET cost_nano = 1 WHERE request_id = 'within-1'"]),
    "a charge without a usage record": ("I8", ["DELETE FROM usage_records WHERE request_id = 'within-1'"]),
    "an event that stands twice in the outbox": (
        "I8",
        [
            "INSERT INTO usage_outbox (event_id, reporter, payload, created_at_s, due_at_s)"
            " SELECT event_id, reporter, payload, created_at_s, due_at_s FROM usage_outbox WHERE event_id = 'none-1'"
        ],
    ),
    "an event of nothing": ("I8", ["UPDATE usage_outbox SET event_id = 'ghost' WHERE event_id = 'none-1'"]),
    "a hold that left a level out": ("I9", ["UPDATE ledger_entries SET path = 2 WHERE hold = 'within-1' AND step = 1"]),
    "a path to nowhere": ("I9", ["UPDATE ledger_paths SET balances = balances || ',99' WHERE id = 1"]),
    "money from nowhere": ("I1", ["UPDATE ledger_balances SET granted = granted + 1 WHERE id = 3"]),
    "a phantom hold": ("I11", ["UPDATE ledger_balances SET held = held + 7 WHERE id = 1"]),
    "a grant counted twice": ("I13", [UNIQUE_OFF, AGAIN.format("hold = 'payment-1'")]),
    "a reserve in another period": (
        "I14",
        [f"UPDATE ledger_balances SET starts_at_s = {NOW_S - NOW_S % 86400 - 86400} WHERE id = 1"],
    ),
    "a period that starts at noon": ("I14", ["UPDATE ledger_balances SET starts_at_s = 43200 WHERE id = 1"]),
    "one account twice on a path": ("I14", ["UPDATE ledger_paths SET balances = '1,2,3,2' WHERE id = 1"]),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_named(path: Path, what: str) -> None:
    invariant, statements = BROKEN[what]
    change(path, *statements)
    assert invariant in {violation.invariant for violation in violations(path)}


def test_records_that_were_removed_for_their_age_are_not_missed(path: Path) -> None:
    change(path, "DELETE FROM usage_records")
    with reading(str(path)) as connection:
        assert {v.invariant for v in verify(connection, records_since_s=0.0)} == {"I8"}
    with reading(str(path)) as connection:
        assert list(verify(connection, records_since_s=NOW_S + 100)) == []


def test_while_no_gateway_runs_nobody_can_expire_a_hold(path: Path) -> None:
    change(path, "UPDATE ledger_holds SET expires_at_s = 1000")
    assert violations(path) == []


@pytest.mark.parametrize(
    "what", [name for name, (invariant, _) in BROKEN.items() if invariant in ("I1", "I2", "I4", "I11")]
)
def test_the_quick_check_sees_it_too(path: Path, what: str) -> None:
    check = QuickCheck()
    assert quick(path, check) == []
    invariant, statements = BROKEN[what]
    change(path, *statements)
    assert invariant in {violation.invariant for violation in quick(path, check)}


def test_the_quick_check_reads_on_where_it_stopped(path: Path) -> None:
    check = QuickCheck()
    quick(path, check)
    assert quick(path, check) == []
    change(path, AGAIN.format("hold = 'beyond-1' AND step IS NULL AND kind = 'extend'"))
    assert {violation.invariant for violation in quick(path, check)} == {"I1"}


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


def test_many_entries_take_reasonable_time(tmp_path: Path) -> None:
    write_history(tmp_path / "z.db", rounds=500)
    started_s = time.perf_counter()
    assert violations(tmp_path / "z.db") == []
    assert time.perf_counter() - started_s < 5
