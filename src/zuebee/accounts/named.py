"""What the store says of a caller whose key it does not have: of the plan and the owners that a token names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Text, bindparam, cast, func, select

from zuebee.accounts.entitlements import Level, merge
from zuebee.accounts.forms import Scope
from zuebee.accounts.levels import (
    NOTHING_LEFT,
    PARENTS,
    SUBSCRIPTION_LAPSED,
    column_of,
    lapsed,
    level_of,
    plan_of,
    statement,
    tags_of,
)
from zuebee.contracts.admission import Principal, some_tags
from zuebee.contracts.errors import KEY_DISABLED, Refusal
from zuebee.kit import clock

_NAMED = select(*(cast(bindparam(name), Text).label(name) for name in ("plan", *PARENTS))).subquery("named")


def _name_of(scope: Scope, below: Mapping[Scope, Any]) -> Any:
    """What was named; else what the nearest owner below belongs to, as with keys of the store."""
    owners = [below[other].c[f"{scope}_id"] for other in reversed(PARENTS) if other in below]
    names = [func.nullif(name, "") for name in (_NAMED.c[scope], *owners)]
    return func.coalesce(*names) if owners else names[0]


def _statement() -> Any:
    names: list[Any] = []

    def name_of(scope: Scope, below: Mapping[Scope, Any]) -> Any:
        name = _name_of(scope, below)
        names.append(name.label(f"{scope}_id"))
        return name

    return statement(_NAMED, [_NAMED.c.plan], name_of).add_columns(*names)


_FIND = _statement()


def entitled(connection: Connection, principal: Principal, currency: str) -> Principal | Refusal:
    """See `StoreSource.entitle`. The plan that is named stands at the level of a key: its limits and budgets count for
    `key:KEY_ID`. A priority other than `normal` is a bound, like that of a key."""
    names = (principal.plan, principal.user_id, principal.team_id, principal.organisation_id)
    if not any(names):
        return principal
    asked = dict(zip(("plan", *PARENTS), names, strict=True))
    return _principal(connection.execute(_FIND, asked).mappings().all(), principal, currency)


def _principal(rows: Sequence[Any], principal: Principal, currency: str) -> Principal | Refusal:
    row, now_s = rows[0], clock.wall_s()
    present = [scope for scope in PARENTS if row[f"{scope}_id_"] is not None]
    if any(column_of(row, scope, "status") != "active" for scope in present):
        return KEY_DISABLED
    own = plan_of(row, "key")
    if (own is not None and row["key_plan_status_"] != "active") or any(lapsed(row, scope, now_s) for scope in present):
        return SUBSCRIPTION_LAPSED
    levels = [
        Level("key", principal.key_id, principal.models, principal.endpoints, plan=own),
        *(level_of(rows, scope) for scope in present),
    ]
    priority = principal.priority if principal.priority != "normal" else None
    found = merge(levels, priority=priority, billing="none", currency=currency)
    if found.models is None or found.endpoints is None:
        return NOTHING_LEFT
    return replace(
        principal,
        team_id=row["team_id"] or "",
        organisation_id=row["organisation_id"] or "",
        plan=principal.plan or found.plan,
        priority=found.priority,
        tags=some_tags(principal.tags, tags_of(row, present)),
        models=found.models,
        endpoints=found.endpoints,
        limits=(*principal.limits, *found.limits),
        budgets=(*principal.budgets, *found.budgets),
    )
