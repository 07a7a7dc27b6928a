"""Each statement of the store fails once, in each way; the disk is busy, full, broken. Nothing is ever acknowledged
that is not on disk, nothing is charged twice, and what cannot be written stops metered requests.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.billing import billing_on, committer_of
from tests.support.empty_stores import empty_store
from tests.support.fakes import make_job
from zuebee.billing.service import BillingService
from zuebee.config.settings_billing import BillingSettings, PriceSettings
from zuebee.contracts.admission import Amount, Budget, Grant, Principal, Settlement
from zuebee.contracts.errors import STORE_UNAVAILABLE, Refusal
from zuebee.contracts.inference import Usage
from zuebee.ledger.audit import reading, verify
from zuebee.ledger.errors import StoreBusy, StoreFailed
from zuebee.ledger.sqlite.group_commit import Batch
from zuebee.ledger.sqlite.store import SqliteStore, connect

WHO = Principal(
    "k",
    "key",
    budgets=(
        Budget("key:k/tokens/never", "tokens", "never", 1_000_000),
        Budget("team:t/USD/never", "USD", "never", 1_000_000_000),
    ),
)
PRICES = [PriceSettings(model="m", input_per_million="1", output_per_million="2")]
REQUESTS = 4


def sqlite_error(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(name)
    error.sqlite_errorname = name
    return error


class Failing:
    """A connection whose n-th statement, counted over all connections, does not go well."""

    def __init__(self, path: str, faults: "Faults") -> None:
        self._db = connect(path)
        self._faults = faults

    def execute(self, sql: str, values: Any = ()) -> Any:
        return self._faults.around(lambda: self._db.execute(sql, values))

    def executemany(self, sql: str, rows: Any) -> Any:
        return self._faults.around(lambda: self._db.executemany(sql, rows))

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def close(self) -> None:
        self._db.close()


class Faults:
    """`how`: `before` and `after` raise `error` before or after the statement is done; `slow` takes its time."""

    def __init__(self, how: str, nth: int, error: str = "SQLITE_IOERR") -> None:
        self.count = 0
        self._how, self._nth, self._error = how, nth, error
        self._lock = threading.Lock()

    def around(self, run: Callable[[], Any]) -> Any:
        with self._lock:
            self.count += 1
            hit = self.count == self._nth
        if not hit:
            return run()
        if self._how == "before":
            raise sqlite_error(self._error)
        said = run()
        if self._how == "after":
            raise sqlite_error(self._error)
        time.sleep(0.05)
        return said


def open_billing(path: Path, make: Callable[[str], Any] = connect) -> BillingService:
    settings = BillingSettings(prices=PRICES, built_in_prices=False)
    store = SqliteStore(str(path), reporters=("hook",), currency="USD", retention_days=0, connect=make)
    return billing_on(store, settings, commit_interval_s=0.001, timeout_s=2.0)


class Witness:
    """What the callers were told."""

    def __init__(self) -> None:
        self.tried: set[str] = set()
        self.acknowledged: set[str] = set()
        self.refused = 0

    async def request(self, billing: BillingService, name: str) -> None:
        if billing.unable() is not None:
            self.refused += 1
            return
        self.tried |= {f"reserve {name}", f"post {name}", f"record {name}"}
        held = await billing.reserve(WHO, make_job(model="m", request_id=name), Amount(100, 1000))
        if isinstance(held, Refusal):
            self.refused += 1
            assert held == STORE_UNAVAILABLE
            return
        refusal = await held.wait()
        assert (refusal is None) == held.secured
        if refusal is not None:
            self.refused += 1
        else:
            self.acknowledged.add(f"reserve {name}")
        usage = Usage(3, 4, "provider") if refusal is None else None
        grant = Grant(WHO, hold=held)
        settlement = Settlement(
            name, "POST", "/", "", 1.0, 200, "complete", principal=WHO, grant=grant, model="m", usage=usage
        )
        batch = billing.settle(settlement)
        assert isinstance(batch, Batch)
        await batch
        if batch.written:
            self.acknowledged |= {f"{'post' if usage else 'void'} {name}", f"record {name}"}
        self.tried.add(f"void {name}")

    def check(self, path: Path) -> None:
        """What is on disk, as the next start will find it, and after that start."""
        stored = _stored(path)
        assert self.acknowledged <= stored, f"acknowledged, and lost: {self.acknowledged - stored}"
        assert stored <= self.tried, f"nobody asked for: {stored - self.tried}"
        with reading(str(path)) as connection:
            assert list(verify(connection)) == []


def _stored(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT kind, hold FROM ledger_entries WHERE kind IN ('reserve', 'post', 'void')")
    stored = {f"{kind} {hold}" for kind, hold in rows}
    stored |= {f"record {name}" for (name,) in connection.execute("SELECT request_id FROM usage_records")}
    connection.close()
    return stored


async def _work(path: Path, faults: Faults, witness: Witness) -> str:
    """Requests one after the other and at once; answers with what failed, if anything."""
    try:
        billing = open_billing(path, lambda name: Failing(name, faults))
    except (StoreBusy, StoreFailed, sqlite3.Error) as error:
        return f"start: {error}"
    try:
        async with asyncio.timeout(20):
            await witness.request(billing, "first")
            await asyncio.gather(*(witness.request(billing, f"r{number}") for number in range(REQUESTS)))
            await witness.request(billing, "last")
        failure = committer_of(billing).failure
        assert (billing.unable() is not None) == bool(failure)
    finally:
        await billing.aclose()
    return failure


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("before", "SQLITE_IOERR"),
        ("before", "SQLITE_BUSY"),
        ("before", "SQLITE_FULL"),
        ("before", "SQLITE_CORRUPT"),
        ("after", "SQLITE_IOERR_FSYNC"),
        ("after", "SQLITE_BUSY"),
        ("slow", ""),
    ],
)
@pytest.mark.requirement("A098")
async def test_whichever_statement_fails_nothing_is_said_that_is_not_so(tmp_path: Path, how: str, error: str) -> None:
    nth, failures = 0, 0
    while True:
        nth += 1
        path = tmp_path / f"{nth}.db"
        empty_store(path)
        faults, witness = Faults(how, nth, error), Witness()
        failures += bool(await _work(path, faults, witness))
        witness.check(path)
        if faults.count < nth:
            break
    assert nth > 20
    if how != "slow" and error.startswith("SQLITE_IOERR"):
        assert failures > 5  # the store marks itself failed


async def test_a_store_that_acknowledges_a_failed_commit_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SqliteStore.write

    def write_and_hope(self: SqliteStore, batch: Batch) -> None:
        try:
            real(self, batch)
        except StoreFailed:
            return

    monkeypatch.setattr(SqliteStore, "write", write_and_hope)
    seen = 0
    for nth in range(1, 40):
        path = tmp_path / f"{nth}.db"
        empty_store(path)
        witness = Witness()
        await _work(path, Faults("before", nth), witness)
        try:
            witness.check(path)
        except AssertionError:
            seen += 1
    assert seen


async def test_while_the_disk_is_full_metered_requests_are_refused_and_none_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "z.db"
    empty_store(path)
    opened: list[sqlite3.Connection] = []

    def small(name: str) -> sqlite3.Connection:
        opened.append(connect(name))
        return opened[-1]

    billing, witness = open_billing(path, small), Witness()
    await witness.request(billing, "before")
    opened[0].execute("PRAGMA max_page_count=1")  # no page more than there are
    waiting = [asyncio.ensure_future(witness.request(billing, f"r{number}")) for number in range(300)]
    await _until(lambda: billing.unable() is not None)
    await witness.request(billing, "meanwhile")
    assert witness.refused == 1
    opened[0].execute("PRAGMA max_page_count=100000")
    await asyncio.gather(*waiting)
    await _until(lambda: billing.unable() is None)
    await witness.request(billing, "after")
    await billing.aclose()
    witness.check(path)
    assert {"post before", "post r0", "post r299", "post after"} <= witness.acknowledged


async def test_while_another_process_locks_the_file_metered_requests_are_refused_and_none_is_lost(
    tmp_path: Path,
) -> None:
    path = tmp_path / "z.db"
    empty_store(path)
    billing, witness = open_billing(path), Witness()
    await witness.request(billing, "before")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.ensure_future(witness.request(billing, "during"))
    await _until(lambda: billing.unable() is not None)
    await witness.request(billing, "meanwhile")
    other.execute("ROLLBACK")
    other.close()
    await waiting
    await billing.aclose()
    witness.check(path)
    assert witness.refused == 1
    assert {"post before", "post during"} <= witness.acknowledged


async def _until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not check():  # noqa: ASYNC110  (nothing tells when)
            await asyncio.sleep(0.02)
