"""How much, how fast? Counters in the memory of this process."""

from collections.abc import Iterable, Sequence

from zuebee.config import RateLimitSettings
from zuebee.contracts.admission import Caller, Place, Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Headers, Job
from zuebee.kit import clock
from zuebee.limits.abuse import AbuseGuard
from zuebee.limits.buckets import LEASE_S, Slot
from zuebee.limits.plans import Counters, Plan
from zuebee.limits.rules import Scopes, scope_of

MAX_PLANS = 10_000

Series = Iterable[tuple[tuple[str, ...], float]]


class Taken:
    """A place under all rules of a plan, until it is given back or its lease runs out."""

    __slots__ = ("held", "marks", "over", "plan", "renewed_s", "tokens")

    def __init__(self, plan: Plan, tokens: int, now_s: float) -> None:
        self.plan = plan
        self.tokens = tokens
        self.renewed_s = now_s
        self.marks: tuple[Slot, ...] = plan.marks() if plan.tokens else ()
        self.held = True
        self.over = False

    def headers(self) -> Headers:
        """See `Place.headers`."""
        return self.plan.headers(clock.monotonic_s()) if self.plan.timed else []


class Tallies:
    """Decisions by scope and kind, for metrics."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str], float] = {}

    def add(self, scope: str, kind: str, decision: str, count: int = 1) -> None:
        """Count so many decisions."""
        key = (scope, kind, decision)
        self._counts[key] = self._counts.get(key, 0) + count

    def series(self) -> Series:
        """All of them: (scope, kind, decision) and how many."""
        return list(self._counts.items())


class MemoryLimiter:
    """All limits of one process. Places that `attend` was not told of for LEASE_S are free again."""

    def __init__(self, settings: RateLimitSettings) -> None:
        self._counters = Counters()
        self._replaced = 0
        self._plans: dict[tuple[int, str, str, str], Plan] = {}
        self._places: set[Taken] = set()
        self._tallies = Tallies()
        self._abuse = AbuseGuard(settings.abuse)
        self._scopes = Scopes(settings)

    def apply(self, settings: RateLimitSettings) -> None:
        """Other limits from the next request on; what was counted stays counted."""
        self._scopes = Scopes(settings)
        self._abuse.settings = settings.abuse
        self._forget_plans()

    async def acquire(self, caller: Caller, principal: Principal, job: Job, tokens: int) -> Place | Refusal:
        """See `Limiter.acquire`."""
        plan = self.plan_of(caller, principal, job)
        now_s = clock.monotonic_s()
        if plan.take(tokens, now_s) is not None:
            rule, refusal = plan.refusal(tokens, now_s)
            self._tallies.add(scope_of(rule.limit), rule.limit.kind, "refused")
            return refusal
        plan.admitted += 1
        place = Taken(plan, tokens, now_s)
        if plan.at_once:
            self._places.add(place)
        return place

    def release(self, place: Place, tokens: int | None) -> None:
        """See `Limiter.release`."""
        assert isinstance(place, Taken)
        if place.over:
            return
        place.over = True
        plan = place.plan
        if plan.at_once:
            self._places.discard(place)
            self._free(place)
        if plan.tokens:
            now_s, used = clock.monotonic_s(), tokens or 0
            rules = plan.tokens if not plan.stale else self._counters.plan(plan.limits).tokens
            for rule, slot in zip(rules, place.marks, strict=True):
                rule.settle(slot, place.tokens, used, now_s)

    async def attend(self, places: Sequence[Place]) -> None:
        """See `Limiter.attend`."""
        now_s = clock.monotonic_s()
        for place in places:
            assert isinstance(place, Taken)
            place.renewed_s = now_s
        for place in [each for each in self._places if each.renewed_s <= now_s - LEASE_S]:
            self._places.discard(place)
            self._free(place)
        self._counters.sweep(now_s)
        self._drop_stale_plans()

    def blocked(self, address: str) -> Refusal | None:
        """See `Limiter.blocked`."""
        return self._abuse.blocked(address, clock.monotonic_s())

    def failed(self, address: str) -> None:
        """See `Limiter.failed`."""
        self._abuse.failed(address, clock.monotonic_s())

    async def aclose(self) -> None:
        """There is nothing to let go of."""

    @property
    def degraded(self) -> bool:
        """Whether limits are not what they should be just now: never."""
        return False

    def decisions(self) -> Series:
        """(scope, kind, `admitted` or `refused`) and how often."""
        for plan in self._plans.values():
            self._count_admitted(plan)
        return self._tallies.series()

    def slots(self) -> Series:
        """(scope) and how many places of limits on requests at once are taken."""
        counts: dict[tuple[str, ...], float] = {}
        for place in self._places:
            for rule in place.plan.at_once:
                scope = (scope_of(rule.limit),)
                counts[scope] = counts.get(scope, 0) + 1
        return counts.items()

    def counters(self) -> Series:
        """How many counters there are."""
        return [((), float(len(self._counters)))]

    def blocked_addresses(self) -> Series:
        """How many addresses are left standing."""
        return [((), float(self._abuse.blocked_count(clock.monotonic_s())))]

    def plan_of(self, caller: Caller, principal: Principal, job: Job) -> Plan:
        """The rules of a request: remembered, for the same principal asks again."""
        scopes = self._scopes
        route = caller.route if scopes.by_route else ""
        model = job.model if scopes.by_model else ""
        address = caller.address if scopes.by_address else ""
        key = (id(principal), route, model, address)
        plan = self._plans.get(key)
        if plan is None or plan.owner is not principal:
            if len(self._plans) >= MAX_PLANS:
                self._forget_plans()
            limits = scopes.limits_for(principal, caller.route, job.model, caller.address)
            made = self._counters.plan(limits, principal)
            self._drop_stale_plans()
            if plan is not None:
                self._retire(plan)
            self._plans[key] = plan = made
        return plan

    def _free(self, place: Taken) -> None:
        if place.held:
            place.held = False
            for rule in place.plan.at_once:
                rule.counter.count -= 1

    def _drop_stale_plans(self) -> None:
        if self._replaced != self._counters.replaced:
            self._replaced = self._counters.replaced
            self._forget_plans()

    def _forget_plans(self) -> None:
        for plan in self._plans.values():
            self._retire(plan)
        self._plans.clear()

    def _retire(self, plan: Plan) -> None:
        self._count_admitted(plan)
        plan.stale = True

    def _count_admitted(self, plan: Plan) -> None:
        for rule in plan.rules:
            self._tallies.add(scope_of(rule.limit), rule.limit.kind, "admitted", plan.admitted)
        plan.admitted = 0
