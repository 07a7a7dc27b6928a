"""The whole gateway, its clients leaving and itself killed: every answer is charged once, and nothing stays held."""

import asyncio
import random
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.ledger_history import change
from tests.support.processes import KEY, Gateway, Sim, running, simulated
from tests.support.raw_http import DONE, Wire, chat, eventually, request, wire
from tests.support.starts import SOURCES
from zuebee.ledger.audit import reading, verify

CLIENTS = 12
QUOTA = 10**12
TOKENS = 12
AT_ONCE = 20


def config(sim: Sim) -> dict[str, Any]:
    return {
        "backends": [{"url": sim.url}],
        "health_check": {"enabled": False},
        "api_keys": [{"key": KEY, "name": "test", "total_quota": QUOTA}],
        "rate_limit": {"enabled": False},
    }


class Load:
    """Clients that ask and sometimes leave; `complete` has what was seen to its end."""

    def __init__(self, port: int, seed: int) -> None:
        self.complete: set[str] = set()
        self._port = port
        self._chance = random.Random(seed)

    async def client(self) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                async with wire(self._port) as connection:
                    for _ in range(self._chance.randint(1, 5)):
                        if not await self._ask(connection):
                            break

    async def _ask(self, connection: Wire) -> bool:
        chance = self._chance
        stream = chance.random() < 0.6
        connection.send(request(chat(TOKENS, stream=stream, tokens_per_s=chance.choice([0, 300, 2000]))))
        if chance.random() < 0.2:
            await asyncio.sleep(chance.uniform(0, 0.05))
            connection.vanish(reset=chance.random() < 0.5)
            return False
        assert await connection.read_head() == 200
        name = connection.headers["x-request-id"]
        body = b"".join([part async for part in connection.parts()])
        if not stream or body.endswith(DONE):
            self.complete.add(name)
        return True


async def _load_until_killed(gateway: Gateway, seed: int) -> set[str]:
    load = Load(gateway.port, seed)
    clients = [asyncio.ensure_future(load.client()) for _ in range(CLIENTS)]
    await asyncio.sleep(random.Random(seed).uniform(0.15, 0.6))
    gateway.popen.kill()
    gateway.wait()
    await asyncio.gather(*clients)
    return load.complete


def _rows(path: Path, sql: str) -> list[Any]:
    connection = sqlite3.connect(path, timeout=10)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def _held(path: Path) -> int:
    return int(
        _rows(path, "SELECT coalesce(sum(held), 0) + (SELECT count(*) FROM ledger_holds) FROM ledger_balances")[0][0]
    )


def _right(path: Path) -> None:
    with reading(str(path)) as connection:
        found = list(verify(connection))
    assert not found, found[:3]


def _charged_once(path: Path, complete: set[str], accounts: dict[str, int]) -> None:
    """Each answer that a client saw whole was posted once, with the tokens that the model server counted."""
    charged: dict[str, int] = {}
    for hold, tokens in _rows(
        path, "SELECT hold, tokens FROM ledger_entries WHERE kind IN ('post', 'overdraft') ORDER BY id"
    ):
        charged[hold] = charged.get(hold, 0) + tokens
    posts = [hold for (hold,) in _rows(path, "SELECT hold FROM ledger_entries WHERE step = 1")]
    assert len(posts) == len(set(posts))
    missing = complete - charged.keys()
    assert not missing, f"{len(missing)} answers were seen whole and are not in the ledger: {sorted(missing)[:3]}"
    wrong = {name for name in complete if charged[name] != accounts.get(name, charged[name])}
    assert not wrong, f"charged otherwise than counted: {sorted(wrong)[:3]}"


def _accounts(sim: Sim) -> dict[str, int]:
    """By request: the tokens that the model server delivered."""
    return {
        account["request_id"]: account["prompt_tokens"] + account["completion_tokens"]
        for account in sim.control("GET", "/_sim/account")
    }


async def _kill_gateways(folder: Path, kills: int) -> int:
    complete: set[str] = set()
    with simulated(folder / "sim") as sim:
        for number in range(kills):
            with running(folder / "gateway", config(sim)) as gateway:
                path = gateway.usage_path
                await eventually(lambda path=path: _held(path) == 0, "what the dead process held is free", 5.0)
                _right(path)
                complete |= await _load_until_killed(gateway, number)
        with running(folder / "gateway", config(sim)) as gateway:
            await eventually(lambda: _held(path) == 0, "what the dead process held is free", 5.0)
            command = [sys.executable, "-m", "zuebee", "ledger", "verify", "--store", str(path)]
            said = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": SOURCES})
            assert said.returncode == 0, said.stdout + said.stderr
        _charged_once(path, complete, _accounts(sim))
        expired = _rows(path, "SELECT count(*) FROM ledger_entries WHERE kind = 'expire'")[0][0]
    print(f"{kills} kills of the gateway, {len(complete)} whole answers, {expired} holds of dead processes resolved")
    return len(complete)


@pytest.mark.requirement("A098", "A096")
async def test_no_kill_of_the_gateway_loses_a_charge_or_leaves_a_hold(tmp_path: Path) -> None:
    assert await _kill_gateways(tmp_path, 6) > 60
    path = tmp_path / "gateway" / "usage.db"
    # The check can fail: a lost charge, and one made twice.
    change(path, "DELETE FROM ledger_entries WHERE id = (SELECT max(id) FROM ledger_entries WHERE kind = 'post')")
    with reading(str(path)) as connection:
        assert next(iter(verify(connection)), None) is not None


@pytest.mark.proof
async def test_a_hundred_kills_of_the_gateway(tmp_path: Path) -> None:
    assert await _kill_gateways(tmp_path, 100) > 1_000


class Aborts:
    """Streams whose readers leave at a random event or moment."""

    def __init__(self, port: int, seed: int) -> None:
        self._port = port
        self._chance = random.Random(seed)
        self._places = asyncio.Semaphore(AT_ONCE)

    async def run(self, count: int) -> None:
        await asyncio.gather(*(self._one() for _ in range(count)))

    async def _one(self) -> None:
        chance = self._chance
        body = chat(TOKENS, tokens_per_s=chance.choice([0, 300, 1000]))
        moment_s, events, by_events = chance.uniform(0, 0.06), chance.randrange(1, TOKENS + 3), chance.random() < 0.7
        reset = chance.random() < 0.5
        async with self._places, wire(self._port) as connection:
            connection.send(request(body))
            if by_events:
                assert await connection.read_head() == 200
                await connection.events(events)
            else:
                await asyncio.sleep(moment_s)
            connection.vanish(reset=reset)


def _uncounted(rows: list[Any], accounts: dict[str, int], charged: dict[str, int]) -> list[str]:
    """Requests whose charge is neither what the model server counted nor marked as less than sure."""
    wrong = []
    for name, source in rows:
        exact = charged.get(name, 0) == accounts.get(name, 0)
        if not exact and source not in ("partial", "estimate"):
            wrong.append(name)
    return wrong


async def _abort_streams(folder: Path, count: int) -> None:
    with simulated(folder / "sim") as sim, running(folder / "gateway", config(sim)) as gateway:
        await Aborts(gateway.port, count).run(count)
        await eventually(lambda: gateway.metrics()["zuebee_requests_running"] == 0, "all have ended")
        await eventually(lambda: _held(gateway.usage_path) == 0, "nothing is held")
        path = gateway.usage_path
        _right(path)
        accounts = _accounts(sim)
        rows = _rows(path, "SELECT request_id, usage_source FROM usage_records")
        charged = dict(
            _rows(
                path, "SELECT hold, sum(tokens) FROM ledger_entries WHERE kind IN ('post', 'overdraft') GROUP BY hold"
            )
        )
        assert accounts.keys() <= {name for name, _ in rows}, "each request that the model server saw is on record"
        assert not _uncounted(rows, accounts, charged)
        sure = sum(source == "provider" for _, source in rows)
        print(f"{count} streams aborted, {len(rows)} on record: {sure} exact, {len(rows) - sure} marked")
        # The check can fail: charges that are off by one, and not marked.
        assert _uncounted([(name, "provider") for name, _ in rows], accounts, {n: t + 1 for n, t in charged.items()})


@pytest.mark.requirement("A097")
async def test_who_aborts_a_stream_pays_what_was_delivered(tmp_path: Path) -> None:
    await _abort_streams(tmp_path, 300)


@pytest.mark.proof
async def test_two_thousand_aborted_streams(tmp_path: Path) -> None:
    await _abort_streams(tmp_path, 2_000)
