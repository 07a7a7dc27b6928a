"""PURE. What a key entitles to: its own rights, cut down by its user's, team's and organization's, and all their plans.

A level can only take away. So the rights of a child are a part of its parent's, whatever the child was given.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec

from zuebee.accounts.schemas import BillingMode, BudgetForm, Scope
from zuebee.config.settings_base import LimitSettings
from zuebee.contracts import limits as rates
from zuebee.contracts.admission import Budget, Limit, Period, Priority
from zuebee.lib.patterns import Patterns, narrow

RANK: dict[Priority, int] = {"low": 0, "normal": 1, "high": 2}


class PlanTerms(msgspec.Struct, frozen=True):
    """What a plan grants to each of its holders."""

    id: str
    priority: Priority = "normal"
    models: Patterns = ()
    endpoints: Patterns = ()
    limits: LimitSettings = LimitSettings()
    budgets: tuple[BudgetForm, ...] = ()


class Level(msgspec.Struct, frozen=True):
    """One holder of rights on the way from the key up. Of a key, `id` is its lineage."""

    scope: Scope
    id: str
    models: Patterns = ()
    endpoints: Patterns = ()
    limits: LimitSettings = LimitSettings()
    budgets: tuple[BudgetForm, ...] = ()
    plan: PlanTerms | None = None


class Entitlements(msgspec.Struct, frozen=True):
    """What all levels together leave. `models` or `endpoints` None: nothing is left."""

    models: Patterns | None
    endpoints: Patterns | None
    priority: Priority
    plan: str
    limits: tuple[Limit, ...]
    budgets: tuple[Budget, ...]


def merge(levels: Sequence[Level], *, priority: Priority | None, billing: BillingMode, currency: str) -> Entitlements:
    """Levels in the order key, user, team, organization; those that the key has not are left out."""
    plans = [level.plan for level in levels if level.plan is not None]
    return Entitlements(
        models=narrow([*(level.models for level in levels), *(plan.models for plan in plans)]),
        endpoints=narrow([*(level.endpoints for level in levels), *(plan.endpoints for plan in plans)]),
        priority=lowest([*([priority] if priority else []), *(plan.priority for plan in plans)]),
        plan=plans[0].id if plans else "",
        limits=tuple(limit for level in levels for limit in limits_of(level)),
        budgets=_budgets(levels, billing, currency),
    )


def lowest(priorities: Iterable[Priority]) -> Priority:
    """The lowest class of all; `normal` of none."""
    return min(priorities, key=lambda priority: RANK[priority], default="normal")


def limits_of(level: Level) -> tuple[Limit, ...]:
    """The level's own limits and its plan's, counted together: where both say something, the smaller holds."""
    subject = f"{level.scope}:{level.id}"
    found: dict[tuple[str, int], Limit] = {}
    for settings in (level.limits, *([level.plan.limits] if level.plan is not None else [])):
        for limit in rates.limits_of(subject, settings) if settings.enabled else ():
            known = found.get((limit.kind, limit.window_s))
            found[limit.kind, limit.window_s] = limit if known is None else _smaller(known, limit)
    return tuple(found.values())


def _smaller(one: Limit, other: Limit) -> Limit:
    strict = {"closed": 0, "share": 1, "open": 2}
    return replace(
        one,
        amount=min(one.amount, other.amount),
        burst=min(one.burst, other.burst),
        on_store_down=min(one.on_store_down, other.on_store_down, key=lambda policy: strict[policy]),
    )


def _budgets(levels: Sequence[Level], billing: BillingMode, currency: str) -> tuple[Budget, ...]:
    found: list[Budget] = []
    for level in levels:
        if level.scope == "key" and billing == "none":
            level = msgspec.structs.replace(level, budgets=())  # its plan's count all the same
        own = list(budgets_of(level))
        if level.scope == "key" and billing != "none":
            if billing == "prepaid" and all(budget.limit is not None for budget in own):
                # The key's own account, empty until a top-up.
                own.append(Budget(account_of("key", level.id, currency, "never"), currency, "never", None))
            if not own:
                # A quota that nobody set is not an endless one.
                own = [Budget(account_of("key", level.id, "tokens", "never"), "tokens", "never", 0)]
        found += own
    return tuple(found)


def budgets_of(level: Level) -> tuple[Budget, ...]:
    """The level's own budgets and its plan's. For one unit and period the smaller holds; prepaid is smallest."""
    found: dict[str, Budget] = {}
    for form in (*level.budgets, *(level.plan.budgets if level.plan is not None else ())):
        account = account_of(level.scope, level.id, form.unit, form.period)
        known = found.get(account)
        amount = form.amount
        if known is not None:
            amount = None if known.limit is None or amount is None else min(known.limit, amount)
        found[account] = Budget(account, form.unit, form.period, amount)
    return tuple(found.values())


def account_of(scope: Scope, holder: str, unit: str, period: Period) -> str:
    """The name of an account of the ledger: for ever, and the same for all keys of a lineage."""
    return f"{scope}:{holder}/{unit}/{period}"
