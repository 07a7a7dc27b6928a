"""The gauge of the books says what the last look found, how old that is, and that nothing is known yet."""

import asyncio
import logging
import math
import threading
from pathlib import Path

import pytest

from tests.support.ledger_history import BROKEN, change, write_history
from zuebee.app.watches import BooksWatch
from zuebee.ledger.audit import QuickCheck
from zuebee.ledger.invariants import Violation
from zuebee.lib import clock
from zuebee.lib.sql.database import Connection, Database, DatabaseError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_history(tmp_path / "z.db", rounds=3)
    change(tmp_path / "z.db", "UPDATE ledger_holds SET expires_at_s = 9e9")
    return tmp_path / "z.db"


def watch(path: Path, timeout_s: float = 5.0, check: QuickCheck | None = None) -> BooksWatch:
    return BooksWatch(Database(f"sqlite:///{path}", timeout_s=timeout_s), check)


async def test_before_the_first_look_nothing_is_known(path: Path) -> None:
    books = watch(path)
    assert math.isnan(books.violations)
    assert math.isnan(books.checked_at_s)
    before_s = clock.wall_s()
    await books.look()
    assert books.violations == 0
    assert before_s <= books.checked_at_s <= clock.wall_s()
    assert books.failures == 0


async def test_a_look_that_fails_leaves_what_is_known_and_its_age(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    database = Database(f"sqlite:///{path}", timeout_s=5.0)
    books = BooksWatch(database)

    async def fail(work: object) -> None:
        raise DatabaseError("no answer in time")

    with monkeypatch.context() as away:
        away.setattr(database, "run", fail)
        for _ in range(3):
            await books.look()
    assert math.isnan(books.violations), "never 0 before it was counted"
    assert books.failures == 3
    assert caplog.text.count("the books cannot be checked") == 1
    change(path, *BROKEN["money from nowhere"][1])
    await books.look()
    assert "the books can be checked again" in caplog.text
    assert "the ledger does not add up" in caplog.text
    found, at_s = books.violations, books.checked_at_s
    assert found > 0
    monkeypatch.setattr(database, "run", fail)
    await books.look()
    assert (books.violations, books.checked_at_s, books.failures) == (found, at_s, 4)


async def test_a_look_that_takes_too_long_is_not_joined_by_the_next(path: Path) -> None:
    """Its thread goes on: two of them would add up the same entries twice."""
    gate, running, most = threading.Event(), 0, 0

    class Slow(QuickCheck):
        def check(self, connection: Connection) -> list[Violation] | None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            gate.wait(5)
            running -= 1
            return super().check(connection)

    books = watch(path, timeout_s=0.2, check=Slow())
    for _ in range(3):
        await books.look()
    assert math.isnan(books.violations)
    gate.set()
    await asyncio.sleep(0.1)
    for _ in range(3):
        await books.look()
        assert books.violations == 0
    assert (books.failures, most) == (3, 1)


@pytest.mark.parametrize("size", [1, 7, 50])
async def test_many_entries_are_added_up_in_parts(path: Path, size: int) -> None:
    books = watch(path, check=QuickCheck(size))
    await books.look()
    assert books.violations == 0
    change(path, *BROKEN["a balance that its entries do not explain"][1])
    await books.look()
    assert books.violations > 0
