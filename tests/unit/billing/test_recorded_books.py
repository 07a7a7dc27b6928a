"""What an earlier billing wrote for recorded requests (`recorded_books.jsonl`), this one writes as well.

The requests come from a seeded game: limits that change, streams that are extended and cut, answers in one piece that
join the transaction of their hold, days that pass. A change that is meant is recorded anew, and read line by line.
"""

import asyncio
import json
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.support.billing import local_billing
from tests.support.fakes import make_job
from zuebee.billing.service import BillingService
from zuebee.config.settings_billing import BillingSettings, PriceSettings
from zuebee.contracts.admission import Budget, Grant, Hold, Need, Principal, Settlement
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Usage
from zuebee.ledger.sqlite.journal import Journal
from zuebee.lib import clock

RECORDED = Path(__file__).with_name("recorded_books.jsonl")
STEPS = 260
BEGIN_S = 1_794_700_000.0
ROUTE = "/v1/chat/completions"
PRICES = [
    PriceSettings(model="m", input_per_million="1", output_per_million="2"),
    PriceSettings(model="n", input_per_million="3", output_per_million="15"),
]
TABLES = {
    "ledger_entries": (
        "SELECT kind, hold, step, path, tokens, cost_nano, released_tokens, released_cost_nano, at_s"
        " FROM ledger_entries ORDER BY id"
    ),
    "ledger_balances": (
        "SELECT account, unit, period, starts_at_s, granted, held, used, overdraft, limited, changes, apart"
        " FROM ledger_balances ORDER BY account, starts_at_s"
    ),
    "ledger_holds": (
        "SELECT hold, path, tokens, cost_nano, progress_tokens, progress_cost_nano, record"
        " FROM ledger_holds ORDER BY hold"
    ),
    "usage_records": (
        "SELECT request_id, at_s, key_id, key_name, user_id, organization_id, model, method, endpoint, is_stream,"
        " status, termination_reason, code, backend, backend_url, attempts, prompt_tokens, completion_tokens,"
        " cached_tokens, usage_source, cost_nano, duration_ms, first_token_ms, tags, currency FROM usage_records"
        " ORDER BY request_id, cost_nano, completion_tokens"
    ),
    "usage_days": (
        "SELECT key_id, day, requests, prompt_tokens, completion_tokens, cost_nano FROM usage_days ORDER BY 1, 2"
    ),
    "unbilled": (
        "SELECT organization_id, month, user_id, model, requests, prompt_tokens, cached_tokens, completion_tokens,"
        " cost_nano FROM unbilled_usage ORDER BY 1, 2, 3, 4"
    ),
}


class Game:
    """Requests as a seed has them. What billing answers is in `told`."""

    def __init__(self, billing: BillingService, chance: random.Random) -> None:
        self.billing = billing
        self.chance = chance
        self.told: list[list[Any]] = []
        self._limits: dict[int, int | None] = {}
        self._running: list[tuple[str, Principal, str, bool, Hold, Grant, list[int]]] = []

    def _who(self) -> Principal:
        chance = self.chance
        k = chance.randrange(6)
        if chance.random() < 0.03:
            self._limits[k] = chance.choice([500, 5000, 20000, None])
        limit = self._limits.get(k, 5000)
        budgets = [Budget(f"key:k{k}/tokens/daily", "tokens", "daily", 7000 if limit is None else limit)]
        if k % 2:
            budgets.append(Budget(f"team:t{k % 3}/USD/monthly", "USD", "monthly", 9_000_000 + k))
        if k % 3 == 0:
            budgets.append(Budget("organization:o/tokens/never", "tokens", "never", limit and 10**6 + limit))
        tags = ("a",) if k % 2 else ()
        return Principal(f"k{k}", f"n{k}", f"u{k % 2}", "", f"o{k % 2}", tags=tags, budgets=tuple(budgets))

    async def begin(self, name: str) -> None:
        chance, billing = self.chance, self.billing
        who, model, stream, bound = (
            self._who(), chance.choice("mmn"), chance.random() < 0.5, chance.choice([0, 0, 50]),
        )  # fmt: skip
        more: dict[str, Any] = {"max_output_tokens": bound} if bound else {}
        job = make_job(request_id=name, model=model, stream=stream, **more)
        need = Need(
            chance.randrange(1, 80), chance.randrange(80, 200), chance.randrange(20, 1500), chance.choice([0, 5, 60])
        )
        quote = billing.quote(who, job, need)
        assert not isinstance(quote, Refusal)
        hold = await billing.reserve(who, job, quote)
        if isinstance(hold, Refusal):
            self.told.append([name, "refused", hold.status, hold.code, hold.message])
            return
        self.told.append([name, "held", hold.whole, hold.answer_tokens])
        self._running.append((name, who, model, stream, hold, Grant(who, hold=hold), [0]))

    async def end_one(self, now_s: float) -> None:
        chance, billing = self.chance, self.billing
        name, who, model, stream, hold, grant, so_far = self._running.pop(chance.randrange(len(self._running)))
        usage = None
        if chance.random() >= 0.15:
            prompt, answer = chance.randrange(1, 150), so_far[0] + chance.randrange(0, 900)
            usage = Usage(prompt, answer, chance.choice(["provider", "partial", "estimate"]), chance.choice([0, 1]))
        settlement = Settlement(
            name, "POST", ROUTE, "", now_s, 200, "complete", "", who, grant, model, stream, "b", "http://b", 1, usage,
            0, 1.5, 0.25 if stream else -1.0,
        )  # fmt: skip
        if not stream and chance.random() < 0.5:
            refused = await hold.wait(settlement)
            self.told.append([name, "wait", None if refused is None else refused.code])
        else:
            await hold.wait()
        stored = billing.settle(settlement)
        if stored is not None:
            await stored
        self.told.append([name, "cost", settlement.cost_nano])
        chance.random()

    def free(self, name: str, now_s: float) -> None:
        who = self._who()
        usage = Usage(3, 4, "provider")
        grant = Grant(who)
        settlement = Settlement(
            name, "POST", ROUTE, "", now_s, 200, "complete", "", who, grant, "m", usage=usage
        )  # fmt: skip
        self.billing.settle(settlement)
        self.told.append(["free", settlement.cost_nano])

    async def attend(self) -> None:
        for *_, stream, _, grant, so_far in self._running:
            if stream:
                so_far[0] += self.chance.randrange(0, 400)
            delivered = Usage(10, so_far[0], "partial") if stream else None
            grant.usage_so_far = (lambda usage=delivered: usage) if stream else None
        cut = await self.billing.attend([each[5] for each in self._running])
        names = {id(each[5]): each[0] for each in self._running}
        self.told.append(["cut", [[names[id(grant)], refusal.code] for grant, refusal in cut]])

    async def step(self, number: int, now_s: float) -> None:
        what = self.chance.random()
        if what < 0.5:
            await self.begin(f"s0_r{number}")
        elif what < 0.9 and self._running:
            await self.end_one(now_s)
        elif what < 0.93:
            self.free(f"free0_{number}", now_s)
        else:
            await self.attend()


def dump(path: Path) -> list[list[Any]]:
    connection = sqlite3.connect(path)
    try:
        return [[name, *row] for name, sql in TABLES.items() for row in connection.execute(sql)]
    finally:
        connection.close()


async def test_recorded_requests_leave_the_same_books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [BEGIN_S]
    monkeypatch.setattr(clock, "wall_s", lambda: now[0])
    chance = random.Random(0)
    on_exhausted = chance.choice(["cut", "finish"])
    settings = BillingSettings(
        prices=PRICES, built_in_prices=False, reserve_wait_s=0.0, on_exhausted=on_exhausted  # type: ignore[arg-type]
    )  # fmt: skip
    path = tmp_path / "z.db"
    billing = local_billing(path, settings, reporters=("hook",), journal=Journal(f"{path}.settled"))
    game = Game(billing, chance)
    for number in range(STEPS):
        now[0] += chance.choice([0.01, 0.3, 2.0, 2.0]) if chance.random() < 0.999 else 90_000.0
        await game.step(number, now[0])
    await asyncio.sleep(0.05)
    await billing.aclose()
    found = [["log", *each] for each in game.told] + dump(path)
    recorded = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    assert json.loads(json.dumps(found)) == recorded
    assert sum(each[0] == "ledger_entries" for each in recorded) > 100
