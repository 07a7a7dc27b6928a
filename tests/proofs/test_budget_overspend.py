"""Budgets under adversarial load: no crowd of any shape overspends one by more than one request's prompt estimate is
wrong, and a caller alone gets all that it can pay.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.databases import postgres_database
from tests.support.processes import Gateway, Sim, running, simulated, until
from tests.support.shared_ledger import query
from tests.support.spenders import Spenders

BUDGET = 50_000
CALLERS = 200
KEYS = ["sk-spender-one-0123456789", "sk-spender-two-0123456789"]
SEEDS = int(os.environ.get("TEST_SEEDS", "1"))
UNSEEN = 100_000


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim")) as process:
        yield process


def config(sim: Sim, folder: Path, url: str | None) -> dict[str, Any]:
    store = {} if url is None else {"store": {"url": url, "spool_path": str(folder / "spool.jsonl"), "timeout": "10s"}}
    return {
        "backends": [{"url": sim.url}],
        "health_check": {"enabled": False},
        "api_keys": [{"key": key, "name": key[3:14], "total_quota": BUDGET} for key in KEYS],
        "rate_limit": {"enabled": False},
        "billing": {"built_in_prices": False, "reserve_wait": "1s"},
        **store,
    }


def balances(gateway: Gateway, url: str | None) -> list[tuple[int, int, int]]:
    """Granted, held and used of each account."""
    sql = "SELECT granted, held, used FROM ledger_balances ORDER BY id"
    if url is not None:
        return [(row[0], row[1], row[2]) for row in query(url, sql)]
    connection = sqlite3.connect(gateway.usage_path, timeout=10)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def at_rest(gateway: Gateway, url: str | None) -> list[tuple[int, int, int]]:
    def free() -> list[tuple[int, int, int]]:
        found = balances(gateway, url)
        return found if found and not any(held for _, held, _ in found) else []

    return until(free, "nothing is held", 30)


def stores(processes: int) -> Iterator[str | None]:
    if processes == 0:
        yield None
    else:
        with postgres_database() as url:
            yield url


@pytest.fixture(params=[0, 1, 3], ids=["sqlite", "postgresql", "three processes"])
def crowd(request: pytest.FixtureRequest, tmp_path: Path, sim: Sim) -> Iterator[tuple[list[Gateway], str | None]]:
    """Gateways on one store, and its address."""
    for url in stores(request.param):
        with ExitStack() as stack:
            folders = [tmp_path / str(number) for number in range(max(1, request.param))]
            yield [stack.enter_context(running(each, config(sim, each, url))) for each in folders], url


async def spend(gateways: list[Gateway], seed: int, *, each: int, **more: Any) -> Spenders:
    spenders = Spenders([gateway.port for gateway in gateways], seed, keys=KEYS, **more)
    await spenders.run(CALLERS, each, 60)
    assert spenders.odd <= {400}, "what is asked for is refused for its cost only, or too long for the context"
    return spenders


def overspent(found: list[tuple[int, int, int]]) -> int:
    return max(used - granted for granted, _, used in found)


async def test_no_crowd_overspends_a_budget_by_more_than_one_prompt(
    crowd: tuple[list[Gateway], str | None], record_property: Any
) -> None:
    gateways, url = crowd
    spenders = await spend(gateways, 7, each=3)
    found = at_rest(gateways[0], url)
    print(f"\n{CALLERS} callers, budget {BUDGET}: {spenders.let_in} let in, {spenders.refused} refused, "
          f"overspent by {overspent(found)}, longest prompt {spenders.longest_prompt}, used {found}")  # fmt: skip
    assert spenders.let_in
    assert spenders.refused, "there was less than was asked for"
    assert overspent(found) <= spenders.longest_prompt
    assert all(used > BUDGET * 0.3 for _, _, used in found), "what there is can be used"


@pytest.mark.proof
@pytest.mark.parametrize("seed", range(10))
async def test_no_crowd_overspends_a_budget_by_more_than_one_prompt_whatever_it_sends(
    crowd: tuple[list[Gateway], str | None], seed: int
) -> None:
    await test_no_crowd_overspends_a_budget_by_more_than_one_prompt.__wrapped__(crowd, seed)  # type: ignore[attr-defined]


async def test_what_nobody_can_see_is_seen_here_as_overspent(tmp_path: Path, sim: Sim) -> None:
    """The control: a server that adds 100,000 tokens to each prompt is known only when the first answers are there."""
    with running(tmp_path, config(sim, tmp_path, None)) as gateway:
        spenders = await spend([gateway], 7, each=2, hidden=UNSEEN, leave=0.0)
        # More than any prompt explains that can be seen.
        assert overspent(at_rest(gateway, None)) > spenders.longest_prompt - UNSEEN
