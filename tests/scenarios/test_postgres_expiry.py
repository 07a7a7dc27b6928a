"""The holds of a process that died are resolved by all others together, soon, and beside what these serve."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.databases import postgres_database
from tests.support.expiry import clear
from tests.support.shared_ledger import check_books, query, reserve, store_on
from zuebee.contracts.admission import Budget
from zuebee.ledger.postgres.ledger import SWEEP_INTERVAL_S
from zuebee.schema.prepare import prepare

BUDGETS = (Budget("key:1/tokens/never", "tokens", "never", 10**9),)


@pytest.fixture
def url() -> Iterator[str]:
    with postgres_database() as address:
        prepare(address)
        yield address


def test_many_holds_are_resolved_by_one_look(url: str, tmp_path: Path) -> None:
    seen = asyncio.run(clear(url, tmp_path, 1_500, 2, sweep_s=SWEEP_INTERVAL_S))
    assert seen.after_s < 10
    assert seen.longest_wait_s < 2
    kinds = query(url, "SELECT kind, count(*) FROM ledger_entries WHERE hold LIKE 'dead%' GROUP BY 1 ORDER BY 1")
    assert kinds == [("expire", 1_500), ("reserve", 1_500)]
    check_books(url)


def test_what_one_process_has_found_no_other_looks_at(url: str) -> None:
    dead, one, other = store_on(url), store_on(url), store_on(url)
    dead.apply(1, [reserve(f"r_{number}", BUDGETS, 1, hold_s=0.0) for number in range(700)])
    found = [{each.hold for each in store.sweep()} for store in (one, other, one)]
    assert [len(each) for each in found] == [500, 200, 0]
    assert not found[0] & found[1]
    # Whoever took them is dead as well: they are found again.
    query(url, "UPDATE ledger_holds SET swept_at_s = swept_at_s - 6 RETURNING 1")
    assert len(other.sweep()) == 500
    for store in (dead, one, other):
        store.disconnect()


@pytest.mark.proof
@pytest.mark.alone
@pytest.mark.parametrize("processes", [1, 3])
def test_five_thousand_holds_are_resolved_within_ten_seconds(url: str, tmp_path: Path, processes: int) -> None:
    seen = asyncio.run(clear(url, tmp_path, 5_000, processes, sweep_s=SWEEP_INTERVAL_S))
    print(
        f"\n5,000 holds of a dead process, {processes} alive: all resolved {seen.after_s:.1f} s after their expiry;"
        f" a live reservation waited {seen.longest_wait_s * 1000:.0f} ms at most"
    )
    assert seen.after_s < 10
    assert seen.longest_wait_s < 0.5
    check_books(url)
