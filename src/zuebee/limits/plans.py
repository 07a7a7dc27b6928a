"""PURE. The limits of a request, each with its counter: taken all or none. Counters in memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeAlias

from zuebee.config.settings_base import RateLimitSettings
from zuebee.contracts.admission import Caller, Limit, Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Headers, Job
from zuebee.limits.buckets import LEASE_S, MAX_TIMES, Slot, SlotWindow, TimesWindow, TokenBucket
from zuebee.limits.rules import STRANGERS, UNKNOWN_WAIT_S, Scopes, State, limit_headers, refusal_of, scope_of

MAX_COUNTERS: Final = 100_000
"""Beyond it, members that callers can invent (addresses, models) share one counter of their scope."""
EXACT_WINDOW_S: Final = 60
_SWEPT_AT_ONCE: Final = 2000


class Running:
    """How many requests run."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class ExactRequests:
    """So many requests in any window, exact."""

    __slots__ = ("_amount", "counter", "limit")

    def __init__(self, limit: Limit, counter: TimesWindow) -> None:
        self.limit, self.counter = limit, counter
        self._amount = limit.amount

    def take(self, tokens: int, now_s: float) -> float:
        """Count one request: 0, or seconds until it would fit."""
        return self.counter.take(self._amount, now_s)

    def undo(self, tokens: int) -> None:
        """It was none after all; only right after `take`."""
        self.counter.undo()

    def wait_s(self, tokens: int, now_s: float) -> float:
        """What `take` would answer."""
        return self.counter.wait_s(self._amount, now_s)

    def state(self, now_s: float) -> State:
        """How it stands."""
        used, reset_s = self.counter.standing(now_s)
        left = self._amount - used
        return State("requests", self._amount, left if left > 0 else 0, reset_s)


class SlottedAmount:
    """So many requests or tokens in any window."""

    __slots__ = ("_amount", "_tokens", "counter", "limit")

    def __init__(self, limit: Limit, counter: SlotWindow) -> None:
        self.limit, self.counter = limit, counter
        self._amount = limit.amount
        self._tokens = limit.kind == "tokens"

    def take(self, tokens: int, now_s: float) -> float:
        return self.counter.take(tokens if self._tokens else 1, self._amount, now_s)

    def undo(self, tokens: int) -> None:
        self.counter.undo(tokens if self._tokens else 1, self._amount)

    def wait_s(self, tokens: int, now_s: float) -> float:
        return self.counter.wait_s(tokens if self._tokens else 1, self._amount, now_s)

    def state(self, now_s: float) -> State:
        used, reset_s = self.counter.standing(now_s)
        left = self._amount - used
        return State(self.limit.kind, self._amount, left if left > 0 else 0, reset_s)

    def settle(self, slot: Slot, tokens: int, used: int, now_s: float) -> None:
        """`tokens` were charged into `slot`, but so many were used: less is given back, more is counted now."""
        delta = used - min(tokens, self._amount)
        if delta < 0:
            self.counter.correct(slot, delta)
        elif delta:
            self.counter.add(delta, now_s)


class BucketAmount:
    """So many requests or tokens on average, and so many at once."""

    __slots__ = ("_amount", "_burst", "_tokens", "counter", "limit")

    def __init__(self, limit: Limit, counter: TokenBucket) -> None:
        self.limit, self.counter = limit, counter
        self._amount, self._burst = limit.amount, limit.burst
        self._tokens = limit.kind == "tokens"

    def take(self, tokens: int, now_s: float) -> float:
        return self.counter.take(tokens if self._tokens else 1, self._amount, self._burst, now_s)

    def undo(self, tokens: int) -> None:
        self.counter.correct(-min(tokens, self._burst) if self._tokens else -1, self._amount)

    def wait_s(self, tokens: int, now_s: float) -> float:
        return self.counter.wait_s(tokens if self._tokens else 1, self._amount, self._burst, now_s)

    def state(self, now_s: float) -> State:
        used, reset_s = self.counter.standing(self._amount, now_s)
        return State(self.limit.kind, self._burst, max(self._burst - used, 0), reset_s)

    def settle(self, slot: Slot, tokens: int, used: int, now_s: float) -> None:
        self.counter.correct(used - min(tokens, self._burst), self._amount)


class AtOnce:
    """So many requests running."""

    __slots__ = ("_amount", "counter", "limit")

    def __init__(self, limit: Limit, counter: Running) -> None:
        self.limit, self.counter = limit, counter
        self._amount = limit.amount

    def take(self, tokens: int, now_s: float) -> float:
        if self.counter.count >= self._amount:
            return UNKNOWN_WAIT_S
        self.counter.count += 1
        return 0.0

    def undo(self, tokens: int) -> None:
        self.counter.count -= 1

    def wait_s(self, tokens: int, now_s: float) -> float:
        return UNKNOWN_WAIT_S if self.counter.count >= self._amount else 0.0


Timed: TypeAlias = ExactRequests | SlottedAmount | BucketAmount
Rule: TypeAlias = Timed | AtOnce
Counter: TypeAlias = TimesWindow | SlotWindow | TokenBucket | Running


class LimitPlan:
    """All limits of a kind of request, and the rules with counters in memory that stand for them.

    `tokens` are the rules that `settle`, `at_once` those that are held.

    `stale` once its counters may have been replaced.
    """

    __slots__ = ("admitted", "at_once", "limits", "owner", "rules", "stale", "timed", "tokens")

    def __init__(self, owner: object, limits: Sequence[Limit], rules: Sequence[Rule]) -> None:
        self.owner = owner
        self.limits = limits
        self.rules = tuple(rules)
        self.timed = tuple(rule for rule in rules if not isinstance(rule, AtOnce))
        self.at_once = tuple(rule for rule in rules if isinstance(rule, AtOnce))
        self.tokens = tuple(
            rule for rule in rules if isinstance(rule, SlottedAmount | BucketAmount) and rule.limit.kind == "tokens"
        )
        self.admitted = 0
        self.stale = False

    def take(self, tokens: int, now_s: float) -> Rule | None:
        """Take a permit under all rules; or under none, and the answer is one that refused."""
        for rule in self.rules:
            if rule.take(tokens, now_s):
                for other in self.rules:
                    if other is rule:
                        return rule
                    other.undo(tokens)
        return None

    def refusal(self, tokens: int, now_s: float) -> tuple[Limit, Refusal]:
        """Of the limits that refuse, the one that takes longest, and what to tell the caller."""
        worst = max(self.rules, key=lambda rule: rule.wait_s(tokens, now_s))
        states = [rule.state(now_s) for rule in self.timed]
        return worst.limit, refusal_of(worst.limit, worst.wait_s(tokens, now_s), tokens, states)

    def marks(self) -> tuple[Slot, ...]:
        """Right after `take`: where tokens were charged, for each of `tokens`."""
        return tuple([rule.counter.last if isinstance(rule, SlottedAmount) else _NOWHERE for rule in self.tokens])

    def headers(self, now_s: float) -> Headers:
        """The fields that tell how its limits stand."""
        return limit_headers([rule.state(now_s) for rule in self.timed])


_NOWHERE: Final = Slot(-1)


class Counters:
    """All counters in memory. Those at nothing are let go of, by and by.

    `replaced` counts how often one took the place of another: plans made before know the old one.
    """

    def __init__(self, most: int = MAX_COUNTERS) -> None:
        self.replaced = 0
        self._most = most
        self._counters: dict[tuple[str, str, int, bool], tuple[Counter, int]] = {}
        self._to_sweep: Iterator[tuple[str, str, int, bool]] = iter(())

    def __len__(self) -> int:
        return len(self._counters)

    def plan(self, limits: Sequence[Limit], counted: Sequence[Limit], owner: object) -> LimitPlan:
        """All limits of a request; those `counted`, with their counters."""
        return LimitPlan(owner, limits, [self._rule(limit) for limit in counted])

    def _rule(self, limit: Limit) -> Rule:
        key = (limit.subject, limit.kind, limit.window_s, limit.burst > 0)
        scope = scope_of(limit)
        if len(self._counters) >= self._most and scope in STRANGERS and key not in self._counters:
            key = (f"{scope}:", *key[1:])
        counter = self._counters[key][0] if key in self._counters else _new_counter(limit)
        if isinstance(counter, TimesWindow) and limit.amount > MAX_TIMES:
            counter = counter.into_slots()
            self.replaced += 1
        self._counters[key] = counter, limit.amount
        match counter:
            case TimesWindow():
                return ExactRequests(limit, counter)
            case SlotWindow():
                return SlottedAmount(limit, counter)
            case TokenBucket():
                return BucketAmount(limit, counter)
            case Running():
                return AtOnce(limit, counter)

    def sweep(self, now_s: float) -> None:
        """Let go of some counters at nothing."""
        batch = list(islice(self._to_sweep, _SWEPT_AT_ONCE))
        if not batch:
            self._to_sweep = iter(list(self._counters))
        idle = [key for key in batch if key in self._counters and _is_idle(*self._counters[key], now_s)]
        for key in idle:
            del self._counters[key]
        self.replaced += len(idle)


def _new_counter(limit: Limit) -> Counter:
    if limit.kind == "concurrent":
        return Running()
    if limit.burst:
        return TokenBucket(limit.window_s)
    if limit.kind == "requests" and limit.amount <= MAX_TIMES and limit.window_s <= EXACT_WINDOW_S:
        return TimesWindow(limit.window_s)
    return SlotWindow(limit.window_s)


def _is_idle(counter: Counter, amount: int, now_s: float) -> bool:
    match counter:
        case Running():
            return counter.count == 0
        case TokenBucket():
            return counter.used(amount, now_s) == 0
        case _:
            return counter.used(now_s) == 0


# The plans of requests, remembered; and what was decided, counted.

MAX_PLANS: Final = 10_000

Series: TypeAlias = Iterable[tuple[tuple[str, ...], float]]


class TakenPermit:
    """A permit under all rules of a plan, until it is given back or its lease runs out.

    `held`: it still counts among those running; `over`: it was given back.
    """

    __slots__ = ("held", "marks", "over", "plan", "renewed_s", "tokens")

    def __init__(self, plan: LimitPlan, tokens: int, now_s: float) -> None:
        self.plan = plan
        self.tokens = tokens
        self.renewed_s = now_s
        self.marks: tuple[Slot, ...] = plan.marks() if plan.tokens else ()
        self.held = True
        self.over = False


class PlanBook:
    """Which rules a request falls under, with their counters in memory, and who holds permits.

    `share` gives what of a limit the counters in memory may let through; None: nothing to count.
    """

    def __init__(
        self,
        settings: RateLimitSettings,
        share: Callable[[Limit], Limit | None] = lambda limit: limit,
        *,
        max_counters: int = MAX_COUNTERS,
    ) -> None:
        self.permits: set[TakenPermit] = set()
        self._share = share
        self._counters = Counters(max_counters)
        self._replaced = 0
        self._plans: dict[tuple[int, str, str, str], LimitPlan] = {}
        self._early: dict[tuple[int, str, str], LimitPlan] = {}
        self._decided: dict[tuple[str, str, str], float] = {}
        self._scopes = Scopes(settings)

    def apply(self, settings: RateLimitSettings) -> None:
        """Other limits from the next request on; what was counted stays counted."""
        self._scopes = Scopes(settings)
        self._forget_plans()

    def plan_of(self, caller: Caller, principal: Principal, job: Job) -> LimitPlan:
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

    def early_plan_of(self, caller: Caller, principal: Principal) -> LimitPlan:
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

    def settle_tokens(self, permit: TakenPermit, used: int, now_s: float) -> None:
        """So many tokens were used instead of those charged."""
        plan = permit.plan
        rules = plan.tokens if not plan.stale else self._plan(plan.limits, None).tokens
        for rule, slot in zip(rules, permit.marks, strict=True):
            rule.settle(slot, permit.tokens, used, now_s)

    def hold(self, permit: TakenPermit) -> None:
        """It runs."""
        if permit.plan.at_once:
            self.permits.add(permit)

    def free(self, permit: TakenPermit) -> None:
        """It runs no more."""
        if permit.held:
            permit.held = False
            self.permits.discard(permit)
            for rule in permit.plan.at_once:
                rule.counter.count -= 1

    def attend(self, now_s: float) -> None:
        """Free the permits that nobody renewed, and let go of counters at nothing."""
        for permit in [each for each in self.permits if each.renewed_s <= now_s - LEASE_S]:
            self.free(permit)
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
        """(scope) and how many permits of limits on requests at once are taken."""
        counts: dict[tuple[str, ...], float] = {}
        for permit in self.permits:
            for rule in permit.plan.at_once:
                scope = (scope_of(rule.limit),)
                counts[scope] = counts.get(scope, 0) + 1
        return list(counts.items())

    def counters(self) -> Series:
        """How many counters there are."""
        return [((), float(len(self._counters)))]

    def _plan(self, limits: Sequence[Limit], owner: object) -> LimitPlan:
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

    def _retire(self, plan: LimitPlan) -> None:
        self._count_admitted(plan)
        plan.stale = True

    def _count_admitted(self, plan: LimitPlan) -> None:
        if plan.admitted:
            for limit in plan.limits:
                self._count(limit, "admitted", plan.admitted)
            plan.admitted = 0

    def _count(self, limit: Limit, decision: str, count: int) -> None:
        key = (scope_of(limit), limit.kind, decision)
        self._decided[key] = self._decided.get(key, 0) + count
