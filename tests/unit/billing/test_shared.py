from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.billing import shared_billing
from tests.support.fake_store import FakeStore
from tests.support.fakes import make_job
from zuebee.billing.service import EXTENSION_TOKENS, BilledHold, BillingService
from zuebee.config.settings_billing import BillingSettings, PriceSettings
from zuebee.contracts.admission import Amount, Budget, Grant, Need, Principal, Settlement
from zuebee.contracts.errors import STORE_UNAVAILABLE, Refusal
from zuebee.contracts.inference import Usage
from zuebee.ledger.errors import StoreFailed
from zuebee.ledger.operations import Extend, Renew
from zuebee.ledger.postgres.commit import DEFAULT_WAITS, Waits
from zuebee.ledger.postgres.connection import StoreLost

TOKENS = Principal("k", "key", "user", budgets=(Budget("key:k/tokens/never", "tokens", "never", 1000),))
MONEY = Principal("k", "key", "user", budgets=(Budget("team:t/USD/never", "USD", "never", 50_000),))
PRICES = [PriceSettings(model="m", input_per_million="1", output_per_million="2")]  # 1,000 and 2,000 nano a token
BUSY = Refusal(503, "api_error", "outbox_full", "")


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


def open_billing(
    store: FakeStore, folder: Path, gate: Refusal | None = None, waits: Waits = DEFAULT_WAITS, **changes: Any
) -> BillingService:
    settings = BillingSettings(prices=PRICES, built_in_prices=False, **changes)
    spool = str(folder / "spool.jsonl")
    return shared_billing(store, settings, spool_path=spool, timeout_s=0.5, waits=waits, gate=lambda: gate)


@pytest.fixture
async def billing(store: FakeStore, tmp_path: Path) -> AsyncIterator[BillingService]:
    made = open_billing(store, tmp_path)
    yield made
    await made.aclose()


async def reserve(billing: BillingService, who: Principal, amount: Amount, **job: Any) -> BilledHold:
    held = await billing.reserve(who, make_job(**job), amount)
    assert isinstance(held, BilledHold)
    assert held.secured
    assert await held.wait() is None
    return held


def over(hold: BilledHold | None, usage: Usage | None, who: Principal = TOKENS) -> Settlement:
    grant = Grant(who, hold=hold)
    return Settlement("req_1", "POST", "/", "", 1.0, 200, principal=who, grant=grant, model="m", usage=usage)


def left(store: FakeStore) -> list[tuple[int, int, int]]:
    return [(balance.granted, balance.held, balance.used) for balance in store.ledger.balances()]


def done(store: FakeStore, kind: type) -> list[Any]:
    return [each for batch in store.batches for each in batch if isinstance(each, kind)]


async def settle(billing: BillingService, settlement: Settlement) -> None:
    stored = billing.settle(settlement)
    assert stored is not None
    await stored


async def test_a_hold_is_settled_with_what_was_used(billing: BillingService, store: FakeStore) -> None:
    hold = await reserve(billing, TOKENS, Amount(100))
    assert left(store) == [(1000, 100, 0)]
    await settle(billing, over(hold, Usage(30, 12, "provider")))
    assert left(store) == [(1000, 0, 42)]
    assert len(store.records) == 1


async def test_nothing_used_is_nothing_charged_and_recorded(billing: BillingService, store: FakeStore) -> None:
    hold = await reserve(billing, TOKENS, Amount(100))
    await settle(billing, over(hold, None))
    assert left(store) == [(1000, 0, 0)]
    assert len(store.records) == 1


async def test_money_is_charged_at_the_price_of_its_hold(billing: BillingService, store: FakeStore) -> None:
    quote = billing.quote(MONEY, make_job(model="m"), Need(1, 1, 2, 2))
    assert quote == Amount(3, 5000)
    hold = await reserve(billing, MONEY, quote, model="m")
    settlement = over(hold, Usage(1, 1, "provider"), MONEY)
    await settle(billing, settlement)
    assert settlement.cost_nano == 3000
    assert left(store) == [(50_000, 0, 3000)]


async def test_a_model_without_a_price_is_no_matter_to_tokens(billing: BillingService) -> None:
    assert billing.quote(TOKENS, make_job(model="other"), Need(1, 1, 2, 2)) == Amount(3)
    assert isinstance(billing.quote(MONEY, make_job(model="other"), Need(1, 1, 2, 2)), Refusal)


async def test_more_than_there_is_is_refused(billing: BillingService) -> None:
    refused = await billing.reserve(TOKENS, make_job(), Amount(1001))
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code) == (429, "quota_exceeded")
    assert (billing.short, billing.ledger.reserved) == (1, 0)


async def test_a_request_without_a_hold_is_recorded_with_its_cost(billing: BillingService, store: FakeStore) -> None:
    settlement = over(None, Usage(1, 1, "provider"))
    assert billing.settle(settlement) is None
    await billing.aclose()
    assert (settlement.cost_nano, store.records, store.settled()) == (3000, ["req_1"], [""])


def running(hold: BilledHold, *used: int) -> Grant:
    return Grant(TOKENS, hold=hold, usage_so_far=lambda: Usage(*used, "partial"))


async def test_running_requests_are_renewed_with_what_they_delivered(billing: BillingService, store: FakeStore) -> None:
    hold = await reserve(billing, TOKENS, Amount(100, 200_000), max_output_tokens=50)
    assert await billing.attend([running(hold, 10, 20)]) == []
    await billing.aclose()
    [renewal] = done(store, Renew)
    assert (renewal.holds, renewal.hold_s) == ([(hold.reservation.state.id, 30, 50_000)], 30.0)
    assert done(store, Extend) == [], "it holds as much as it can need"


async def test_a_stream_without_a_bound_holds_more_as_it_goes(billing: BillingService, store: FakeStore) -> None:
    hold = await reserve(billing, TOKENS, Amount(100))
    assert await billing.attend([running(hold, 10, 20)]) == []
    assert hold.reservation.state.tokens == 30 + EXTENSION_TOKENS
    assert left(store) == [(1000, hold.reservation.state.tokens, 0)]
    await billing.attend([running(hold, 10, 21)])
    assert len(done(store, Extend)) == 2


@pytest.mark.parametrize(("on_exhausted", "cuts"), [("cut", 1), ("finish", 0)])
async def test_a_stream_that_spends_more_than_there_is(
    store: FakeStore, tmp_path: Path, on_exhausted: str, cuts: int
) -> None:
    billing = open_billing(store, tmp_path, on_exhausted=on_exhausted)
    hold = await reserve(billing, TOKENS, Amount(100))
    assert await billing.attend([running(hold, 10, 980)]) == [], "exactly all of it"
    assert hold.reservation.state.tokens == 990
    grant = running(hold, 10, 1000)
    cut = await billing.attend([grant])
    assert [(each, refusal.code) for each, refusal in cut] == [(grant, "quota_exceeded")] * cuts
    await billing.aclose()


async def test_a_settled_request_is_not_renewed(billing: BillingService, store: FakeStore) -> None:
    hold = await reserve(billing, TOKENS, Amount(100))
    billing.settle(over(hold, None))
    await billing.attend([running(hold, 10, 900)])
    await billing.aclose()
    assert done(store, Renew) + done(store, Extend) == []


@pytest.mark.slow
async def test_an_outage_refuses_what_begins_and_cuts_nothing(billing: BillingService, store: FakeStore) -> None:
    hold = await reserve(billing, TOKENS, Amount(100))
    store.failures = [StoreLost("gone")] * 4
    assert await billing.reserve(TOKENS, make_job(), Amount(1)) == STORE_UNAVAILABLE
    assert billing.unable() == STORE_UNAVAILABLE
    assert await billing.attend([running(hold, 10, 20)]) == []
    await settle(billing, over(hold, Usage(1, 1, "provider")))


async def test_the_gate_is_asked(store: FakeStore, tmp_path: Path) -> None:
    billing = open_billing(store, tmp_path, gate=BUSY)
    assert billing.unable() is BUSY
    await billing.aclose()


async def test_what_an_earlier_process_left_is_done_first(store: FakeStore, tmp_path: Path) -> None:
    store.failures = [StoreLost("gone")] * 10_000
    before = open_billing(store, tmp_path, waits=Waits(close_s=0.1))
    before.settle(over(None, Usage(1, 1, "provider")))
    await before.aclose()
    after = FakeStore()
    billing = open_billing(after, tmp_path)
    assert after.records == ["req_1"]
    await billing.aclose()


async def test_a_database_that_cannot_be_used_is_said_at_the_start(
    store: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(name: str) -> int:
        raise StoreFailed("no such table")

    monkeypatch.setattr(store, "start", start)
    with pytest.raises(OSError, match="no such table"):
        open_billing(store, tmp_path)
    monkeypatch.undo()
    await open_billing(store, tmp_path).aclose()


async def test_operators_see_balances_and_holds(billing: BillingService, store: FakeStore) -> None:
    hold = await reserve(billing, TOKENS, Amount(100))
    await billing.attend([running(hold, 1, 1)])
    assert billing.ledger.open_holds()[0] == 1
    assert 0 < billing.ledger.open_holds()[1] < 60
    await settle(billing, over(hold, None))
    await billing.attend([])
    await billing.aclose()
    assert [balance.account for balance in billing.ledger.balances()] == ["key:k/tokens/never"]
    assert (billing.ledger.open_holds()[0], billing.ledger.dropped) == (0, 0)
