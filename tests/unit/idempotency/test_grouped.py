import asyncio
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from zuebee.idempotency import store as store_module
from zuebee.idempotency.store import Grouped
from zuebee.lib.sql.database import Database, DatabaseError


def database(tmp_path: Path) -> Database:
    made = Database(f"sqlite:///{tmp_path / 'a.db'}", timeout_s=1, max_connections=1)
    made.call(lambda connection: connection.execute(text("CREATE TABLE t (n INTEGER)")))
    return made


class Adds:
    """A work that notes on which transaction it ran."""

    def __init__(self, number: int, seen: list[int]) -> None:
        self.number, self.seen = number, seen

    def __call__(self, connection: Connection) -> int:
        self.seen.append(id(connection))
        connection.execute(text(f"INSERT INTO t VALUES ({self.number})"))
        return self.number


async def test_what_waits_shares_a_transaction_and_each_gets_its_own_result(tmp_path: Path) -> None:
    seen: list[int] = []
    store = database(tmp_path)
    calls, call = 0, store.call

    def counted(work: object) -> object:
        nonlocal calls
        calls += 1
        return call(work)  # type: ignore[arg-type]

    store.call = counted  # type: ignore[method-assign,assignment]
    group = Grouped(store, timeout_s=5, writers=1)
    results = await asyncio.gather(*(group.run(Adds(number, seen)) for number in range(200)))
    assert results == list(range(200))
    assert 200 / store_module.MAX_GROUP <= calls < 20
    assert await group.run(lambda c: c.execute(text("SELECT count(*) FROM t")).scalar_one()) == 200
    await group.aclose()


async def test_a_failure_is_everybodys_in_its_group_and_nobodys_after(tmp_path: Path) -> None:
    group = Grouped(database(tmp_path), timeout_s=5, writers=1)

    def fail(connection: Connection) -> None:
        connection.execute(text("SELECT * FROM nowhere"))

    results = await asyncio.gather(group.run(Adds(1, [])), group.run(fail), return_exceptions=True)
    assert [type(result) for result in results] == [DatabaseError, DatabaseError]
    assert await group.run(Adds(2, [])) == 2
    assert await group.run(lambda c: list(c.execute(text("SELECT n FROM t")).scalars())) == [2]
    await group.aclose()


async def test_nobody_waits_for_ever(tmp_path: Path) -> None:
    group, go = Grouped(database(tmp_path), timeout_s=0.05, writers=1), threading.Event()
    stuck = asyncio.ensure_future(group.run(lambda _: go.wait(5)))
    await asyncio.sleep(0.01)
    with pytest.raises(DatabaseError, match="in time"):
        await group.run(Adds(1, []))
    go.set()
    await asyncio.gather(stuck, return_exceptions=True)
    await group.aclose()


async def test_what_waits_is_bounded(tmp_path: Path) -> None:
    group = Grouped(database(tmp_path), timeout_s=5, writers=1, max_waiting=3)
    results = await asyncio.gather(*(group.run(Adds(n, [])) for n in range(5)), return_exceptions=True)
    assert [isinstance(result, DatabaseError) for result in results] == [False, False, False, True, True]
    await group.aclose()
