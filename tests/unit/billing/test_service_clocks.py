"""The wall clock goes back over the end of a period, and forward again: the books stay right, no budget comes twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.databases import postgres_database
from tests.support.fakes import make_job
from tests.support.ledger_history import change, write_history
from tests.support.shared_ledger import empty, post, reserve, store_on
from tests.unit.billing.test_service import open_billing, over
from tests.unit.billing.test_service import reserve as hold
from zuebee.contracts.admission import Amount, Budget, Period, Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Usage
from zuebee.contracts.limits import period_end_s, period_start_s
from zuebee.ledger.audit import reading, verify
from zuebee.ledger.operations import Reserve
from zuebee.ledger.sqlite.ledger import FORGET_EVERY_S
from zuebee.lib import clock
from zuebee.schema.prepare import prepare

PERIODS: tuple[Period, ...] = ("daily", "weekly", "monthly")
NOW_S = 1_794_700_000.0
GIVEN = 1000
BACK_S = (1.0, 200.0, 4000.0, 40 * 86400.0)


class Clocks:
    def __init__(self) -> None:
        self.wall_s = NOW_S
        self.steady_s = 1000.0


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(clock, "wall_s", lambda: clocks.wall_s)
    monkeypatch.setattr(clock, "monotonic_s", lambda: clocks.steady_s)
    return clocks


def payer(period: Period) -> Principal:
    """Of a budget with that period, and of one that is paid in."""
    budgets = (
        Budget(f"key:k/tokens/{period}", "tokens", period, GIVEN),
        Budget("team:t/tokens/never", "tokens", "never", 100 * GIVEN),
    )
    return Principal("k", "key", "user", budgets=budgets)


def wrong(store: str) -> list[str]:
    with reading(store) as connection:
        return [str(each) for each in verify(connection)]


def figures(store: str, period: Period) -> dict[float, tuple[int, int]]:
    """What each period was granted, and has used."""
    with reading(store) as connection:
        rows = connection.exec_driver_sql(
            f"SELECT starts_at_s, granted, used FROM ledger_balances WHERE account = 'key:k/tokens/{period}'"
        )
        return {row[0]: (row[1], row[2]) for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("back_s", BACK_S)
@pytest.mark.parametrize("period", PERIODS)
async def test_a_clock_that_goes_back_and_forward_again(
    tmp_path: Path, clocks: Clocks, period: Period, back_s: float, restart: bool
) -> None:
    path = tmp_path / "z.db"
    who = payer(period)
    billing = open_billing(path)
    number = 0
    used: dict[float, int] = {}

    async def spend(tokens: int) -> None:
        nonlocal number
        number += 1
        name = f"req_{number}"
        held = await hold(billing, who, Amount(tokens), request_id=name)
        stored = billing.settle(over(held, who, Usage(tokens, 0, "provider"), name))
        assert stored is not None
        await stored
        start_s = period_start_s(period, clocks.wall_s)
        used[start_s] = used.get(start_s, 0) + tokens

    async def move(at_s: float) -> None:
        nonlocal billing
        clocks.wall_s = at_s
        if restart:
            await billing.aclose()
            billing = open_billing(path)
        await billing.attend([])

    new_s = period_end_s(period, period_start_s(period, NOW_S)) + 0.5
    await spend(300)
    await move(new_s)
    await spend(10)
    await move(new_s - back_s)
    await spend(500)
    await move(new_s)
    await spend(20)
    await move(new_s - back_s)
    await spend(200)
    await billing.aclose()
    assert figures(str(path), period) == {start_s: (GIVEN, tokens) for start_s, tokens in used.items()}
    assert wrong(str(path)) == []


async def test_what_was_used_up_before_stays_used_up(tmp_path: Path, clocks: Clocks) -> None:
    who = payer("daily")
    billing = open_billing(tmp_path / "z.db", reserve_wait_s=0)
    before = await hold(billing, who, Amount(GIVEN), request_id="before")
    clocks.wall_s += 86400
    assert await hold(billing, who, Amount(GIVEN), request_id="after")
    clocks.wall_s -= 86400
    for name in ("again", "and again"):
        assert isinstance(await billing.reserve(who, make_job(request_id=name), Amount(1)), Refusal)
        clocks.wall_s += 86400
    clocks.wall_s = NOW_S
    stored = billing.settle(over(before, who, Usage(1, 1, "provider"), "before"))
    assert stored is not None
    await stored
    assert figures(str(tmp_path / "z.db"), "daily")[period_start_s("daily", NOW_S)] == (GIVEN, 2), "in its own period"
    await billing.aclose()
    assert wrong(str(tmp_path / "z.db")) == []


async def test_a_period_that_was_forgotten_comes_back_as_it_stood(tmp_path: Path, clocks: Clocks) -> None:
    who = payer("daily")
    billing = open_billing(tmp_path / "z.db", reserve_wait_s=0)

    def later() -> None:
        clocks.steady_s += FORGET_EVERY_S + 1

    leaked = await hold(billing, who, Amount(100), request_id="leaked")
    first = await hold(billing, who, Amount(700), request_id="first")
    stored = billing.settle(over(first, who, Usage(700, 0, "provider"), "first"))
    assert stored is not None
    clocks.wall_s += 2 * 86400
    await billing.attend([])  # "leaked" expires
    for _ in range(3):
        later()
        await billing.attend([])
    assert [b.account for b in billing.ledger.balances()] == ["team:t/tokens/never"]
    late = billing.settle(over(leaked, who, Usage(50, 0, "provider"), "leaked"))
    clocks.wall_s = NOW_S + 1
    # Before the late one is written: what the store has does not know of it.
    held = await hold(billing, who, Amount(100), request_id="then")
    [balance] = [b for b in billing.ledger.balances() if b.account.startswith("key:")]
    assert (balance.used, balance.held) == (750, 100)
    assert late is not None
    await late
    await held.wait()
    await billing.aclose()
    assert wrong(str(tmp_path / "z.db")) == []


async def test_what_happened_a_moment_ago_is_not_forgotten(tmp_path: Path, clocks: Clocks) -> None:
    """The clock leaps ahead and back before a batch is written."""
    who = payer("daily")
    billing = open_billing(tmp_path / "z.db")
    held = await hold(billing, who, Amount(700), request_id="first")
    stored = billing.settle(over(held, who, Usage(700, 0, "provider"), "first"))
    clocks.wall_s += 2 * 86400
    clocks.steady_s += FORGET_EVERY_S + 1
    await billing.attend([])
    clocks.wall_s = NOW_S
    again = await hold(billing, who, Amount(100), request_id="second")
    [balance] = [b for b in billing.ledger.balances() if b.account.startswith("key:")]
    assert (balance.granted, balance.used, balance.held) == (GIVEN, 700, 100)
    assert stored is not None
    await stored
    await again.wait()
    await billing.aclose()
    assert wrong(str(tmp_path / "z.db")) == []


def test_what_earlier_versions_wrote_meanwhile_is_no_violation(tmp_path: Path) -> None:
    """They went on in the period that had begun."""
    write_history(tmp_path / "z.db", rounds=3)
    assert wrong(str(tmp_path / "z.db")) == []
    change(
        tmp_path / "z.db", "DELETE FROM ledger_batches", "UPDATE ledger_entries SET at_s = at_s - 86400 WHERE id > 30"
    )
    assert not [each for each in wrong(str(tmp_path / "z.db")) if "I14" in each]
    change(tmp_path / "z.db", "UPDATE ledger_entries SET at_s = at_s - 86400 WHERE id <= 30")
    assert [each for each in wrong(str(tmp_path / "z.db")) if "I14" in each], "never begun by its clock"


# --- the neighbour: on PostgreSQL the clock of the database is another one ---


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgres_database() as url:
        prepare(url)
        yield url


@pytest.mark.slow
@pytest.mark.parametrize("off_s", [-40 * 86400.0, -86400.0, -4000.0, 4000.0, 86400.0, 40 * 86400.0])
def test_a_gateway_whose_clock_is_not_that_of_the_database(url: str, off_s: float) -> None:
    """Its clock goes back over midnight, and forward again, while a second gateway's stays."""
    empty(url)
    budgets = payer("daily").budgets
    one, other = store_on(url), store_on(url)
    midnight_s = period_start_s("daily", clock.wall_s() + off_s)
    for number, (store, at_s) in enumerate(
        [(one, midnight_s - 1), (other, midnight_s + 1), (one, midnight_s + 1), (one, midnight_s - 400),
         (other, midnight_s + 2), (one, midnight_s + 3)]
    ):  # fmt: skip
        operation = reserve(f"{off_s}-{number}", budgets, 100)
        moved = Reserve(operation.hold, budgets, operation.amount, float(at_s), operation.hold_s)
        store.apply(2 * number + 1, [moved])
        store.apply(2 * number + 2, [post(moved.hold, 100)])
    one.end()
    other.end()
    assert figures(url, "daily") == {midnight_s - 86400: (GIVEN, 200), midnight_s: (GIVEN, 400)}
    assert wrong(url) == []
