"""PURE. The plans of requests, remembered; and what was decided, counted."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from zuebee.config import RateLimitSettings
from zuebee.contracts.admission import Caller, Limit, Principal
from zuebee.contracts.inference import Job
from zuebee.limits.buckets import LEASE_S, Slot
from zuebee.limits.plans import Counters, Plan
from zuebee.limits.rules import Scopes, scope_of

MAX_PLANS: Final = 10_000

Series: TypeAlias = Iterable[tuple[tuple[str, ...], float]]


class Taken:
    """A place under all rules of a plan, until it is given back or its lease runs out.

    `held`: it still counts among those running; `over`: it was given back.
    """

    __slots__ = ("held", "marks", "over", "plan", "renewed_s", "tokens")

    def __init__(self, plan: Plan, tokens: int, now_s: float) -> None:
        self.plan = plan
        self.tokens = tokens
        self.renewed_s = now_s
        self.marks: tuple[Slot, ...] = plan.marks() if plan.tokens else ()
        self.held = True
        self.over = False


class PlanBook:
    """Which rules a request falls under, with their counters in memory, and who holds places.

    `share` gives what of a limit the counters in memory may let through; None: nothing to count.
    """

    def __init__(
        self, settings: RateLimitSettings, share: Callable[[Limit], Limit | None] = lambda limit: limit
    ) -> None:
        self.places: set[Taken] = set()
        self._share = share
        self._counters = Counters()
        self._replaced = 0
        self._plans: dict[tuple[int, str, str, str], Plan] = {}
        self._early: dict[tuple[int, str, str], Plan] = {}
        self._decided: dict[tuple[str, str, str], float] = {}
        self._scopes = Scopes(settings)

    def apply(self, settings: RateLimitSettings) -> None:
        """Other limits from the next request on; what was counted stays counted."""
        self._scopes = Scopes(settings)
        self._forget_plans()

    def plan_of(self, caller: Caller, principal: Principal, job: Job) -> Plan:
        """The rules of a request: remembered, for the same principal asks again."""
        scopes = self._scopes
        route = caller.route if scopes.by_route else ""
        model = job.model if scopes.by_model else ""
        address = caller.address if scopes.by_address else ""
        key = (id(principal), route, model, address)
        plan = self._plans.get(key)
        # The owner is compared, for the id of one that is gone may come again.
        if plan is None or plan.owner is not principal:
            if len(self._plans) >= MAX_PLANS:
                self._forget_plans()
            limits = scopes.limits_for(principal, caller.route, job.model, caller.address)
            made = self._plan(limits, principal)
            self._drop_stale_plans()
            if plan is not None:
                self._retire(plan)
            self._plans[key] = plan = made
        return plan

    def early_plan_of(self, caller: Caller, principal: Principal) -> Plan:
        """The rules on requests at once that are known before the body is."""
        scopes = self._scopes
        route = caller.route if scopes.by_route else ""
        key = (id(principal), route, caller.address if scopes.by_address else "")
        plan = self._early.get(key)
        if plan is None or plan.owner is not principal:
            if len(self._early) >= MAX_PLANS:
                self._forget_plans()
            limits = scopes.limits_for(principal, caller.route, "", caller.address)
            at_once = [each for each in limits if each.kind == "concurrent" and scope_of(each) != "model"]
            made = self._plan(at_once, principal)
            self._drop_stale_plans()
            if plan is not None:
                self._retire(plan)
            self._early[key] = plan = made
        return plan

    def settle_tokens(self, place: Taken, used: int, now_s: float) -> None:
        """So many tokens were used instead of those charged."""
        plan = place.plan
        rules = plan.tokens if not plan.stale else self._plan(plan.limits, None).tokens
        for rule, slot in zip(rules, place.marks, strict=True):
            rule.settle(slot, place.tokens, used, now_s)

    def hold(self, place: Taken) -> None:
        """It runs."""
        if place.plan.at_once:
            self.places.add(place)

    def free(self, place: Taken) -> None:
        """It runs no more."""
        if place.held:
            place.held = False
            self.places.discard(place)
            for rule in place.plan.at_once:
                rule.counter.count -= 1

    def attend(self, now_s: float) -> None:
        """Free the places that nobody renewed, and let go of counters at nothing."""
        for place in [each for each in self.places if each.renewed_s <= now_s - LEASE_S]:
            self.free(place)
        self._counters.sweep(now_s)
        self._drop_stale_plans()

    def refused(self, limit: Limit) -> None:
        """Count a refusal."""
        self._count(limit, "refused", 1)

    def decisions(self) -> Series:
        """(scope, kind, `admitted` or `refused`) and how often."""
        for plan in self._plans.values():
            self._count_admitted(plan)
        return list(self._decided.items())

    def slots(self) -> Series:
        """(scope) and how many places of limits on requests at once are taken."""
        counts: dict[tuple[str, ...], float] = {}
        for place in self.places:
            for rule in place.plan.at_once:
                scope = (scope_of(rule.limit),)
                counts[scope] = counts.get(scope, 0) + 1
        return list(counts.items())

    def counters(self) -> Series:
        """How many counters there are."""
        return [((), float(len(self._counters)))]

    def _plan(self, limits: Sequence[Limit], owner: object) -> Plan:
        return self._counters.plan(limits, [share for limit in limits if (share := self._share(limit))], owner)

    def _drop_stale_plans(self) -> None:
        if self._replaced != self._counters.replaced:
            self._replaced = self._counters.replaced
            self._forget_plans()

    def _forget_plans(self) -> None:
        for plan in [*self._plans.values(), *self._early.values()]:
            self._retire(plan)
        self._plans.clear()
        self._early.clear()

    def _retire(self, plan: Plan) -> None:
        self._count_admitted(plan)
        plan.stale = True

    def _count_admitted(self, plan: Plan) -> None:
        if plan.admitted:
            for limit in plan.limits:
                self._count(limit, "admitted", plan.admitted)
            plan.admitted = 0

    def _count(self, limit: Limit, decision: str, count: int) -> None:
        key = (scope_of(limit), limit.kind, decision)
        self._decided[key] = self._decided.get(key, 0) + count
