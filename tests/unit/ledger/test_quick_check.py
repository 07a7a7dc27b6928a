"""What a gauge looks at every now and then: the same promises, by sums."""

from pathlib import Path

import pytest

from tests.support.ledger_history import AGAIN, BROKEN, change, write_history
from zuebee.ledger.audit import QuickCheck, reading
from zuebee.ledger.invariants import Violation


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_history(tmp_path / "z.db", rounds=3)
    return tmp_path / "z.db"


def quick(path: Path, check: QuickCheck | None = None) -> list[Violation]:
    with reading(str(path)) as connection:
        return (check or QuickCheck()).check(connection)


NO_SUMS = {"a limit that no entry gave", "an account under another name"}
"""What leaves all sums as they are: only the whole check sees it."""


@pytest.mark.parametrize(
    "what",
    [name for name, (invariant, _) in BROKEN.items() if invariant in ("I1", "I2", "I4", "I11") and name not in NO_SUMS],
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


def test_inside_a_running_gateway_a_hold_that_nobody_renews_is_seen(path: Path) -> None:
    change(path, "UPDATE ledger_holds SET expires_at_s = 1000 WHERE hold = 'open-1'")
    assert [(v.invariant, v.account) for v in quick(path)] == [("I4", "open-1")]
