"""With a journal nobody waits for the transaction of a settlement, and a kill before it loses nothing."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.billing import committer_of, ledger_of, local_billing, unlock
from tests.support.fakes import make_job
from zuebee.billing.service import BillingService
from zuebee.config.settings_billing import BillingSettings
from zuebee.contracts.admission import Amount, Budget, Grant, Hold, Principal, Settlement
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Usage
from zuebee.ledger.audit import reading, verify
from zuebee.ledger.sqlite.journal import HALF_BYTES, Journal
from zuebee.ledger.sqlite.store import connect

WHO = Principal("k", "key", "user", tags=("t",), budgets=(Budget("key:k/tokens/never", "tokens", "never", 1000),))
USAGE = Usage(30, 12, "provider", 5)


class Mortal:
    """A connection of a process: nothing is written any more once that is dead."""

    def __init__(self, path: str, process: "Process") -> None:
        self._db = connect(path)
        self._process = process

    def execute(self, sql: str, values: Any = ()) -> Any:
        self._process.must_live()
        return self._db.execute(sql, values)

    def executemany(self, sql: str, rows: Any) -> Any:
        self._process.must_live()
        return self._db.executemany(sql, rows)

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def close(self) -> None:
        self._db.close()


class Process:
    """One that serves from a file, until it dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(f"{path}.settled")
        self._is_dead = self._is_over = False
        self.billing = local_billing(
            path, BillingSettings(built_in_prices=False), reporters=("hook",), commit_interval_s=5.0,
            journal=self.journal, connect=lambda name: Mortal(name, self),
        )  # fmt: skip

    def must_live(self) -> None:
        """Raises what a store takes for the end of its file."""
        if self._is_dead:
            raise sqlite3.DatabaseError("its process is dead")

    def die(self) -> None:
        """Nothing more goes to the store, and its lock is free."""
        self._is_dead = True
        unlock(self.path)

    async def aclose(self) -> None:
        """End what runs of it; of a dead one that changes nothing."""
        if not self._is_over:
            self._is_over = True
            await self.billing.aclose()


Start = Callable[[Path], Awaitable[Process]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts processes that take lines."""
    made = []

    async def start(path: Path) -> Process:
        process = Process(path)
        made.append(process)
        committer = committer_of(process.billing)
        await committer.hurry(committer.current)
        return process

    yield start
    for process in made:
        await process.aclose()


@pytest.fixture
async def billing(start: Start, tmp_path: Path) -> BillingService:
    return (await start(tmp_path / "z.db")).billing


async def reserve(billing: BillingService, name: str = "req_1") -> Hold:
    hold = await billing.reserve(WHO, make_job(request_id=name, model="m", stream=True), Amount(100))
    assert not isinstance(hold, Refusal)
    assert await hold.wait() is None
    return hold


def over(hold: Hold, usage: Usage | None = USAGE, name: str = "req_1") -> Settlement:
    grant = Grant(WHO, hold=hold)
    return Settlement(
        name, "GRPC", "/v1/chat/completions", "", 1.0, 200, "complete", principal=WHO, grant=grant, model="m",
        stream=True, backend="gpu", usage=usage, duration_s=1.5,
    )  # fmt: skip


def rows(path: Path) -> list[dict[str, Any]]:
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute("SELECT * FROM usage_records ORDER BY id")]
    finally:
        connection.close()


def used(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT sum(used) FROM ledger_balances").fetchone()[0])
    finally:
        connection.close()


async def test_nobody_waits_for_a_settlement_that_stands_in_the_journal(
    billing: BillingService, tmp_path: Path
) -> None:
    hold = await reserve(billing)
    assert billing.settle(over(hold)) is None
    assert len(Journal(f"{tmp_path}/z.db.settled").found) == 1
    await asyncio.sleep(0.1)
    assert [row["request_id"] for row in rows(tmp_path / "z.db")] == ["req_1"]
    assert Journal(f"{tmp_path}/z.db.settled").found == []


@pytest.mark.requirement("A098")
@pytest.mark.parametrize("usage", [USAGE, Usage(1, 200, "partial"), None])
async def test_what_died_before_its_transaction_is_settled_exactly(
    start: Start, tmp_path: Path, usage: Usage | None
) -> None:
    path = tmp_path / "z.db"
    dying = await start(path)
    await reserve(dying.billing, "lost")
    kept = await reserve(dying.billing, "kept")
    dying.die()
    assert dying.billing.settle(over(kept, usage, "kept")) is None
    assert rows(path) == []
    for _ in range(2):  # and once more: what is settled is settled
        (await start(path)).die()
        found = {row["request_id"]: row for row in rows(path)}
        assert found["lost"]["code"] == "owner_lost"
        row = found["kept"]
        assert (row["status"], row["termination_reason"], row["method"], row["backend"]) == (
            200,
            "complete",
            "GRPC",
            "gpu",
        )
        assert (row["prompt_tokens"], row["completion_tokens"], row["usage_source"]) == (
            (usage.prompt_tokens, usage.completion_tokens, usage.source) if usage else (None, None, None)
        )
        assert (row["duration_ms"], row["tags"]) == (1500.0, '["t"]')
        assert used(path) == (usage.total_tokens if usage else 0)
        with reading(str(path)) as connection:
            assert list(verify(connection)) == []


async def test_what_stands_behind_a_damaged_line_is_settled_all_the_same(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "z.db"
    dying = await start(path)
    holds = {name: await reserve(dying.billing, name) for name in ("bad", "good", "fine")}
    dying.die()
    for name, hold in holds.items():
        assert dying.billing.settle(over(hold, name=name)) is None
    journal = tmp_path / "z.db.settled"
    journal.write_bytes(journal.read_bytes().replace(b'["bad"', b'["bat"'))
    heir = await start(path)
    assert heir.billing.ledger.damaged == 1
    heir.die()
    assert {row["request_id"]: row["code"] for row in rows(path)} == {"bad": "owner_lost", "good": "", "fine": ""}
    assert used(path) == 2 * USAGE.total_tokens
    with reading(str(path)) as connection:
        assert list(verify(connection)) == []
    assert (await start(path)).billing.ledger.damaged == 0, "it was told, and is gone"


async def test_until_the_dead_are_settled_everybody_waits_for_the_store(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "z.db"
    dying = await start(path)
    hold = await reserve(dying.billing)
    dying.die()
    dying.billing.settle(over(hold))
    heir = Process(path).billing
    held = await heir.reserve(WHO, make_job(request_id="new"), Amount(10))
    assert not isinstance(held, Refusal)
    stored = heir.settle(over(held, name="new"))
    assert stored is not None, "the journal still has what only it knows"
    await stored
    assert {row["request_id"] for row in rows(path)} == {"req_1", "new"}
    await heir.aclose()


async def test_a_line_without_room_waits_for_the_store(start: Start, tmp_path: Path) -> None:
    process = await start(tmp_path / "z.db")
    hold = await reserve(process.billing)
    process.journal.add(b"x" * (HALF_BYTES - 100))
    stored = process.billing.settle(over(hold))
    assert stored is not None
    await stored


async def test_a_settlement_that_comes_late_waits_for_the_store(billing: BillingService) -> None:
    """Its hold is not open any more, so no start would look for it in the journal."""
    hold = await reserve(billing)
    ledger_of(billing).expire("req_1", 5.0)
    stored = billing.settle(over(hold))
    assert stored is not None
    await stored


async def test_a_journal_that_cannot_be_read_changes_nothing(start: Start, tmp_path: Path) -> None:
    journal = Journal(f"{tmp_path}/z.db.settled")
    journal.forget()
    for line in (b"nonsense", b"[]", b'["unknown hold"]', b"\xff"):
        journal.add(line)
    process = await start(tmp_path / "z.db")
    assert process.billing.settle(over(await reserve(process.billing))) is None
    await process.aclose()
    assert [row["request_id"] for row in rows(tmp_path / "z.db")] == ["req_1"]
