"""Whatever is settled, whenever, and whenever invoices are made: each amount is on exactly one of them."""

import asyncio
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.billing import billing_on, shared_billing
from tests.support.databases import postgres_database
from tests.support.fakes import make_job
from zuebee.accounts.invoices import Invoices
from zuebee.accounts.schemas import AccountsError
from zuebee.accounts.service import AccountsService
from zuebee.config.settings_billing import BillingSettings, PriceSettings
from zuebee.contracts.admission import Amount, Budget, Grant, Principal, Settlement
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Usage
from zuebee.ledger.postgres.store import PostgresStore
from zuebee.ledger.sqlite.store import SqliteStore
from zuebee.ledger.usage_rows import MAX_NAMES
from zuebee.lib import clock
from zuebee.lib.sql.database import Database, database_url
from zuebee.schema.prepare import prepare

STEPS = 120
MONTHS = ("2025-10", "2025-11", "2025-12", "2026-01")
DAY_S = 86400.0
BUDGETS = (Budget("organization:acme/USD/never", "USD", "never", 10**15),)


class Clock:
    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.s = datetime(2025, 10, 2, tzinfo=UTC).timestamp()
        patch.setattr(clock, "wall_s", lambda: self.s)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        prepare(str(tmp_path / "store.db"))
        yield str(tmp_path / "store.db")
        return
    with postgres_database() as url:
        prepare(url)
        yield url


def open_billing(place: str, folder: Path) -> Any:
    settings = BillingSettings(
        prices=[PriceSettings(model="*", input_per_million="1", output_per_million="2")], built_in_prices=False
    )
    options = {"reporters": (), "currency": "USD", "retention_days": 20}
    if place.startswith("postgres"):
        store = PostgresStore(place, timeout_s=5, hold_s=30, **options)  # type: ignore[arg-type]
        spool = str(folder / "spool.jsonl")
        return shared_billing(store, settings, spool_path=spool)
    local = SqliteStore(place, **options)  # type: ignore[arg-type]
    return billing_on(local, settings, commit_interval_s=0.001)


def database_at(place: str) -> Database:
    url = database_url("postgres", place) if place.startswith("postgres") else f"sqlite:///{place}"
    return Database(url, timeout_s=5)


class Desk:
    """Requests of one organization, and its invoices."""

    def __init__(self, place: str, folder: Path, now: Clock, seed: int) -> None:
        self.database = database_at(place)
        AccountsService(self.database, currency="USD").create("organization", {"id": "acme"})
        self.invoices = Invoices(self.database, currency="USD")
        self.billing = open_billing(place, folder)
        self.now = now
        self.chance = random.Random(seed)
        self.running: list[Settlement] = []
        self.made: dict[str, int] = {}
        self._number = 0

    async def begin(self, model: str) -> None:
        self._number += 1
        name = f"req_{self._number}"
        who = Principal("k", "key", f"user{self.chance.randint(1, 3)}", organization_id="acme", budgets=BUDGETS)
        hold = await self.billing.reserve(who, make_job(request_id=name, model=model), Amount(1000, 1_000_000))
        assert not isinstance(hold, Refusal)
        grant = Grant(who, hold=hold)
        self.running.append(
            Settlement(name, "POST", "/", "", self.now.s, 200, "complete", principal=who, grant=grant, model=model)
        )

    async def end(self) -> None:
        if self.running:
            settlement = self.running.pop(self.chance.randrange(len(self.running)))
            if self.chance.random() < 0.9:
                settlement.usage = Usage(self.chance.randint(0, 500), self.chance.randint(0, 900), "provider")
            stored = self.billing.settle(settlement)
            if stored is not None:
                await stored

    def bill(self, month: str) -> None:
        try:
            made = self.invoices.make("acme", month)
        except AccountsError:
            return
        assert self.made.setdefault(month, made["total_nano"]) == made["total_nano"], "it stays as it was made"

    def used(self) -> int:
        return int(
            self.database.call(lambda c: c.exec_driver_sql("SELECT sum(used) FROM ledger_balances").scalar_one())
        )


@pytest.mark.parametrize("seed", range(2))
async def test_the_sum_of_all_invoices_is_what_the_ledger_says(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    now = Clock(monkeypatch)
    desk = Desk(place, tmp_path, now, seed)
    for _ in range(STEPS):
        fate = desk.chance.random()
        if fate < 0.45:
            await desk.begin(desk.chance.choice(["m", "n", f"made-up-{desk.chance.random()}"]))
        elif fate < 0.85:
            await desk.end()
        elif fate < 0.93:
            now.s += desk.chance.random() * 4 * DAY_S
        else:
            desk.bill(desk.chance.choice(MONTHS))
    while desk.running:
        await desk.end()
    await asyncio.sleep(0.05)
    await desk.billing.aclose()
    now.s = datetime(2026, 5, 1, tzinfo=UTC).timestamp()
    for month in (*MONTHS, "2026-02", "2026-03", "2026-04"):
        desk.bill(month)
    assert desk.used() > 0
    assert sum(desk.made.values()) == desk.used()
    desk.database.close()


async def test_made_up_names_do_not_keep_a_month_from_its_invoice(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = Clock(monkeypatch)
    desk = Desk(place, tmp_path, now, 1)
    for number in range(1_500):
        await desk.begin(f"made-up-{number}")
    while desk.running:
        settlement = desk.running.pop()
        settlement.usage = Usage(1, 1, "provider")
        desk.billing.settle(settlement)
    await desk.billing.aclose()
    now.s = datetime(2025, 11, 1, tzinfo=UTC).timestamp()
    invoice = desk.invoices.make("acme", "2025-10")
    assert len({line["model"] for line in invoice["lines"]}) == MAX_NAMES + 1
    assert (sum(line["requests"] for line in invoice["lines"]), invoice["total_nano"]) == (1_500, desk.used())
    desk.database.close()
