"""An answer that is there before its hold has gone out is settled in the same transaction; until that is being written,
it can still be refused instead."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.billing import billing_on, committer_of
from tests.support.fakes import make_job, until
from zuebee.config.settings_billing import BillingSettings, PriceSettings
from zuebee.contracts.admission import Amount, Budget, Grant, Hold, Principal, Settlement
from zuebee.contracts.errors import STORE_UNAVAILABLE, Refusal
from zuebee.contracts.inference import Usage
from zuebee.ledger.audit import reading, verify
from zuebee.ledger.sqlite.store import SqliteStore, connect
from zuebee.ledger.sqlite.wal_file import WalFile
from zuebee.schema.prepare import prepare

WHO = Principal("k", "key", "user", budgets=(Budget("key:k/tokens/never", "tokens", "never", 1000),))
PRICES = [PriceSettings(model="m", input_per_million="1", output_per_million="2")]
USAGE = Usage(30, 12, "provider")
TIMEOUT_S = 0.15


class Commits:
    """The writer's connection, whose COMMIT does what a test wants."""

    def __init__(self, path: str, parts: "Parts") -> None:
        self._db = connect(path)
        self._parts = parts

    def execute(self, sql: str, values: Any = ()) -> Any:
        if sql == "COMMIT" and self._parts.commit is not None:
            return self._parts.commit(lambda: self._db.execute(sql, values))
        return self._db.execute(sql, values)

    def executemany(self, sql: str, rows: Any) -> Any:
        return self._db.executemany(sql, rows)

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def close(self) -> None:
        self._db.close()


class Parts:
    """Billing on a file, and the disk below it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.commit: Callable[[Callable[[], Any]], Any] | None = None
        self.flush: Callable[[], None] | None = None
        self.let_go = threading.Event()
        self.reached = threading.Event()
        parts = self

        class Disk(WalFile):
            def flush(self) -> None:
                if parts.flush is not None:
                    parts.flush()
                super().flush()

        prepare(str(path))
        self.writer = Commits(str(path), self)
        writers = iter([self.writer])
        store = SqliteStore(
            str(path), reporters=(), currency="USD", retention_days=0, open_log=Disk,
            connect=lambda each: next(writers, None) or connect(each),
        )  # fmt: skip
        self.billing = billing_on(store, BillingSettings(prices=PRICES, built_in_prices=False), timeout_s=TIMEOUT_S)
        self.tending = asyncio.ensure_future(self._tend())

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            await self.billing.attend([])

    def stop_in_commit(self, happens: Callable[[], Any]) -> Any:
        self.reached.set()
        assert self.let_go.wait(5)
        return happens()

    async def reserve(self, name: str = "req_1", tokens: int = 100) -> Hold:
        held = await self.billing.reserve(WHO, make_job(request_id=name), Amount(tokens, 2000 * tokens))
        assert not isinstance(held, Refusal)
        return held

    def rows(self, sql: str) -> list[Any]:
        with reading(str(self.path)) as connection:
            assert list(verify(connection)) == []
            return [tuple(row) for row in connection.exec_driver_sql(sql)]

    @property
    def records(self) -> list[Any]:
        return self.rows("SELECT request_id, status, coalesce(prompt_tokens, 0), cost_nano FROM usage_records")

    @property
    def kinds(self) -> list[str]:
        return [kind for (kind,) in self.rows("SELECT kind FROM ledger_entries WHERE hold LIKE 'req%' ORDER BY id")]

    @property
    def left(self) -> tuple[int, int, int, int]:
        (each,) = self.billing.ledger.balances()
        return each.granted, each.held, each.used, each.overdraft

    async def aclose(self) -> None:
        self.let_go.set()
        self.tending.cancel()
        await self.billing.aclose()


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    made = Parts(tmp_path / "z.db")
    # The account, so that its grant goes out before.
    hold = await made.reserve("warm-up")
    assert await hold.wait() is None
    made.billing.settle(over(hold, None, "warm-up"))
    await committer_of(made.billing).current.flushed()
    yield made
    await made.aclose()


def over(hold: Hold, usage: Usage | None = USAGE, name: str = "req_1") -> Settlement:
    grant = Grant(WHO, hold=hold)
    return Settlement(name, "POST", "/", "", 1.0, 200, "complete", principal=WHO, grant=grant, model="m", usage=usage)


def refused(settlement: Settlement) -> Settlement:
    settlement.usage, settlement.status, settlement.termination_reason = None, 503, "refused"
    return settlement


async def test_hold_and_settlement_are_one_transaction(parts: Parts) -> None:
    before = parts.billing.ledger.commits
    hold = await parts.reserve()
    settlement = over(hold)
    assert await hold.wait(settlement) is None
    assert hold.joined
    assert hold.secured
    assert parts.billing.settle(settlement) is None, "there is nothing left to be done"
    await asyncio.sleep(0.05)
    assert parts.billing.ledger.commits == before + 1
    assert parts.kinds == ["reserve", "post"]
    assert parts.records[1:] == [("req_1", 200, 30, 30 * 1000 + 12 * 2000)]
    assert parts.left == (1000, 0, 42, 0)
    assert parts.billing.ledger.open_holds()[0] == 0


async def test_what_was_not_used_up_and_what_was_beyond_it(parts: Parts) -> None:
    hold = await parts.reserve()
    assert await hold.wait(over(hold, None)) is None
    assert parts.left == (1000, 0, 0, 0)
    hold = await parts.reserve("req_2", 40)
    assert await hold.wait(over(hold, name="req_2")) is None
    assert parts.left == (1000, 0, 42, 2)
    assert parts.kinds == ["reserve", "void", "reserve", "post", "overdraft"]


async def test_a_hold_that_has_gone_out_is_settled_later(parts: Parts) -> None:
    hold = await parts.reserve()
    assert await hold.wait() is None
    settlement = over(hold)
    assert await hold.wait(settlement) is None
    assert not hold.joined
    stored = parts.billing.settle(settlement)
    assert stored is not None
    await stored
    assert parts.left == (1000, 0, 42, 0)


async def test_what_it_holds_is_held_until_it_is_written(parts: Parts) -> None:
    parts.commit = parts.stop_in_commit
    hold = await parts.reserve("req_1", 900)
    waiting = asyncio.ensure_future(hold.wait(over(hold)))
    await until(parts.reached.is_set)
    assert parts.left == (1000, 900, 0, 0)
    another = asyncio.ensure_future(parts.reserve("req_2", 500))
    await asyncio.sleep(0.02)
    assert not another.done(), "it waits for what may come back"
    parts.let_go.set()
    assert await waiting is None
    assert (await another).answer_tokens >= 0
    assert parts.left == (1000, 500, 42, 0)


async def test_a_store_that_is_busy_for_too_long_charges_nothing(parts: Parts) -> None:
    other = sqlite3.connect(parts.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    parts.writer.execute("PRAGMA busy_timeout = 20")
    hold = await parts.reserve()
    settlement = over(hold)
    assert await hold.wait(settlement) is STORE_UNAVAILABLE
    assert not hold.joined
    parts.billing.settle(refused(settlement))
    other.execute("ROLLBACK")
    await until(lambda: len(parts.records) == 2)
    assert parts.kinds == ["reserve", "void"]
    assert parts.records[1:] == [("req_1", 503, 0, 0)]
    assert parts.left == (1000, 0, 0, 0)


async def test_what_is_being_written_when_waiting_takes_too_long_is_waited_for(parts: Parts) -> None:
    parts.commit = parts.stop_in_commit
    hold = await parts.reserve()
    waiting = asyncio.ensure_future(hold.wait(over(hold)))
    await asyncio.sleep(2 * TIMEOUT_S)
    assert not waiting.done()
    parts.let_go.set()
    assert await waiting is None
    assert hold.joined
    await until(lambda: parts.left == (1000, 0, 42, 0))


@pytest.mark.slow
async def test_a_flush_that_takes_too_long_or_fails_refuses_nothing_that_is_charged(parts: Parts) -> None:
    parts.flush = lambda: asyncio.run(asyncio.sleep(3 * TIMEOUT_S))
    hold = await parts.reserve()
    assert await hold.wait(over(hold)) is None
    await until(lambda: hold.secured)

    def broken() -> None:
        raise OSError(5, "broken")

    parts.flush = broken
    second = await parts.reserve("req_2")
    assert await second.wait(over(second, name="req_2")) is None
    assert second.joined
    assert not second.secured
    assert parts.left == (1000, 0, 84, 0)
    assert parts.billing.unable() is STORE_UNAVAILABLE
    assert [row[1] for row in parts.records[1:]] == [200, 200]


@pytest.mark.parametrize("happened", [True, False])
async def test_a_commit_that_fails_is_looked_at(parts: Parts, happened: bool) -> None:
    def fail(happens: Callable[[], Any]) -> None:
        if happened:
            happens()
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR"
        raise error

    parts.commit = fail
    hold = await parts.reserve()
    said = await hold.wait(over(hold))
    assert said is (None if happened else STORE_UNAVAILABLE)
    assert hold.joined is happened
    assert parts.kinds == (["reserve", "post"] if happened else [])
    assert parts.billing.unable() is STORE_UNAVAILABLE


async def test_who_leaves_before_it_is_written_is_settled_as_one_who_left(parts: Parts) -> None:
    hold = await parts.reserve()
    settlement = over(hold)
    waiting = asyncio.ensure_future(hold.wait(settlement))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not hold.joined
    settlement.status, settlement.termination_reason = 499, "client_gone"
    parts.billing.settle(settlement)
    await until(lambda: len(parts.records) == 2)
    assert parts.records[1][:3] == ("req_1", 499, 30)
    assert parts.left == (1000, 0, 42, 0)


@pytest.mark.parametrize("times", [1, 3])
async def test_who_leaves_while_it_is_being_written_finds_it_as_it_was(parts: Parts, times: int) -> None:
    parts.commit = parts.stop_in_commit
    hold = await parts.reserve()
    settlement = over(hold)
    waiting = asyncio.ensure_future(hold.wait(settlement))
    await until(parts.reached.is_set)
    for _ in range(times):
        waiting.cancel()
        await asyncio.sleep(0.02)
    assert not waiting.done()
    parts.let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert hold.joined
    assert parts.billing.settle(settlement) is None
    await until(lambda: parts.left == (1000, 0, 42, 0))
    assert parts.records[1][:3] == ("req_1", 200, 30)


async def test_an_attempt_that_fails_frees_what_it_was_about_to_write(parts: Parts) -> None:
    def full(happens: Callable[[], Any]) -> None:
        parts.reached.set()
        error = sqlite3.OperationalError("full")
        error.sqlite_errorname = "SQLITE_FULL"
        raise error

    parts.commit = full
    hold = await parts.reserve()
    settlement = over(hold)
    assert await hold.wait(settlement) is STORE_UNAVAILABLE
    assert parts.reached.is_set()
    parts.billing.settle(refused(settlement))
    parts.commit = None
    await until(lambda: len(parts.records) == 2)
    assert parts.kinds == ["reserve", "void"]
