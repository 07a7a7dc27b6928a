"""What the holders of rights above a credential have: their rows, plans and budgets, by one question."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import and_, or_, select

from zuebee.accounts import directory
from zuebee.accounts.entitlements import Level, PlanTerms
from zuebee.accounts.forms import BudgetForm, Scope
from zuebee.config import LimitSettings
from zuebee.contracts.admission import some_tags
from zuebee.contracts.errors import Refusal
from zuebee.schema import tables

SUBSCRIPTION_LAPSED = Refusal(
    403, "permission_error", "subscription_lapsed", "The plan that this API key belongs to has ended."
)
NOTHING_LEFT = Refusal(
    403,
    "permission_error",
    "nothing_allowed",
    "What this API key, its owners and their plans allow has nothing in common.",
)

SCOPES: tuple[Scope, ...] = ("key", "user", "team", "organisation")
PARENTS = SCOPES[1:]
_PARENT_COLUMNS = ("id", "status", "plan", "plan_ends_at_s", "models", "endpoints", "limits", "tags")
_PLAN_COLUMNS = ("id", "status", "priority", "models", "endpoints", "limits", "budgets")


def statement(
    key: Any, columns: Sequence[Any], name_of: Callable[[Scope, Mapping[Scope, Any]], Any], lineage: Any = None
) -> Any:
    """One row of `key` (with a column `plan`) with its owners, their plans and all their budgets: a row for each
    budget, at least one.

    `name_of`: the id of an owner, given the tables of the owners below it. `lineage`: by what the key's budgets are
    found.
    """
    budgets = tables.budgets
    chosen = list(columns)
    holders: dict[Scope, Any] = {"key": key}
    origin: Any = key
    for scope in PARENTS:
        parent = directory.TABLES[scope].alias(f"a_{scope}")
        origin = origin.outerjoin(parent, parent.c.id == name_of(scope, holders))
        holders[scope] = parent
        chosen += [parent.c[name].label(f"{scope}_{name}_") for name in _PARENT_COLUMNS]
    for scope in SCOPES:
        plan = tables.plans.alias(f"plan_of_{scope}")
        origin = origin.outerjoin(plan, plan.c.id == holders[scope].c.plan)
        chosen += [plan.c[name].label(f"{scope}_plan_{name}_") for name in _PLAN_COLUMNS]
    names = {scope: holders[scope].c.id for scope in PARENTS}
    if lineage is not None:
        names["key"] = lineage
    mine = or_(*(and_(budgets.c.scope == scope, budgets.c.scope_id == name) for scope, name in names.items()))
    origin = origin.outerjoin(budgets, mine)
    chosen += [budgets.c[name].label(f"budget_{name}_") for name in ("scope", "unit", "period", "amount")]
    return select(*chosen).select_from(origin).order_by(budgets.c.account)


def column_of(row: Mapping[str, Any], scope: Scope, column: str) -> Any:
    """A column of one holder in a row of `statement`."""
    return row[column] if scope == "key" else row[f"{scope}_{column}_"]


def lapsed(row: Mapping[str, Any], scope: Scope, now_s: float) -> bool:
    """Whether the holder's plan has ended: its time is over, or it is not offered any more."""
    if not column_of(row, scope, "plan"):
        return False
    ends_at_s = column_of(row, scope, "plan_ends_at_s")
    return bool(row[f"{scope}_plan_status_"] != "active" or (ends_at_s and now_s >= ends_at_s))


def level_of(rows: Sequence[Any], scope: Scope) -> Level:
    """What one holder says by itself and by its plan."""
    row = rows[0]
    if scope != "key" and row[f"{scope}_id_"] is None:
        return Level(scope, row[f"{scope}_id"])  # an owner that is gone: the key is not active anyway
    return Level(
        scope=scope,
        id=row["lineage"] if scope == "key" else row[f"{scope}_id"],
        models=texts(column_of(row, scope, "models")),
        endpoints=texts(column_of(row, scope, "endpoints")),
        limits=_limits(column_of(row, scope, "limits")),
        budgets=tuple(
            BudgetForm(unit=each["budget_unit_"], period=each["budget_period_"], amount=each["budget_amount_"])
            for each in rows
            if each["budget_scope_"] == scope
        ),
        plan=plan_of(row, scope),
    )


def plan_of(row: Mapping[str, Any], scope: Scope) -> PlanTerms | None:
    """The plan of one holder; None if it has none."""
    at = f"{scope}_plan_"
    if row[f"{at}id_"] is None:
        return None
    return PlanTerms(
        id=row[f"{at}id_"],
        priority=row[f"{at}priority_"],
        models=texts(row[f"{at}models_"]),
        endpoints=texts(row[f"{at}endpoints_"]),
        limits=_limits(row[f"{at}limits_"]),
        budgets=msgspec.json.decode(row[f"{at}budgets_"], type=tuple[BudgetForm, ...]),
    )


def texts(text: str) -> tuple[str, ...]:
    """A list that stands in a column."""
    return msgspec.json.decode(text, type=tuple[str, ...])


def _limits(text: str) -> LimitSettings:
    return msgspec.json.decode(text, type=LimitSettings)


def tags_of(row: Mapping[str, Any], present: Sequence[Scope]) -> tuple[str, ...]:
    """The tags of these holders, each once, as many as fit into the bounds."""
    return some_tags(*(texts(column_of(row, scope, "tags") or "[]") for scope in present))
