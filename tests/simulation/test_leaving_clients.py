"""Clients leave at every turn of the event loop: nothing stays held for them, and the records say that they left."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest

from tests.support.billing import shared_billing, shared_committer_of
from tests.support.exchange import CALLER, Visitor, streaming
from tests.support.fake_store import FakeStore
from tests.support.fakes import USAGE, FakeInference, Step, answer, make_job, until
from tests.support.shared_ledger import reserve
from tests.support.steps import InTurn, at_every_turn
from zuebee.admission.firewall import OpenFirewall
from zuebee.admission.service import AdmissionService
from zuebee.config.settings import QueueSettings
from zuebee.config.settings_base import RateLimitSettings
from zuebee.config.settings_billing import BillingSettings
from zuebee.contracts.admission import Budget, Caller, Limit, Principal, Settlement
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import UNKNOWN, End
from zuebee.dispatch.balancer import Backend, Health
from zuebee.dispatch.priority_queue import Load
from zuebee.dispatch.request_queue import RequestQueue
from zuebee.edge.pipeline import Pipeline
from zuebee.ledger import usage_rows
from zuebee.ledger.entries import HoldState
from zuebee.ledger.operations import Reserve, Settle
from zuebee.ledger.postgres.commit import SharedCommitter
from zuebee.ledger.postgres.connection import StoreLost
from zuebee.ledger.postgres.spool import Pending, Spool
from zuebee.lib.failures import RedisDown
from zuebee.limits.redis_limiter import RedisLimiter
from zuebee.limits.service import MemoryLimiter

pytestmark = pytest.mark.slow

BUDGETS = (Budget("key:k/tokens/never", "tokens", "never", 1_000_000),)
WHO = Principal("k", "key", "user", budgets=BUDGETS, limits=(Limit("key:k", "concurrent", 1),))
TURNS = 40


class Known:
    """Everybody is known, a turn of the loop later."""

    async def identify(self, caller: Caller) -> Principal | Refusal:
        await asyncio.sleep(0)
        return WHO

    async def recheck(self, principals: object) -> list[tuple[Principal, Refusal]]:
        return []


class Gate:
    """What a request passes, on a ledger that answers some turns later."""

    def __init__(self, folder: Path, script: list[Step], turns: int) -> None:
        self.store = FakeStore()
        settings = BillingSettings(prices=[], built_in_prices=False)
        self.billing = shared_billing(
            self.store, settings, spool_path=str(folder / "spool.jsonl"), hands=partial(InTurn, turns)
        )
        self.limiter = MemoryLimiter(RateLimitSettings())
        self.inference = FakeInference(script)
        self.seen: list[Settlement] = []
        admission = AdmissionService(
            authenticator=Known(), firewall=OpenFirewall(), limiter=self.limiter, billing=self.billing,
            recorders=[self], sizes=lambda _key, job: (len(job.body), len(job.body)),
            facts=lambda _model: UNKNOWN, default_output_tokens=100, max_output_tokens=100,
        )  # fmt: skip
        self.pipeline = Pipeline(admission, self.inference)
        self.number = 0

    def record(self, settlement: Settlement) -> None:
        self.seen.append(settlement)

    async def request(self, *, stream: bool) -> None:
        self.number += 1
        name = f"req_{self.number}"
        client = Visitor([], make_job(request_id=name, stream=stream, body=b"x" * 40))
        await self.pipeline.serve(CALLER, client, Settlement(name, "POST", CALLER.route, CALLER.address, 1.0))

    async def settled(self) -> None:
        await asyncio.wait_for(shared_committer_of(self.billing).drained(), 5)

    def rows(self) -> list[tuple[object, ...]]:
        """Of the usage records: the request, its status, its termination_reason and its code."""
        places = [usage_rows.COLUMNS.index(name) for name in ("request_id", "status", "termination_reason", "code")]
        return [tuple(record.row[at] for at in places) for record in self.store.kept]


@asynccontextmanager
async def gate(folder: Path, script: list[Step], turns: int = 2) -> AsyncIterator[Gate]:
    made = Gate(folder, script, turns)
    yield made
    await made.billing.aclose()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 3])
async def test_whoever_leaves_at_any_moment_leaves_nothing_held(tmp_path: Path, turns: int, stream: bool) -> None:
    script = streaming(b"data: [DONE]\n\n", End(USAGE)) if stream else answer()
    async with gate(tmp_path, script, turns) as made:
        ends = set()

        async def check(task: "asyncio.Task[None]") -> None:
            await made.settled()
            assert made.store.ledger.open == {}
            assert list(made.limiter.slots()) == []
            assert len(made.seen) == made.number
            seen = made.seen[-1]
            ends.add(seen.termination_reason)
            rows = [row for row in made.rows() if row[0] == f"req_{made.number}"]
            assert rows in ([], [(seen.request_id, seen.status, seen.termination_reason, seen.code)])
            if not rows:
                assert made.inference.begun == 0 or seen.status == 499

        await at_every_turn(lambda: made.request(stream=stream), check, TURNS)
        assert ends == {"complete", "client_gone"}
        assert {row[3] for row in made.rows()} == {"", "client_closed_request"}


async def committer_on(store: FakeStore, folder: Path, turns: int) -> SharedCommitter:
    spool = Spool(str(folder / "spool.jsonl"))
    return SharedCommitter(store, spool, timeout_s=5, hands=partial(InTurn, turns))  # type: ignore[arg-type]


FAILURES: dict[str, list[Exception]] = {
    "none": [],
    "before": [StoreLost("gone")],
    "after": [StoreLost("gone")],  # the commit was not seen
    "impossible": [ValueError("defect")],
}


async def leave_while_reserving(folder: Path, failure: str, turns: int) -> list[str]:
    """The holds that stay open though nobody has them."""
    store = FakeStore()
    committer = await committer_on(store, folder, turns)
    leaked: list[str] = []
    number = 0

    async def ask() -> str:
        nonlocal number
        number += 1
        (store.late_failures if failure == "after" else store.failures).extend(FAILURES[failure])
        held = await committer.ask(Reserve(f"r_{number}", BUDGETS, reserve("", BUDGETS, 1).amount, 1.0, 30.0, ""))
        assert isinstance(held, HoldState)
        return held.id

    async def check(task: "asyncio.Task[str]") -> None:
        await asyncio.wait_for(committer.drained(), 5)
        if not task.cancelled():
            committer.settle(Settle(task.result(), None, None))
            await asyncio.wait_for(committer.drained(), 5)
        leaked.extend(store.ledger.open)
        store.ledger.open.clear()
        store.failures.clear()
        store.late_failures.clear()

    await at_every_turn(ask, check, 12)
    await committer.aclose()
    return leaked


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_no_reservation_is_kept_for_who_left(tmp_path: Path, failure: str, turns: int) -> None:
    assert await leave_while_reserving(tmp_path, failure, turns) == []


@pytest.mark.parametrize("window", ["answered and cancelled", "cancelled and answered"])
async def test_each_window_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: str) -> None:
    if window == "answered and cancelled":

        def leave(self: Pending) -> None:
            self.abandoned = True

        monkeypatch.setattr(Pending, "leave", leave)
    else:

        def reply(self: Pending, answer: object) -> Settle | None:
            if self.future is not None and not self.future.done():
                self.future.set_result(answer)
            return self.let_go(answer) if self.abandoned else None  # type: ignore[arg-type]

        monkeypatch.setattr(Pending, "answer", reply)
        monkeypatch.setattr(Pending, "is_over", property(lambda self: self.abandoned))
    assert await leave_while_reserving(tmp_path, "none", 1)


# --- the same kind elsewhere: what is handed over by an answer that may come as its asker leaves ---


class Counting:
    """A Redis that answers some turns later, and knows who has a place."""

    def __init__(self, turns: int, *, fails: bool = False) -> None:
        self.taken: set[str] = set()
        self.retry_after_s = 0.0
        self._turns = turns
        self._fails = fails

    async def eval(self, script: str, keys: object, args: list[bytes]) -> list[object]:
        _, operations, _ = msgspec.msgpack.decode(args[0])
        verdicts: list[list[int]] = []
        for kind, lease, *_ in operations:
            if kind == 1:
                self.taken.add(lease)
                verdicts.append([0, 0, 1, 1])
            elif kind == 2:
                self.taken.discard(lease)
        for _ in range(self._turns):
            await asyncio.sleep(0)
        if self._fails:
            raise RedisDown("after it was done")
        return [1, *verdicts]

    async def call(self, *args: object) -> None:
        self._fails = False

    async def aclose(self) -> None: ...


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("turns", [0, 2])
async def test_no_place_in_redis_is_kept_for_who_left(turns: int, fails: bool) -> None:
    redis = Counting(turns, fails=fails)
    limiter = RedisLimiter(RateLimitSettings(), redis, prefix="p")  # type: ignore[arg-type]

    async def take() -> None:
        place = await limiter.acquire(CALLER, WHO, make_job(), 1)
        assert not isinstance(place, Refusal)
        try:
            await asyncio.sleep(0)
        finally:
            limiter.release(place, 1)

    async def check(task: "asyncio.Task[None]") -> None:
        for _ in range(20):  # turns enough for all that is under way
            await asyncio.sleep(0)
        await until(lambda: not limiter.degraded and redis.taken == set())
        assert list(limiter.slots()) == []
        redis._fails = fails

    await at_every_turn(take, check, 14)
    await limiter.aclose()


async def test_no_place_at_a_backend_is_kept_for_who_left() -> None:
    queue = RequestQueue(QueueSettings())
    health = Health(unhealthy_threshold=3, healthy_threshold=1)
    backend = Backend("a", "http://a", FakeInference(answer()), weight=1, health=health, models=[], load=Load(1))

    async def take() -> None:
        entry = queue.entry(make_job(), [backend], lambda: [backend])
        got = await queue.wait(entry, "lane")
        assert got is backend
        queue.leave(backend)

    async def while_it_is_busy() -> None:
        backend.load.in_flight = 1
        asyncio.get_running_loop().call_soon(queue.leave, backend)
        await take()

    async def check(task: "asyncio.Task[None]") -> None:
        await asyncio.sleep(0)
        assert backend.load.in_flight == 0

    await at_every_turn(while_it_is_busy, check, 8)
