"""PostgreSQL behind a pooler that gives each transaction another server, and behind one that falls silent."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy

from tests.support.client import HELLO, ask
from tests.support.databases import postgres_database
from tests.support.pgbouncer import SERVERS, pgbouncer_before
from tests.support.processes import KEY, Gateway, running, simulated
from tests.support.raw_http import eventually
from tests.support.shared_ledger import balances, check_books, check_usage, post, query, record, reserve, store_on
from tests.support.tcp_proxy import proxy_before
from zuebee.contracts.admission import Budget
from zuebee.ledger.entries import HoldState
from zuebee.ledger.errors import StoreBusy
from zuebee.ledger.operations import Settle
from zuebee.ledger.postgres import connection
from zuebee.ledger.postgres.commit import SharedCommitter
from zuebee.ledger.postgres.spool import Spool
from zuebee.lib.sql import postgres
from zuebee.lib.sql.database import Database, DatabaseError, database_url
from zuebee.schema.prepare import prepare

BUDGET = Budget("key:1/tokens/never", "tokens", "never", 10**9)
CLIENTS, REQUESTS = 12, 15
LEFT_BEHIND = (
    "SELECT (SELECT count(*) FROM pg_prepared_statements),"
    " (SELECT count(*) FROM pg_settings WHERE source = 'session' AND name ~ 'timeout|commit')"
)


@pytest.fixture
def url() -> Iterator[str]:
    with postgres_database() as address:
        prepare(address)
        yield address


@pytest.fixture
def pooled(url: str) -> Iterator[str]:
    with pgbouncer_before(url) as address:
        assert len(servers_of(address)) == SERVERS, "all are there, and take turns"
        yield address


class Seen:
    """What became of requests."""

    def __init__(self) -> None:
        self.posted = 0
        self.refused = 0
        self.failed = 0


async def crowd(address: str, folder: Path) -> Seen:
    """Requests on two processes' worth of ledgers, while somebody else uses the same servers."""
    seen = Seen()
    committers = [
        SharedCommitter(store_on(address), Spool(str(folder / f"{name}.jsonl")), timeout_s=5) for name in ("a", "b")
    ]

    async def client(name: int) -> None:
        committer = committers[name % 2]
        for number in range(REQUESTS):
            hold = f"{name}_{number}"
            try:
                held = await committer.ask(reserve(hold, (BUDGET,), 10))
            except StoreBusy:
                held = None
            if held is None:
                seen.refused += 1
                continue
            settled = committer.settle(post(hold, 6))
            assert settled is not None
            await settled
            seen.posted += 1
            if number % 5 == 0:
                committer.sweep()

    await asyncio.gather(*map(client, range(CLIENTS)))
    for committer in committers:
        await committer.aclose()
    seen.failed = sum(committer.failed for committer in committers)
    return seen


def servers_of(pooled: str) -> list[tuple[int, int]]:
    """What each of the pooler's servers has kept of sessions: prepared statements, and settings."""
    found: dict[int, tuple[int, int]] = {}
    links = [psycopg.connect(pooled, prepare_threshold=None) for _ in range(SERVERS)]
    for link in links:
        with link.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            [(pid,)] = cursor.fetchall()
            cursor.execute(LEFT_BEHIND.encode())
            found[pid] = cursor.fetchall()[0]
    for link in links:
        link.close()
    return list(found.values())


def test_requests_through_a_pooler_are_all_settled_and_leave_nothing_behind(
    url: str, pooled: str, tmp_path: Path
) -> None:
    seen = asyncio.run(crowd(pooled, tmp_path))
    assert (seen.posted, seen.refused, seen.failed) == (CLIENTS * REQUESTS, 0, 0)
    assert balances(url)[BUDGET.account][1:4] == (0, 6 * seen.posted, 0)
    assert query(url, "SELECT count(*) FROM usage_records") == [(seen.posted,)]
    assert servers_of(pooled) == [(0, 0)] * SERVERS
    check_books(url)
    check_usage(url)


def test_a_pooler_that_is_taken_for_the_server_would_be_seen(
    pooled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_settle_in", lambda link: True)
    monkeypatch.setattr(connection, "MIXED_UP", ())
    monkeypatch.setattr(connection, "_NEVER", (psycopg.ProgrammingError,))
    seen = asyncio.run(crowd(pooled, tmp_path))
    # Whether requests fail is a matter of luck, what they leave to others is not.
    assert seen.failed or seen.refused or any(names for names, _ in servers_of(pooled))


def test_a_pooler_that_hides_is_known_by_what_it_mixes_up(
    url: str, pooled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_settle_in", lambda link: True)
    seen = asyncio.run(crowd(pooled, tmp_path))
    assert seen.failed == 0
    assert balances(url)[BUDGET.account][1:4] == (0, 6 * seen.posted, 0)
    assert query(url, "SELECT count(*) FROM usage_records") == [(seen.posted,)]
    check_books(url)
    check_usage(url)


def test_each_transaction_through_a_pooler_is_bounded(pooled: str) -> None:
    store = store_on(pooled, timeout_s=3)
    database = Database(database_url("postgres", pooled), timeout_s=2)
    asked = "SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')"
    with store.apart() as link:
        assert link.execute(asked.encode()).fetchone() == ("3s", "3s")
    assert database.call(lambda c: c.execute(sqlalchemy.text("SHOW statement_timeout")).scalar()) == "2s"
    database.close()
    store.disconnect()


def test_work_off_the_hot_path_goes_through_a_pooler(pooled: str) -> None:
    database = Database(database_url("postgres", pooled), timeout_s=5)

    counts = sqlalchemy.text("SELECT count(*) FROM keys WHERE id = :id")

    def work(connection: sqlalchemy.Connection) -> object:
        return connection.execute(counts, {"id": "x"}).scalar()

    async def run() -> list[object]:
        return await asyncio.gather(*(database.run(work) for _ in range(100)))

    assert asyncio.run(run()) == [0] * 100
    database.close()
    assert servers_of(pooled) == [(0, 0)] * SERVERS


def test_a_pooler_without_transactions_is_refused_with_a_sentence(url: str, tmp_path: Path) -> None:
    with (
        pgbouncer_before(url, "statement") as address,
        simulated(tmp_path / "sim") as sim,
        pytest.raises(AssertionError, match=r"allows no transactions: it must have `pool_mode = transaction`"),
    ):
        Gateway(tmp_path / "a", gateway_on(address, sim.url, tmp_path / "a"))


def gateway_on(address: str, backend: str, folder: Path) -> dict[str, Any]:
    return {
        "backends": [{"url": backend}],
        "api_keys": [{"key": KEY, "name": "test", "total_quota": 100_000}],
        "store": {"url": address, "spool_path": str(folder / "spool.jsonl"), "timeout": "10s"},
        "idempotency": {},
    }


def test_a_gateway_makes_its_store_through_a_pooler_and_keeps_answers_there(tmp_path: Path) -> None:
    with postgres_database() as url, pgbouncer_before(url) as address, simulated(tmp_path / "sim") as sim:
        with running(tmp_path / "a", gateway_on(address, sim.url, tmp_path / "a")) as gateway:
            for number in range(20):
                headers = [("Idempotency-Key", f"k_{number % 10}")]
                assert ask(gateway.url, {**HELLO, "max_tokens": 5}, headers=headers).status == 200
        assert query(url, "SELECT count(*) FROM usage_records WHERE termination_reason = 'complete'") == [(10,)]
        assert query(url, "SELECT held FROM ledger_balances") == [(0,)]
        check_books(url)
        check_usage(url)


# --- failures that are not an operation's own ---


@pytest.mark.parametrize(
    ("break_it", "mend_it"),
    [
        ("ALTER TABLE usage_days RENAME TO usage_days_2", "ALTER TABLE usage_days_2 RENAME TO usage_days"),
        ("ALTER TABLE usage_days RENAME requests TO r", "ALTER TABLE usage_days RENAME r TO requests"),
    ],
)
async def test_a_settlement_outlives_a_store_that_is_not_in_order(
    url: str, tmp_path: Path, break_it: str, mend_it: str
) -> None:
    committer = SharedCommitter(store_on(url), Spool(str(tmp_path / "spool.jsonl")), timeout_s=5)
    assert isinstance(await committer.ask(reserve("r", (BUDGET,), 10)), HoldState)
    change(url, break_it)
    settled = [committer.settle(post("r", 6)), committer.settle(Settle("", None, record("free", 1)))]
    for each in settled:
        assert each is not None
        await each  # it is in the spool file
    assert not is_up(committer)
    assert balances(url)[BUDGET.account][1:3] == (10, 0)
    change(url, mend_it)
    await eventually(lambda: is_up(committer), "the store is in order again")
    assert isinstance(await committer.ask(reserve("s", (BUDGET,), 10)), HoldState)
    await committer.aclose()
    assert committer.failed == 0
    assert balances(url)[BUDGET.account][1:3] == (10, 6)
    assert query(url, "SELECT count(*) FROM usage_records") == [(2,)]


def is_up(committer: SharedCommitter) -> bool:
    return not committer.down


def change(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as link:
        link.execute(statement.encode())


# --- silence ---


@pytest.mark.parametrize("driver_counts", [True, False])
def test_a_server_that_falls_silent_is_given_up_whoever_asks(
    url: str, monkeypatch: pytest.MonkeyPatch, driver_counts: bool
) -> None:
    monkeypatch.setattr(postgres, "_CAN_END", driver_counts)
    with proxy_before(url) as (proxy, address):
        store = store_on(address, timeout_s=0.5)
        proxy.silent = True
        with pytest.raises(StoreBusy):
            store.sweep()
        proxy.heal()
        store.resume()
        assert store.apply(1, [reserve("r", (BUDGET,), 10)]) is not None
        store.disconnect()


def still_waiting(url: str, patience_s: float) -> int:
    """How many of two threads wait, so much later, for a database that has fallen silent."""
    with proxy_before(url) as (proxy, address):
        database = Database(database_url("postgres", address), timeout_s=0.3, max_connections=2)

        def work(connection: sqlalchemy.Connection) -> object:
            return connection.execute(sqlalchemy.text("SELECT 1")).scalar()

        def call() -> None:
            with suppress(DatabaseError):
                database.call(work)

        assert database.call(work) == 1
        proxy.silent = True
        threads = [threading.Thread(target=call, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(patience_s)
        waiting = sum(thread.is_alive() for thread in threads)
        proxy.heal()
        assert database.call(work) == 1
        database.close()
        return waiting


def test_threads_come_back_from_a_database_that_falls_silent(url: str) -> None:
    assert still_waiting(url, 15) == 0


def test_threads_that_do_not_come_back_would_be_seen(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "GRACE_S", 600.0)
    assert still_waiting(url, 2)
