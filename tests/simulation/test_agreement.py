"""Whatever the store does at whatever step of a request: what its client saw, what it was charged and what is on record
are the same.
"""

import asyncio
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.billing import billing_on
from tests.support.empty_stores import empty_store
from tests.support.exchange import STREAM, Visitor
from tests.support.failing_disk import Disk
from tests.support.fakes import USAGE, FakeInference, Step, head, make_job
from zuebee.admission.firewall import OpenFirewall
from zuebee.admission.service import AdmissionService
from zuebee.billing.service import BillingService
from zuebee.config.settings_base import RateLimitSettings
from zuebee.config.settings_billing import BillingSettings
from zuebee.contracts.admission import Budget, Caller, Principal, Settlement
from zuebee.contracts.errors import Refusal
from zuebee.contracts.idempotency import IdempotencyRecord, Ticket
from zuebee.contracts.inference import UNKNOWN, End, Head, Job, Reply
from zuebee.edge.idempotency import Replays
from zuebee.edge.pipeline import Pipeline
from zuebee.ledger.audit import reading, verify
from zuebee.ledger.sqlite.journal import Journal
from zuebee.ledger.sqlite.store import SqliteStore
from zuebee.ledger.sqlite.wal_file import WalFile
from zuebee.limits.service import MemoryLimiter

pytestmark = pytest.mark.slow

BUDGETS = (Budget("key:k/tokens/never", "tokens", "never", 1_000_000),)
WHO = Principal("k", "key", "user", budgets=BUDGETS)
TIMEOUT_S = 0.08
REQUESTS = 60

END = End(USAGE, backend="a")
WHOLE = Head(200, [(b"content-type", b"application/json")], "a", lambda: USAGE, rest=(b"{}", END))
KINDS: dict[str, list[Step]] = {
    "stream": [head(200, list(STREAM)), b"data: 1\n\n", 0.002, b"data: [DONE]\n\n", End(USAGE)],
    "whole": [WHOLE],
    "long": [head(), b'{"a', 0.002, b'":1}', End(USAGE)],
    "in one piece, late": [head(), b"{}", 0.002, End(USAGE)],
}


class Known:
    async def identify(self, caller: Caller) -> Principal | Refusal:
        return WHO

    async def recheck(self, principals: object) -> list[tuple[Principal, Refusal]]:
        return []


class Shelf:
    """Answers that are kept in memory."""

    max_bytes = 1000

    def __init__(self) -> None:
        self.kept: dict[str, IdempotencyRecord | None] = {}

    def ticket(self, principal: Principal, key: bytes, job: object) -> Ticket:
        return Ticket(key.decode(), "same", b"", 1)

    async def find(self, ticket: Ticket) -> IdempotencyRecord | Refusal | None:
        return self.kept.get(ticket.id)

    async def claim(self, ticket: Ticket) -> Refusal | None:
        return None

    async def keep(self, ticket: Ticket, answer: IdempotencyRecord | None) -> None:
        await asyncio.sleep(0.001)
        self.kept[ticket.id] = answer

    async def free(self, ticket: Ticket) -> None:
        self.kept.pop(ticket.id, None)


class House:
    """A gate on a SQLite file with a disk of its own, and all that was seen of its requests."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self.path = path
        self.disk = disk
        self.seen: dict[str, Settlement] = {}
        self.clients: dict[str, Visitor] = {}
        self.shelf = Shelf()
        self.billing = open_billing(path, disk)
        self.chance = random.Random(disk.dice.random())
        admission = AdmissionService(
            authenticator=Known(), firewall=OpenFirewall(), limiter=MemoryLimiter(RateLimitSettings()),
            billing=self.billing, recorders=[self], sizes=lambda _key, job: (len(job.body), len(job.body)),
            facts=lambda _model: UNKNOWN, default_output_tokens=100, max_output_tokens=100,
        )  # fmt: skip
        self.kinds: dict[str, str] = {}
        self.pipeline = Pipeline(admission, self, Replays(self.shelf))

    async def run(self, job: Job) -> Reply:
        """The inference: what it answers goes by the request."""
        kind = self.kinds[job.request_id]
        return (WHOLE, None) if kind == "whole" else await FakeInference(KINDS[kind]).run(job)

    def record(self, settlement: Settlement) -> None:
        self.seen[settlement.request_id] = settlement

    async def request(self, name: str, kind: str, *, key: bool) -> None:
        client = self.clients[name] = Visitor([], make_job(request_id=name, stream=kind == "stream", body=b"x" * 40))
        fields = {b"idempotency-key": name.encode()} if key else {}
        caller = Caller("POST", "/v1/chat/completions", fields, "10.0.0.1")
        self.kinds[name] = kind
        await self.pipeline.serve(caller, client, Settlement(name, "POST", caller.route, caller.address, 1.0))

    async def tend(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            await self.billing.attend([])


def open_billing(path: Path, disk: Disk) -> BillingService:
    settings = BillingSettings(prices=[], built_in_prices=False)
    store = SqliteStore(
        str(path), reporters=(), currency="USD", retention_days=0,
        connect=disk.connect, open_log=disk.open_log(WalFile),
    )  # fmt: skip
    journal = Journal(str(path) + "-outcomes")
    return billing_on(store, settings, commit_interval_s=0.005, timeout_s=TIMEOUT_S, journal=journal)


async def play(path: Path, seed: int, *, final: bool) -> House:
    empty_store(path)
    disk = Disk(seed, 0.25, 3 * TIMEOUT_S, final=final)
    disk.well = True
    house = House(path, disk)
    await house.request("first", "stream", key=False)
    disk.well = False
    tending = asyncio.ensure_future(house.tend())
    running = []
    for number in range(REQUESTS):
        kind = house.chance.choice(list(KINDS))
        key = house.chance.random() < 0.3
        running.append(asyncio.ensure_future(house.request(f"r_{number}", kind, key=key)))
        await asyncio.sleep(house.chance.random() * 0.03)
    await asyncio.wait_for(asyncio.gather(*running), 20)
    disk.well = True
    tending.cancel()
    await asyncio.sleep(2 * TIMEOUT_S)
    await house.billing.aclose()
    for thread in threading.enumerate():
        if thread.name == "ledger":  # a slow disk may keep it for longer
            await asyncio.to_thread(thread.join, 10)
    await open_billing(path, disk).aclose()  # what is left is resolved by the next start
    return house


def told(house: House, name: str) -> str:
    """What the client of a request saw: `whole`, or the status of an error."""
    client = house.clients[name]
    if client.log[-1] in ("finish", "answer") and client.status == 200:
        return "whole"
    assert client.log[-1].startswith("refuse")
    return str(client.status)


def disagreements(house: House) -> list[tuple[Any, ...]]:
    with reading(str(house.path)) as connection:
        rows: dict[str, list[tuple[int, str, str]]] = {}
        columns = "request_id, status, termination_reason, code"
        for name, *row in connection.exec_driver_sql(f"SELECT {columns} FROM usage_records"):
            rows.setdefault(name, []).append(tuple(row))
        charged: Counter[str] = Counter()
        kinds = "('post', 'expire', 'overdraft', 'adjust')"
        for name, tokens in connection.exec_driver_sql(
            f"SELECT hold, tokens FROM ledger_entries WHERE kind IN {kinds}"
        ):
            charged[name] += tokens
        (held,) = connection.exec_driver_sql("SELECT count(*) FROM ledger_holds").one()
        found: list[tuple[Any, ...]] = [("verify", str(problem)) for problem in verify(connection)]
    if held:
        found.append(("held", held))
    for name in house.clients:
        saw, row, cost, seen = told(house, name), rows.get(name, []), charged[name], house.seen[name]
        if saw == "whole":
            agrees = (
                row == [(200, "complete", "")] and cost == USAGE.total_tokens and seen.termination_reason == "complete"
            )
        else:
            agrees = saw == "503" and not cost and (seen.status, seen.termination_reason) == (503, "refused")
            agrees = agrees and row in ([], [(503, "refused", "store_unavailable")])
        if not agrees:
            found.append((name, saw, row, cost, seen.status, seen.termination_reason))
    return found


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("seed", range(4))
async def test_client_ledger_and_record_agree(tmp_path: Path, seed: int, final: bool) -> None:
    house = await play(tmp_path / "store.db", seed, final=final)
    assert disagreements(house) == []
    assert house.disk.hits


@pytest.mark.proof
@pytest.mark.parametrize("final", [False, True])
async def test_client_ledger_and_record_agree_in_many_ways(tmp_path: Path, final: bool) -> None:
    hits: Counter[str] = Counter()
    saw: Counter[str] = Counter()
    for seed in range(100, 150):
        folder = tmp_path / str(seed)
        folder.mkdir()
        house = await play(folder / "store.db", seed, final=final)
        assert disagreements(house) == [], seed
        hits.update(house.disk.hits)
        saw.update(told(house, name) for name in house.clients)
    print(f"\nstore failures {dict(hits)}: clients saw {dict(saw)}, and ledger and records the same")
