"""Clients that leave while their reservation is on its way to a real PostgreSQL."""

import asyncio
import random
from pathlib import Path
from typing import NamedTuple

from tests.support.billing import shared_billing, shared_committer_of
from tests.support.fakes import make_job
from tests.support.shared_ledger import query, store_on
from zuebee.config.settings_billing import BillingSettings
from zuebee.contracts.admission import Amount, Budget, Grant, Principal, Settlement
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Usage

AT_ONCE = 40
KEYS = 5
LONGEST_S = 0.012


class Left(NamedTuple):
    """Of so many reservations: who left before they knew of it, the holds that stayed open, and what is on record of
    those who left but nothing was held for (status, termination_reason, code), with how often.
    """

    asked: int
    left: int
    leaked: int
    records: dict[tuple[int, str, str], int]


async def leave(url: str, folder: Path, count: int, seed: int) -> Left:
    """Ask for so many reservations; most callers leave within LONGEST_S, or so many turns of the loop later."""
    chance = random.Random(seed)
    settings = BillingSettings(prices=[], built_in_prices=False)
    billing = shared_billing(store_on(url), settings, spool_path=str(folder / f"spool-{seed}.jsonl"))
    people = [
        Principal(f"k{n}", "key", "user", budgets=(Budget(f"key:k{n}/tokens/never", "tokens", "never", 10**9),
                                                   Budget("organization:o/tokens/never", "tokens", "never", 10**9)))
        for n in range(KEYS)
    ]  # fmt: skip
    left = 0

    async def one(number: int) -> None:
        who = chance.choice(people)
        name = f"req_{seed}_{number}"
        hold = await billing.reserve(who, make_job(request_id=name), Amount(10))
        assert not isinstance(hold, Refusal)
        grant = Grant(who, hold=hold)
        usage = Usage(3, 4, "provider")
        stored = billing.settle(
            Settlement(name, "POST", "/", "", 1.0, 200, "complete", principal=who, grant=grant, model="m", usage=usage)
        )
        if stored is not None:
            await stored

    for begin in range(0, count, AT_ONCE):
        tasks = [asyncio.ensure_future(one(number)) for number in range(begin, min(count, begin + AT_ONCE))]
        for task in tasks:
            if (fate := chance.random()) < 0.6:
                asyncio.get_running_loop().call_later(chance.random() * LONGEST_S, task.cancel)
            elif fate < 0.8:
                _cancel_after(task, chance.randint(0, 30))
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        left += sum(isinstance(each, asyncio.CancelledError) for each in ended)
        broken = [each for each in ended if each is not None and not isinstance(each, asyncio.CancelledError)]
        assert not broken, broken[0]
    await asyncio.wait_for(shared_committer_of(billing).drained(), 10)
    leaked = query(url, "SELECT count(*) FROM ledger_holds")[0][0]
    await billing.aclose()
    rows = query(url, "SELECT status, termination_reason, code, count(*) FROM usage_records GROUP BY 1, 2, 3")
    return Left(
        count,
        left,
        leaked,
        {(status, termination_reason, code): times for status, termination_reason, code, times in rows},
    )


def _cancel_after(task: asyncio.Future[None], turns: int) -> None:
    if turns:
        asyncio.get_running_loop().call_soon(_cancel_after, task, turns - 1)
    else:
        task.cancel()
