"""How much, how fast? Counters in the memory of this process."""

from collections.abc import Sequence

from zuebee.config.settings_base import RateLimitSettings
from zuebee.contracts.admission import Caller, Permit, Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Headers, Job
from zuebee.lib import clock
from zuebee.limits.abuse import AbuseGuard
from zuebee.limits.plans import MAX_COUNTERS, LimitPlan, PlanBook, Series, TakenPermit


class LocalPermit(TakenPermit):
    """A permit in memory."""

    __slots__ = ()

    def headers(self) -> Headers:
        plan = self.plan
        return plan.headers(clock.monotonic_s()) if plan.timed else []


class MemoryLimiter:
    """All limits of one process. Places that `attend` was not told of for LEASE_S are free again."""

    def __init__(self, settings: RateLimitSettings, *, max_counters: int = MAX_COUNTERS) -> None:
        self._abuse = AbuseGuard(settings.abuse)
        self._book = PlanBook(settings, max_counters=max_counters)
        self.decisions = self._book.decisions
        self.slots = self._book.slots
        self.counters = self._book.counters

    def apply(self, settings: RateLimitSettings) -> None:
        """Other limits from the next request on; what was counted stays counted."""
        self._abuse.settings = settings.abuse
        self._book.apply(settings)

    async def enter(self, caller: Caller, principal: Principal) -> Permit | Refusal | None:
        plan = self._book.early_plan_of(caller, principal)
        return self._take(plan, 0) if plan.at_once else None

    async def acquire(self, caller: Caller, principal: Principal, job: Job, tokens: int) -> Permit | Refusal:
        plan = self._book.plan_of(caller, principal, job)
        if job.early is not None:
            assert isinstance(job.early, LocalPermit)
            self.release(job.early, None)
        permit = self._take(plan, tokens)
        if isinstance(permit, LocalPermit):
            plan.admitted += 1
        return permit

    def _take(self, plan: LimitPlan, tokens: int) -> LocalPermit | Refusal:
        now_s = clock.monotonic_s()
        if plan.take(tokens, now_s) is not None:
            limit, refusal = plan.refusal(tokens, now_s)
            self._book.refused(limit)
            return refusal
        permit = LocalPermit(plan, tokens, now_s)
        if plan.at_once:
            self._book.permits.add(permit)
        return permit

    def release(self, permit: Permit, tokens: int | None) -> None:
        assert isinstance(permit, LocalPermit)
        if permit.over:
            return
        permit.over = True
        if permit.plan.at_once:
            self._book.free(permit)
        if permit.plan.tokens:
            self._book.settle_tokens(permit, tokens or 0, clock.monotonic_s())

    async def attend(self, permits: Sequence[Permit]) -> None:
        now_s = clock.monotonic_s()
        for permit in permits:
            assert isinstance(permit, LocalPermit)
            permit.renewed_s = now_s
        self._book.attend(now_s)

    def blocked(self, address: str) -> Refusal | None:
        return self._abuse.blocked(address, clock.monotonic_s())

    def failed(self, address: str) -> None:
        self._abuse.failed(address, clock.monotonic_s())

    async def aclose(self) -> None:
        """There is nothing to let go of."""

    @property
    def degraded(self) -> bool:
        """Whether limits are not what they should be just now: never."""
        return False

    def blocked_addresses(self) -> Series:
        """How many addresses are left standing."""
        return [((), float(self._abuse.blocked_count(clock.monotonic_s())))]

    def without_store(self) -> Series:
        """How many requests were decided without the store: none."""
        return [((), 0.0)]
