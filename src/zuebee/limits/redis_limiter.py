"""How much, how fast? Counters in Redis, shared by many processes; this process' share of them while Redis is down.

Requests are asked about in batches: while one call is under way the next ones queue. Each takes a permit in all its
limits or in none, whatever else is in the batch.
"""

import asyncio
import hashlib
import logging
import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from zuebee.config.settings_base import RateLimitSettings
from zuebee.contracts.admission import Caller, Limit, Permit, Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Headers, Job
from zuebee.lib import clock
from zuebee.lib.failures import RedisError
from zuebee.lib.tasks import Tasks
from zuebee.limits.abuse import AbuseGuard
from zuebee.limits.buckets import LEASE_S, SLOTS
from zuebee.limits.plans import LimitPlan, PlanBook, Series, TakenPermit
from zuebee.limits.rules import UNAVAILABLE, State, limit_headers, refusal_of

# What is said to Redis about limits, and what it answers (take.lua).

MAX_SUBJECT = 100
_TAKE, _GIVE_BACK, _RENEW = 1, 2, 3
_WINDOW, _BUCKET, _LEASES = 1, 2, 3
_ENCODER = msgspec.msgpack.Encoder()


class LimiterDecision:
    """What became of one request: the index of the limit that refused it (-1: none), `wait_s` until that fits, and
    of each limit how much is counted and since when its counter lives.
    """

    __slots__ = ("_figures", "at_us", "refused_by", "wait_s")

    def __init__(self, at_us: int, figures: Sequence[int]) -> None:
        self.at_us = at_us
        self.refused_by = figures[0] - 1
        self.wait_s = figures[1] / 1e6
        self._figures = figures

    def birth_us(self, index: int) -> int:
        """Since when the counter of a limit lives: one that was lost and begun anew knows nothing of this request."""
        return self._figures[3 + 2 * index]

    def states(self, limits: Sequence[Limit]) -> Iterator[State]:
        """How the limits stood right afterwards. A window is told as late as what was counted by then can be gone."""
        for index, limit in enumerate(limits):
            if limit.kind != "concurrent":
                used = self._figures[2 + 2 * index]
                most = limit.burst or limit.amount
                reset_s = used * limit.window_s / limit.amount if limit.burst else self._end_s(limit.window_s)
                yield State(limit.kind, most, max(most - used, 0), reset_s if used else 0.0)

    def _end_s(self, window_s: int) -> float:
        """Seconds until the slot of this moment is forgotten."""
        slot_s, at_s = window_s / SLOTS, self.at_us / 1e6
        return (int(at_s / slot_s) + 1 + SLOTS) * slot_s - at_s


class ScriptCall:
    """What one call of the script is told. `keys`: the counters that it touches."""

    def __init__(self, prefix: str, lease_s: float = LEASE_S) -> None:
        self._prefix = prefix
        self._lease_s = lease_s
        self.keys: list[str] = []
        self._indexes: dict[str, int] = {}
        self._specs: list[tuple[int, int]] = []
        self._operations: list[tuple[Any, ...]] = []

    def __bool__(self) -> bool:
        return bool(self._operations)

    def take(self, lease: str, limits: Sequence[Limit], tokens: int) -> None:
        """A permit under all the limits, or none; it gets a verdict."""
        rules = [(self._key(each), each.amount, each.burst, int(each.kind == "tokens")) for each in limits]
        self._operations.append((_TAKE, lease, tokens, rules))

    def give_back(
        self, lease: str, limits: Sequence[Limit], tokens: int, used: int, verdict: LimiterDecision | None
    ) -> None:
        """A permit taken for so many `tokens`, of which so many were `used` (-1: leave what was charged)."""
        corrections = []
        if verdict is not None and used >= 0:
            for index, limit in enumerate(limits):
                delta = used - min(tokens, limit.burst or limit.amount)
                if limit.kind == "tokens" and delta:
                    birth = verdict.birth_us(index)
                    corrections.append((self._key(limit), limit.amount, delta, verdict.at_us, birth))
        leases = self._leases(limits)
        if leases or corrections:
            self._operations.append((_GIVE_BACK, lease, leases, corrections))

    def renew(self, lease: str, limits: Sequence[Limit]) -> None:
        """A permit is still held."""
        self._operations.append((_RENEW, lease, self._leases(limits)))

    def payload(self) -> bytes:
        """The argument of the script."""
        return _ENCODER.encode((self._specs, self._operations, round(self._lease_s * 1e6)))

    def verdicts(self, answer: Any) -> list[LimiterDecision | None]:
        """The verdicts of those who take, in their order."""
        return [LimiterDecision(answer[0], figures) for figures in answer[1:]]

    def _leases(self, limits: Sequence[Limit]) -> list[int]:
        return [self._key(limit) for limit in limits if limit.kind == "concurrent"]

    def _key(self, limit: Limit) -> int:
        """Its place among the keys, counted from 1 as Lua does."""
        subject = limit.subject
        if len(subject) > MAX_SUBJECT:
            subject = "sha256:" + hashlib.sha256(subject.encode()).hexdigest()
        form = _LEASES if limit.kind == "concurrent" else _BUCKET if limit.burst else _WINDOW
        key = f"{self._prefix}{limit.kind}:{limit.window_s}{'b' if form == _BUCKET else ''}:{subject}"
        index = self._indexes.get(key)
        if index is None:
            self.keys.append(key)
            self._indexes[key] = index = len(self.keys)
            self._specs.append((form, limit.window_s * 1_000_000))
        return index


def share_of(limit: Limit, processes: int) -> Limit | None:
    """What one of so many processes may let through by itself while Redis is down: at least one; None: anything."""
    if limit.on_store_down == "open":
        return None
    if processes == 1:
        return limit
    return replace(
        limit,
        amount=max(1, limit.amount // processes),
        burst=max(1, limit.burst // processes) if limit.burst else 0,
    )


if TYPE_CHECKING:
    from zuebee.lib.redis import RedisClient

_log = logging.getLogger("zuebee.limits")

SCRIPT = Path(__file__).with_name("take.lua").read_text()
MAX_ASKING = 5000
"""Requests that may wait for an answer; more are decided without Redis."""
MAX_CHORES = 50_000
"""Places to give back or renew; what does not fit is given back by its lease."""
BATCH = 200
LAST_WORDS_S = 1.0
RENEW_S = 3.0
"""Leases are renewed so often, and so they are known again so soon after Redis lost them."""


@dataclass(frozen=True)
class RedisBounds:
    """How long a lease is known, how often it is renewed, and how many may wait for an answer of Redis."""

    lease_s: float = LEASE_S
    renew_s: float = RENEW_S
    max_asking: int = MAX_ASKING


BOUNDS = RedisBounds()


class RemotePermit(TakenPermit):
    """A permit in Redis (`verdict` says how it was taken), or in this process' share (`verdict` is None)."""

    __slots__ = ("lease", "leased", "verdict")

    def __init__(self, plan: LimitPlan, tokens: int, now_s: float, lease: str, verdict: LimiterDecision | None) -> None:
        super().__init__(plan, tokens, now_s)
        self.lease = lease
        self.leased = verdict is not None
        self.verdict = verdict

    def headers(self) -> Headers:
        if self.verdict is None:
            return self.plan.headers(clock.monotonic_s()) if self.plan.timed else []
        return limit_headers(self.verdict.states(self.plan.limits))


class Ask:
    """A request that waits for its verdict. `early`: the permit that it gives up for what it asks for."""

    __slots__ = ("early", "future", "lease", "plan", "tokens")

    def __init__(
        self,
        plan: LimitPlan,
        tokens: int,
        lease: str,
        future: "asyncio.Future[LimiterDecision | None]",
        early: RemotePermit | None = None,
    ) -> None:
        self.early = early
        self.plan = plan
        self.tokens = tokens
        self.lease = lease
        self.future = future


class Chore:
    """A permit to give back (`used` tokens, -1: those charged) or, with `renew`, to renew."""

    __slots__ = ("permit", "renew", "used")

    def __init__(self, permit: RemotePermit, used: int, *, renew: bool = False) -> None:
        self.permit = permit
        self.used = used
        self.renew = renew


class RedisLimiter:
    """All limits of many processes. Without Redis each scope is handled as its `on_store_down` says."""

    def __init__(
        self, settings: RateLimitSettings, client: "RedisClient", *, prefix: str, bounds: RedisBounds = BOUNDS
    ) -> None:
        self._abuse = AbuseGuard(settings.abuse)
        self._client = client
        self._prefix = f"{prefix}limit:"
        self._bounds = bounds
        self._book = PlanBook(settings, partial(share_of, processes=settings.processes))
        self.decisions = self._book.decisions
        self.slots = self._book.slots
        self.counters = self._book.counters
        self._asking: deque[Ask] = deque()
        self._chores: deque[Chore] = deque()
        self._tasks = Tasks()
        self._talking = False
        self._quiet = asyncio.Event()
        self._recovering = False
        self._renewed_s = -bounds.renew_s
        self._without = 0
        self._owner = secrets.token_hex(8)
        self._numbers = count()

    def apply(self, settings: RateLimitSettings) -> None:
        """Other limits from the next request on; what was counted stays counted."""
        self._abuse.settings = settings.abuse
        self._book.apply(settings)

    async def enter(self, caller: Caller, principal: Principal) -> Permit | Refusal | None:
        plan = self._book.early_plan_of(caller, principal)
        return await self._take(plan, 0, None) if plan.limits else None

    async def acquire(self, caller: Caller, principal: Principal, job: Job, tokens: int) -> Permit | Refusal:
        """Never waits for longer than two calls of Redis may take."""
        plan = self._book.plan_of(caller, principal, job)
        early = job.early
        assert early is None or isinstance(early, RemotePermit)
        permit = await self._take(plan, tokens, early)
        if isinstance(permit, RemotePermit) and plan.limits:
            plan.admitted += 1
        return permit

    async def _take(self, plan: LimitPlan, tokens: int, early: RemotePermit | None) -> RemotePermit | Refusal:
        lease = f"{self._owner}.{next(self._numbers)}"
        if not plan.limits:
            return RemotePermit(plan, tokens, 0.0, lease, None)
        if self._recovering or len(self._asking) >= self._bounds.max_asking:
            return self._without_redis(plan, tokens, lease, early)
        future: asyncio.Future[LimiterDecision | None] = asyncio.get_running_loop().create_future()
        self._asking.append(Ask(plan, tokens, lease, future, early))
        self._talk()
        try:
            verdict = await future
        except asyncio.CancelledError:
            # The verdict may have come in the very moment in which the caller left.
            if future.done() and not future.cancelled() and (verdict := future.result()) is not None:
                self._give_back_unused(plan, tokens, lease, verdict)
            raise
        if verdict is None:
            return self._without_redis(plan, tokens, lease, early)
        if verdict.refused_by >= 0:
            limit = plan.limits[verdict.refused_by]
            self._book.refused(limit)
            return refusal_of(limit, verdict.wait_s, tokens, verdict.states(plan.limits))
        permit = RemotePermit(plan, tokens, clock.monotonic_s(), lease, verdict)
        for rule in plan.at_once:
            rule.counter.count += 1  # known here as well, for when Redis goes down
        self._book.hold(permit)
        return permit

    def release(self, permit: Permit, tokens: int | None) -> None:
        assert isinstance(permit, RemotePermit)
        if permit.over:
            return
        permit.over = True
        self._book.free(permit)
        used = tokens or 0
        if permit.verdict is None and permit.plan.tokens:
            self._book.settle_tokens(permit, used, clock.monotonic_s())
        if permit.leased and any(limit.kind != "requests" for limit in permit.plan.limits):
            self._do_later(Chore(permit, used))

    async def attend(self, permits: Sequence[Permit]) -> None:
        now_s = clock.monotonic_s()
        for permit in permits:
            assert isinstance(permit, RemotePermit)
            permit.renewed_s = now_s
        self._book.attend(now_s)
        if not self._recovering and now_s - self._renewed_s >= self._bounds.renew_s:
            self._renewed_s = now_s
            for permit in permits:
                # Places from a time without Redis become known to it in the same way.
                assert isinstance(permit, RemotePermit)
                if any(limit.kind == "concurrent" for limit in permit.plan.limits):
                    permit.leased = True
                    self._do_later(Chore(permit, -1, renew=True))
            if not permits:
                self._tasks.spawn(self._greet(), "greet redis")

    def blocked(self, address: str) -> Refusal | None:
        return self._abuse.blocked(address, clock.monotonic_s())

    def failed(self, address: str) -> None:
        self._abuse.failed(address, clock.monotonic_s())

    async def aclose(self) -> None:
        """Give back what waits, if that is quick, and let go of Redis."""
        if self._talking:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), LAST_WORDS_S)
        await self._tasks.aclose()
        await self._client.aclose()

    @property
    def degraded(self) -> bool:
        """Whether requests are decided without Redis just now."""
        return self._recovering

    def blocked_addresses(self) -> Series:
        """How many addresses are left standing."""
        return [((), float(self._abuse.blocked_count(clock.monotonic_s())))]

    def without_store(self) -> Series:
        """How many requests were decided without Redis."""
        return [((), float(self._without))]

    def _without_redis(
        self, plan: LimitPlan, tokens: int, lease: str, early: RemotePermit | None
    ) -> RemotePermit | Refusal:
        self._without += 1
        if early is not None:
            self.release(early, None)
        closed = next((limit for limit in plan.limits if limit.on_store_down == "closed"), None)
        if closed is not None:
            self._book.refused(closed)
            return UNAVAILABLE
        now_s = clock.monotonic_s()
        if plan.take(tokens, now_s) is not None:
            limit, refusal = plan.refusal(tokens, now_s)
            self._book.refused(limit)
            return refusal
        permit = RemotePermit(plan, tokens, now_s, lease, None)
        self._book.hold(permit)
        return permit

    def _give_back_unused(self, plan: LimitPlan, tokens: int, lease: str, verdict: LimiterDecision) -> None:
        if verdict.refused_by < 0:
            permit = RemotePermit(plan, tokens, 0.0, lease, verdict)
            self._do_later(Chore(permit, 0))

    def _do_later(self, chore: Chore) -> None:
        if len(self._chores) < MAX_CHORES:
            self._chores.append(chore)
        self._talk()

    def _talk(self) -> None:
        if not self._talking and not self._recovering:
            self._talking = True
            self._quiet.clear()
            self._tasks.spawn(self._exchange(), "limits in redis")

    async def _exchange(self) -> None:
        """Ask and tell until nothing waits, one call at a time."""
        try:
            while self._asking or self._chores:
                chores = [self._chores.popleft() for _ in range(min(BATCH, len(self._chores)))]
                asks = [self._asking.popleft() for _ in range(min(BATCH, len(self._asking)))]
                await self._one_call(chores, [ask for ask in asks if not ask.future.done()])
                if self._recovering:
                    return
        finally:
            self._talking = False
            self._quiet.set()

    async def _one_call(self, chores: list[Chore], asks: list[Ask]) -> None:
        batch = ScriptCall(self._prefix, self._bounds.lease_s)
        for chore in chores:
            permit = chore.permit
            if chore.renew:
                if not permit.over:
                    batch.renew(permit.lease, permit.plan.limits)
            else:
                batch.give_back(permit.lease, permit.plan.limits, permit.tokens, chore.used, permit.verdict)
        for ask in asks:
            if ask.early is not None:
                batch.give_back(ask.early.lease, ask.early.plan.limits, 0, 0, None)
            batch.take(ask.lease, ask.plan.limits, ask.tokens)
        verdicts: list[LimiterDecision | None] = [None] * len(asks)
        try:
            if batch:
                verdicts = batch.verdicts(await self._client.eval(SCRIPT, batch.keys, [batch.payload()]))
        except RedisError as error:
            self._lost(chores, asks, str(error))
        except Exception:
            _log.exception("limits in redis: an answer that makes no sense")
            self._lost(chores, asks, "no sense")
        finally:
            for ask, verdict in zip(asks, verdicts, strict=True):
                if ask.early is not None and verdict is not None:
                    # At once, so that its lease is not renewed any more.
                    ask.early.over = True
                    self._book.free(ask.early)
                if not ask.future.done():
                    ask.future.set_result(verdict)
                elif verdict is not None:
                    self._give_back_unused(ask.plan, ask.tokens, ask.lease, verdict)

    def _lost(self, chores: Sequence[Chore], asks: Sequence[Ask], reason: str) -> None:
        """Redis may have done what it did not confirm: leases are given back once more, which is harmless.

        Corrections of tokens are not, since done twice they would be wrong: the estimate stays, on the safe side.
        """
        again = [chore for chore in chores if not chore.renew]
        for chore in again:
            chore.used = -1
        unsure = [Chore(RemotePermit(ask.plan, ask.tokens, 0.0, ask.lease, None), -1) for ask in asks]
        self._chores.extendleft([*again, *unsure][: MAX_CHORES - len(self._chores)])
        for ask in self._asking:
            if not ask.future.done():
                ask.future.set_result(None)
        self._asking.clear()
        if not self._recovering:
            self._recovering = True
            _log.warning("limits: without redis (%s), each scope as its on_store_down says", reason)
            self._tasks.spawn(self._recover(), "wait for redis")

    async def _greet(self) -> None:
        """Find out that Redis is down before a request does."""
        try:
            await self._client.call("PING")
        except RedisError as error:
            self._lost((), (), str(error))

    async def _recover(self) -> None:
        """Try Redis from time to time; no request waits for it meanwhile."""
        while self._recovering:
            await asyncio.sleep(self._client.retry_after_s)
            try:
                await self._client.call("PING")
            except RedisError:
                continue
            self._recovering = False
        _log.info("limits: with redis again")
        self._renewed_s = -self._bounds.renew_s
        if self._chores:
            self._talk()
