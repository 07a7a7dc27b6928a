"""The store as a source of keys: a digest becomes a record with everything that its key entitles to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from sqlalchemy import Connection, Text, and_, bindparam, cast, func, or_, select

from zuebee.accounts import directory
from zuebee.accounts.entitlements import Level, PlanTerms, merge
from zuebee.accounts.keys import state_of
from zuebee.accounts.schemas import BudgetForm, Scope
from zuebee.config.settings_base import LimitSettings
from zuebee.contracts.admission import Budget, Principal, some_tags
from zuebee.contracts.errors import KEY_DISABLED, Refusal
from zuebee.contracts.keys import Credential, KeyRecord
from zuebee.lib import clock
from zuebee.lib.networks import parse_networks
from zuebee.lib.sql.database import Database
from zuebee.schema import tables

# What the holders of rights above a credential have: their rows, plans and budgets, by one question.

SUBSCRIPTION_LAPSED = Refusal(
    403, "permission_error", "subscription_lapsed", "The plan that this API key belongs to has ended."
)
NOTHING_LEFT = Refusal(
    403,
    "permission_error",
    "nothing_allowed",
    "What this API key, its owners and their plans allow has nothing in common.",
)

SCOPES: tuple[Scope, ...] = ("key", "user", "team", "organization")
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


MAX_BUDGETS = 50_000

_FIND = statement(
    tables.keys, list(tables.keys.c), lambda scope, _: tables.keys.c[f"{scope}_id"], tables.keys.c.lineage
)


class StoreSource:
    """The keys made with `zuebee keys`. One round trip for each question; asked again each time, nothing is cached."""

    name = "store"

    def __init__(self, database: Database, *, currency: str) -> None:
        self._database = database
        self._currency = currency
        self._budgets: dict[tuple[Budget, ...], tuple[Budget, ...]] = {}

    async def find(self, presented: Credential) -> KeyRecord | Refusal | None:
        """A key whose plan, or an owner's plan, has ended is refused `subscription_lapsed`."""
        found = await self._database.run(lambda connection: find(connection, presented.digest, self._currency))
        if isinstance(found, KeyRecord) and found.principal.budgets:
            budgets = self._same(found.principal.budgets)
            return msgspec.structs.replace(found, principal=replace(found.principal, budgets=budgets))
        return found

    async def entitle(self, principal: Principal) -> Principal | Refusal:
        """The principal with what the store says of the plan, the user, the team and the organization that it names.

        One round trip. What the store does not know gives and takes nothing; a disabled one, and a plan that has ended,
        refuse as they do for a key of the store. Raises DatabaseError.
        """
        found = await self._database.run(lambda connection: entitled(connection, principal, self._currency))
        if isinstance(found, Principal) and found.budgets:
            return replace(found, budgets=self._same(found.budgets))
        return found

    async def has_keys(self) -> bool:
        """Whether there is a key that was not revoked. Raises DatabaseError."""
        asked = select(tables.keys.c.id).where(tables.keys.c.revoked_at_s == 0).limit(1)
        return await self._database.run(lambda connection: connection.execute(asked).first() is not None)

    def _same(self, budgets: tuple[Budget, ...]) -> tuple[Budget, ...]:
        """Equal budgets as the same object each time: by it the ledger knows their accounts without a search."""
        if len(self._budgets) >= MAX_BUDGETS:
            self._budgets.clear()
        return self._budgets.setdefault(budgets, budgets)

    async def aclose(self) -> None:
        """The database belongs to whoever opened it."""


def find(connection: Connection, digest: str, currency: str) -> KeyRecord | Refusal | None:
    """The record of the key with this SHA-256 in hex."""
    rows = connection.execute(_FIND.where(tables.keys.c.digest == digest)).mappings().all()
    return _record(rows, currency) if rows else None


def find_by_id(connection: Connection, key_id: str, currency: str) -> KeyRecord | Refusal | None:
    """The same by the key's id: what a request with it would meet."""
    rows = connection.execute(_FIND.where(tables.keys.c.id == key_id)).mappings().all()
    return _record(rows, currency) if rows else None


def _record(rows: Sequence[Any], currency: str) -> KeyRecord | Refusal:
    row, now_s = rows[0], clock.wall_s()
    present = [scope for scope in SCOPES if scope == "key" or row[f"{scope}_id"]]
    active = row["status"] == "active" and all(column_of(row, scope, "status") == "active" for scope in present[1:])
    if active and state_of(row, now_s) == "active" and any(lapsed(row, scope, now_s) for scope in present):
        return SUBSCRIPTION_LAPSED
    levels = [level_of(rows, scope) for scope in present]
    entitled = merge(levels, priority=row["priority"] or None, billing=row["billing"], currency=currency)
    if entitled.models is None or entitled.endpoints is None:
        if active and state_of(row, now_s) == "active":
            return NOTHING_LEFT
        active = False
    principal = Principal(
        key_id=row["id"],
        name=row["name"] or row["id"],
        user_id=row["user_id"],
        team_id=row["team_id"],
        organization_id=row["organization_id"],
        plan=entitled.plan,
        priority=entitled.priority,
        tags=tags_of(row, present),
        models=entitled.models or (),
        endpoints=entitled.endpoints or (),
        limits=entitled.limits,
        budgets=entitled.budgets,
        lineage=row["lineage"] if row["lineage"] != row["id"] else "",
    )
    allowed, denied = texts(row["allowed_ips"]), texts(row["denied_ips"])
    return KeyRecord(
        digest=row["digest"],
        principal=principal,
        active=active,
        revoked=row["revoked_at_s"] > 0,
        starts_at_s=row["starts_at_s"],
        expires_at_s=row["expires_at_s"],
        allowed=parse_networks(allowed),
        denied=parse_networks(denied),
        data=_data(row, principal, allowed, denied),
    )


def _data(
    row: Mapping[str, Any], principal: Principal, allowed: tuple[str, ...], denied: tuple[str, ...]
) -> dict[str, Any]:
    """What a decision script sees: LLMProxy's names first, then ours."""
    return {
        "name": principal.name,
        "user_id": principal.user_id,
        "status": row["status"],
        "allowed_ips": list(allowed),
        "denied_ips": list(denied),
        "created_at": row["created_at_s"],
        "starts_at": row["starts_at_s"],
        "expires_at": row["expires_at_s"],
        "key_id": principal.key_id,
        "team_id": principal.team_id,
        "organization_id": principal.organization_id,
        "plan": principal.plan,
        "priority": principal.priority,
        "billing": row["billing"],
        "tags": list(principal.tags),
    }


# What the store says of a caller whose key it does not have: of the plan and the owners that a token names.

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


_FIND_NAMED = _statement()


def entitled(connection: Connection, principal: Principal, currency: str) -> Principal | Refusal:
    """What plan and owners allow a principal. The plan that is named stands at the level of a key: its limits and
    budgets count for `key:KEY_ID`. A priority other than `normal` is a bound, like that of a key."""
    names = (principal.plan, principal.user_id, principal.team_id, principal.organization_id)
    if not any(names):
        return principal
    asked = dict(zip(("plan", *PARENTS), names, strict=True))
    return _principal(connection.execute(_FIND_NAMED, asked).mappings().all(), principal, currency)


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
        organization_id=row["organization_id"] or "",
        plan=principal.plan or found.plan,
        priority=found.priority,
        tags=some_tags(principal.tags, tags_of(row, present)),
        models=found.models,
        endpoints=found.endpoints,
        limits=(*principal.limits, *found.limits),
        budgets=(*principal.budgets, *found.budgets),
    )
