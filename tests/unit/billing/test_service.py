import asyncio
import gc
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.billing import committer_of, ledger_of, local_billing, unlock
from tests.support.fakes import make_job
from zuebee.billing.pricing import Quote
from zuebee.billing.service import BillingService
from zuebee.config.settings_billing import BillingSettings, PriceSettings
from zuebee.contracts.admission import Amount, Budget, Grant, Hold, Need, Principal, Settlement
from zuebee.contracts.errors import STORE_UNAVAILABLE, Refusal
from zuebee.contracts.inference import Usage
from zuebee.ledger.ledger import MAX_RESOLVED
from zuebee.ledger.sqlite.group_commit import Batch
from zuebee.ledger.sqlite.wal_file import Log, WalFile

TOKENS = Principal("k", "key", "user", budgets=(Budget("key:k/tokens/never", "tokens", "never", 1000),))
MONEY = Principal("k", "key", "user", budgets=(Budget("team:t/USD/never", "USD", "never", 5000),))
FREE = Principal("f", "free", "user")
PRICES = [PriceSettings(model="m", input_per_million="1", output_per_million="2")]  # 1,000 and 2,000 nano a token


def open_billing(path: Path, open_log: Callable[[str], Log] = WalFile, **changes: Any) -> BillingService:
    settings = BillingSettings(prices=PRICES, built_in_prices=False, **changes)
    return local_billing(path, settings, open_log=open_log)


@pytest.fixture
async def billing(tmp_path: Path) -> AsyncIterator[BillingService]:
    billing = open_billing(tmp_path / "z.db")
    yield billing
    await billing.aclose()


async def reserve(billing: BillingService, who: Principal, amount: Amount, **job: Any) -> Hold:
    held = await billing.reserve(who, make_job(**job), amount)
    assert not isinstance(held, Refusal)
    return held


def over(hold: Hold | None, who: Principal, usage: Usage | None, request_id: str = "req_1") -> Settlement:
    grant = Grant(who, hold=hold)
    return Settlement(request_id, "POST", "/", "", 1.0, 200, principal=who, grant=grant, model="m", usage=usage)


def left(billing: BillingService) -> list[tuple[int, int, int]]:
    return [(balance.granted, balance.held, balance.used) for balance in billing.ledger.balances()]


async def test_a_hold_is_on_disk_before_it_counts_and_so_is_its_settlement(billing: BillingService) -> None:
    hold = await reserve(billing, TOKENS, Amount(100))
    assert not hold.secured
    assert await hold.wait() is None
    assert hold.secured
    assert left(billing) == [(1000, 100, 0)]
    stored = billing.settle(over(hold, TOKENS, Usage(30, 12, "provider")))
    assert stored is not None
    await stored
    assert left(billing) == [(1000, 0, 42)]


class Gate(WalFile):
    """A disk that takes its time over a flush."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.open = threading.Event()
        self.open.set()

    def flush(self) -> None:
        assert self.open.wait(5)
        super().flush()


@pytest.fixture
async def gate(tmp_path: Path) -> AsyncIterator[tuple[BillingService, Gate]]:
    gates: list[Gate] = []

    def open_log(path: str) -> Gate:
        gates.append(Gate(path))
        return gates[0]

    billing = open_billing(tmp_path / "z.db", open_log)
    yield billing, gates[0]
    gates[0].open.set()
    await billing.aclose()


def recorded(folder: Path) -> list[str]:
    connection = sqlite3.connect(folder / "z.db")
    try:
        return [name for (name,) in connection.execute("SELECT request_id FROM usage_records")]
    finally:
        connection.close()


async def test_the_end_of_an_answer_waits_for_no_flush_if_its_hold_was_flushed_before(
    gate: tuple[BillingService, Gate], tmp_path: Path
) -> None:
    billing, disk = gate
    hold = await reserve(billing, TOKENS, Amount(100), stream=True)
    assert await hold.wait() is None
    disk.open.clear()
    stored = billing.settle(over(hold, TOKENS, Usage(30, 12, "provider")))
    assert stored is not None
    await stored
    assert recorded(tmp_path) == ["req_1"], "others can read it, so it is committed"


async def test_no_answer_leaves_before_its_hold_is_flushed_also_if_they_go_to_disk_together(
    gate: tuple[BillingService, Gate], tmp_path: Path
) -> None:
    billing, disk = gate
    disk.open.clear()
    hold = await reserve(billing, TOKENS, Amount(100))
    stored = billing.settle(over(hold, TOKENS, Usage(30, 12, "provider")))
    assert stored is not None
    await stored
    assert recorded(tmp_path) == ["req_1"]
    assert not hold.secured
    waiting = asyncio.ensure_future(hold.wait())
    await asyncio.sleep(0.02)
    assert not waiting.done()
    disk.open.set()
    assert await waiting is None
    assert hold.secured


def batches_alive() -> int:
    gc.collect()
    return sum(isinstance(each, Batch) for each in gc.get_objects())


@pytest.mark.slow
async def test_what_is_settled_is_let_go_of(billing: BillingService) -> None:
    """A settlement leads to its hold, and that to the batch with the settlement: kept, they would stay for ever."""
    before = batches_alive()
    for number in range(20):
        name = f"req_{number}"
        hold = await reserve(billing, TOKENS, Amount(100), request_id=name)
        stored = billing.settle(over(hold, TOKENS, Usage(1, 1, "provider"), name))
        assert stored is not None
        await stored
    del hold, stored
    assert batches_alive() <= before + 2


async def test_a_settlement_that_comes_when_its_expiry_is_long_forgotten_is_still_charged(
    billing: BillingService,
) -> None:
    late = await reserve(billing, TOKENS, Amount(100), request_id="late")
    ledger_of(billing).expire("late", 5.0)
    for number in range(MAX_RESOLVED + 1):
        hold = await reserve(billing, TOKENS, Amount(1), request_id=f"req_{number}")
        billing.settle(over(hold, TOKENS, None, f"req_{number}"))
    billing.settle(over(late, TOKENS, Usage(30, 12, "provider"), "late"))
    assert left(billing) == [(1000, 0, 42)]


async def test_nothing_used_is_nothing_charged(billing: BillingService) -> None:
    hold = await reserve(billing, TOKENS, Amount(100))
    billing.settle(over(hold, TOKENS, None))
    assert left(billing) == [(1000, 0, 0)]


async def test_money_is_charged_at_the_price_of_the_moment_it_was_held(billing: BillingService) -> None:
    quote = billing.quote(MONEY, make_job(model="m"), Need(1, 1, 2, 2))
    assert isinstance(quote, Quote)
    assert (quote.tokens, quote.cost_nano) == (3, 5000)
    hold = await reserve(billing, MONEY, quote, model="m")
    settlement = over(hold, MONEY, Usage(1, 1, "provider"))
    billing.settle(settlement)
    assert settlement.cost_nano == 3000
    assert left(billing) == [(5000, 0, 3000)]


async def test_a_model_without_a_price_is_refused_to_who_pays_with_money_only(billing: BillingService) -> None:
    refusal = billing.quote(MONEY, make_job(model="unknown"), Need(1, 1, 2, 2))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "model_has_no_price"
    assert billing.quote(TOKENS, make_job(model="unknown"), Need(1, 1, 2, 2)) == Quote(3, 0)


@pytest.mark.slow
async def test_at_once_only_as_many_as_fit(billing: BillingService) -> None:
    asked = (billing.reserve(TOKENS, make_job(request_id=f"r{n}"), Amount(150)) for n in range(200))
    answers = await asyncio.gather(*asked)
    assert sum(not isinstance(answer, Refusal) for answer in answers) == 1000 // 150
    assert {answer.code for answer in answers if isinstance(answer, Refusal)} == {"quota_exceeded"}


async def test_what_costs_nothing_is_recorded_without_a_hold(billing: BillingService) -> None:
    assert billing.settle(over(None, FREE, Usage(1, 1, "provider"))) is None
    assert billing.ledger.balances() == []


def streaming(hold: Hold, who: Principal, usage: Usage) -> Grant:
    return Grant(who, hold=hold, usage_so_far=lambda: usage)


async def test_a_long_stream_holds_more_as_it_goes_on(billing: BillingService) -> None:
    hold = await reserve(billing, TOKENS, Amount(100))
    assert await billing.attend([streaming(hold, TOKENS, Usage(10, 80, "partial"))]) == []
    assert left(billing) == [(1000, 90 + 256, 0)]


async def test_a_stream_that_has_spent_what_there_is_is_cut(billing: BillingService) -> None:
    hold = await reserve(billing, TOKENS, Amount(100))
    grant = streaming(hold, TOKENS, Usage(10, 900, "partial"))
    assert await billing.attend([grant]) == []  # little is left, but it is not spent yet
    grant = streaming(hold, TOKENS, Usage(10, 1000, "partial"))
    ((cut, refusal),) = await billing.attend([grant])
    assert cut is grant
    assert refusal.code == "quota_exceeded"


async def test_by_policy_a_stream_may_finish_on_overdraft(tmp_path: Path) -> None:
    billing = open_billing(tmp_path / "z.db", on_exhausted="finish")
    hold = await reserve(billing, TOKENS, Amount(100))
    assert await billing.attend([streaming(hold, TOKENS, Usage(10, 1000, "partial"))]) == []
    billing.settle(over(hold, TOKENS, Usage(10, 1200, "provider")))
    assert left(billing) == [(1000, 0, 1210)]
    await billing.aclose()


async def test_a_bounded_answer_holds_no_more_than_its_bound(billing: BillingService) -> None:
    hold = await reserve(billing, TOKENS, Amount(100), max_output_tokens=90)
    await billing.attend([streaming(hold, TOKENS, Usage(10, 80, "partial"))])
    assert left(billing) == [(1000, 100, 0)]


@pytest.mark.requirement("A098")
async def test_after_a_crash_what_was_delivered_is_charged_and_the_rest_is_free(tmp_path: Path) -> None:
    path = tmp_path / "z.db"
    dying = open_billing(path)
    hold = await reserve(dying, TOKENS, Amount(100))
    await hold.wait()
    await dying.attend([streaming(hold, TOKENS, Usage(10, 30, "partial"))])
    await asyncio.sleep(0.05)
    unlock(path)
    heir = open_billing(path)
    await reserve(heir, TOKENS, Amount(960), request_id="all that is left")
    assert [(balance.held, balance.used) for balance in heir.ledger.balances()] == [(960, 40)]
    await heir.aclose()
    await dying.aclose()


async def test_a_limit_may_change_between_a_crash_and_the_first_request_after_it(tmp_path: Path) -> None:
    def paid_by(key_limit: int) -> Principal:
        key = Budget("key:k/tokens/never", "tokens", "never", key_limit)
        return Principal("k", "key", "user", budgets=(key, Budget("team:t/tokens/never", "tokens", "never", 1000)))

    dying = open_billing(tmp_path / "z.db")
    await (await reserve(dying, paid_by(1000), Amount(100))).wait()
    unlock(tmp_path / "z.db")
    heir = open_billing(tmp_path / "z.db")
    for number, limit in enumerate((500, 2000)):
        hold = await reserve(heir, paid_by(limit), Amount(100), request_id=f"req_{number + 2}")
        assert await hold.wait() is None
        assert heir.unable() is None
    assert left(heir) == [(2000, 200, 0), (1000, 200, 0)]
    await heir.aclose()
    await dying.aclose()


async def test_a_failed_store_refuses_what_must_be_metered(billing: BillingService) -> None:
    assert billing.unable() is None
    committer_of(billing).failure = "SQLITE_IOERR"
    assert billing.unable() == STORE_UNAVAILABLE
    hold = await reserve(billing, TOKENS, Amount(100))
    assert await hold.wait() == STORE_UNAVAILABLE


async def test_a_hold_that_nobody_looks_after_does_not_lock_a_budget(tmp_path: Path) -> None:
    billing = open_billing(tmp_path / "z.db", hold_ttl_s=0.05)
    hold = await reserve(billing, TOKENS, Amount(100))
    other = await reserve(billing, TOKENS, Amount(200), request_id="looked after")
    await asyncio.sleep(0.06)
    await billing.attend([Grant(TOKENS, hold=other)])
    assert left(billing) == [(1000, 200, 0)]
    billing.settle(over(hold, TOKENS, Usage(30, 12, "provider")))  # late, and counted all the same
    assert left(billing) == [(1000, 200, 42)]
    await billing.aclose()
