"""PURE. One principal out of what several sources agree on: none may widen what another one narrowed."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from zuebee.contracts.admission import Budget, Limit, Principal, some_tags

NOTHING = "-"
"""A pattern that no model and no path has: all lists together leave nothing."""


def merged(principals: Sequence[Principal]) -> Principal:
    """The first one, with the limits, budgets and restrictions of all."""
    first, *others = principals
    for other in others:
        first = replace(
            first,
            tags=some_tags(first.tags, other.tags),
            models=_both(first.models, other.models),
            endpoints=_both(first.endpoints, other.endpoints),
            limits=_limits((*first.limits, *other.limits)),
            budgets=_budgets((*first.budgets, *other.budgets)),
            priority="low" if other.priority == "low" else first.priority,
        )
    return first


def _both(ours: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[str, ...]:
    """What both lists allow; an empty one allows all."""
    if not ours or not theirs:
        return ours or theirs
    inner = (each for each in ours if any(_covers(wide, each) for wide in theirs))
    outer = (each for each in theirs if any(_covers(wide, each) for wide in ours))
    return tuple(dict.fromkeys((*inner, *outer))) or (NOTHING,)


def _covers(wide: str, narrow: str) -> bool:
    return narrow.startswith(wide[:-1]) if wide.endswith("*") else wide == narrow


def _limits(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    found: dict[tuple[str, str, int], Limit] = {}
    for limit in limits:
        name = (limit.subject, limit.kind, limit.window_s)
        known = found.get(name)
        # An amount of 0 is no limit.
        if known is None or not known.amount or 0 < limit.amount < known.amount:
            found[name] = limit
    return tuple(found.values())


def _budgets(budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    found: dict[str, Budget] = {}
    for budget in budgets:
        known = found.setdefault(budget.account, budget)
        if known is not budget:
            # Without a limit of its own only what was paid in may be spent: that is the smallest.
            limits = [each.limit for each in (known, budget) if each.limit is not None]
            smaller = min(limits) if len(limits) == 2 else None
            used = max(known.used_before, budget.used_before)
            found[budget.account] = replace(known, limit=smaller, used_before=used)
    return tuple(found.values())
