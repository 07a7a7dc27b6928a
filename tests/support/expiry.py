"""A process dies and leaves many holds in the shared ledger; others resolve them while they serve."""

import asyncio
import time
from pathlib import Path
from typing import NamedTuple

from tests.support.shared_ledger import query, reserve, store_on
from zuebee.contracts.admission import Budget
from zuebee.ledger.entries import HoldState
from zuebee.ledger.operations import Settle
from zuebee.ledger.postgres.commit import SharedCommitter
from zuebee.ledger.postgres.spool import Spool

KEYS = 50
ORGANIZATION = Budget("organization:o/tokens/never", "tokens", "never", 10**9)
HOLD_S = 1.0


class Cleared(NamedTuple):
    """How long after the last expiry all holds were gone, and the longest wait of a live reservation meanwhile."""

    after_s: float
    longest_wait_s: float


def budgets(number: int) -> tuple[Budget, ...]:
    return (Budget(f"key:k{number % KEYS}/tokens/never", "tokens", "never", 10**9), ORGANIZATION)


async def clear(url: str, folder: Path, holds: int, processes: int, sweep_s: float) -> Cleared:
    """Leave so many holds behind, all in one organization, and let processes that serve it find them."""
    dead = store_on(url)
    for begin in range(0, holds, 500):
        numbers = range(begin, min(holds, begin + 500))
        dead.apply(begin // 500 + 1, [reserve(f"dead_{n}", budgets(n), 10, hold_s=HOLD_S) for n in numbers])
    expired_s = time.monotonic() + HOLD_S
    dead.disconnect()
    living = [
        SharedCommitter(store_on(url), Spool(str(folder / f"spool-{number}.jsonl")), timeout_s=5)
        for number in range(processes)
    ]
    waits: list[float] = []
    over = asyncio.Event()

    async def serve(committer: SharedCommitter, name: str) -> None:
        number = 0
        while not over.is_set():
            number += 1
            begun_s = time.monotonic()
            held = await committer.ask(reserve(f"{name}_{number}", budgets(number), 10))
            waits.append(time.monotonic() - begun_s)
            assert isinstance(held, HoldState)
            await asyncio.sleep(0.01)
            committer.settle(Settle(held.id, None, None))

    async def look(committer: SharedCommitter) -> None:
        while not over.is_set():
            committer.sweep()
            await asyncio.sleep(sweep_s)

    running = [
        asyncio.ensure_future(work)
        for number, committer in enumerate(living)
        for work in (serve(committer, f"live_{number}"), look(committer))
    ]
    left = "SELECT count(*) FROM ledger_holds WHERE hold LIKE 'dead%'"
    while await asyncio.to_thread(query, url, left) != [(0,)]:
        assert time.monotonic() < expired_s + 60
        await asyncio.sleep(0.05)
    after_s = time.monotonic() - expired_s
    over.set()
    await asyncio.gather(*running)
    for committer in living:
        await committer.aclose()
    return Cleared(after_s, max(waits))
