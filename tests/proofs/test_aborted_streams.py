"""Two thousand requests whose clients leave at random, under every policy: they pay what the backend counts."""

import asyncio
import random
import sqlite3
from pathlib import Path

import pytest

from tests.support.processes import KEY, running, simulated
from tests.support.raw_http import chat, eventually, request, wire

ABORTS = 2000
AT_ONCE = 40
POLICIES = {"stopped": "cancel", "drained": "drain", "to-the-end": "detach"}


@pytest.mark.proof
@pytest.mark.requirement("A296", "A097")
async def test_two_thousand_who_leave_pay_what_the_backend_counts(tmp_path: Path) -> None:
    choose = random.Random(2000)
    rules = [{"models": [model], "policy": policy} for model, policy in POLICIES.items()]
    with (
        simulated(tmp_path / "sim", "--models", ",".join(POLICIES)) as sim,
        running(
            tmp_path / "gateway",
            {
                "backends": [{"url": sim.url}],
                "health_check": {"enabled": False},
                "on_disconnect": rules,
                "api_keys": [{"key": KEY, "name": "test", "total_quota": 10**9}],
            },
        ) as gateway,
    ):
        places = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            body = chat(choose.randrange(1, 60), stream=choose.random() < 0.9, tokens_per_s=choose.choice([0, 400]))
            body["model"] = choose.choice(list(POLICIES))
            fields = {"idempotency_key": f"key-{number}"} if choose.random() < 0.1 else {}
            wait_s, events = choose.uniform(0, 0.08), choose.choice([None, 1, 2, 9, 30, 80])
            async with places, wire(gateway.port) as client:
                client.send(request(body, **fields))
                if events is None or not body["stream"]:
                    await asyncio.sleep(wait_s)
                else:
                    await client.read_head()
                    await client.events(events)
                client.vanish(reset=choose.random() < 0.5)

        await asyncio.gather(*(one(number) for number in range(ABORTS)))
        await eventually(lambda: gateway.metrics()["zuebee_requests_running"] == 0, "all have ended", 30)
        metrics = gateway.metrics()
        settled = gateway.total("zuebee_usage_records_total")
        await eventually(lambda: len(gateway.usage_rows()) == settled, "all are on record")
        assert metrics["zuebee_requests_detached"] == 0
        accounts = {account["request_id"]: account for account in sim.control("GET", "/_sim/account")}
        rows = gateway.usage_rows()
    assert len({row["request_id"] for row in rows}) == len(rows)
    exact = 0
    for row in rows:
        account = accounts.get(row["request_id"])
        if row["usage_source"] == "provider":
            assert account is not None
            counted = (account["prompt_tokens"], account["completion_tokens"])
            assert (row["prompt_tokens"], row["completion_tokens"]) == counted
            exact += 1
        else:
            assert row["usage_source"] in ("partial", "estimate")
            assert row["termination_reason"] == "client_gone"
            assert row["model"] == "stopped"
            assert row["completion_tokens"] <= (account["events"] if account else 0)
    assert exact > len(rows) / 2
    connection = sqlite3.connect(gateway.usage_path)
    [(used, held)] = connection.execute("SELECT used, held FROM ledger_balances").fetchall()
    connection.close()
    assert (used, held) == (sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows), 0)
