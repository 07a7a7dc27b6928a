"""The store as a source of keys: a digest becomes a record with everything that its key entitles to."""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace
from sqlalchemy import Connection, and_, or_, select

from zuebee.accounts import directory
from zuebee.accounts.entitlements import Level, PlanTerms, merge
from zuebee.accounts.forms import BudgetForm, Scope
from zuebee.accounts.keys import state_of
from zuebee.config import LimitSettings
from zuebee.contracts.admission import Budget, Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.keys import KeyRecord, Presented
from zuebee.kit import clock
from zuebee.kit.database import Database
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

MAX_BUDGETS = 50_000

_SCOPES: tuple[Scope, ...] = ("key", "user", "team", "organisation")
_PARENTS = _SCOPES[1:]
_PARENT_COLUMNS = ("id", "status", "plan", "plan_ends_at_s", "models", "endpoints", "limits", "tags")
_PLAN_COLUMNS = ("id", "status", "priority", "models", "endpoints", "limits", "budgets")


def _statement() -> Any:
    """One key with its owners, their plans and all their budgets: a row for each budget, at least one."""
    keys, budgets = tables.keys, tables.budgets
    columns: list[Any] = list(keys.c)
    holders: dict[str, Any] = {"key": keys}
    origin: Any = keys
    for scope in _PARENTS:
        parent = holders[scope] = directory.TABLES[scope].alias(f"a_{scope}")
        origin = origin.outerjoin(parent, parent.c.id == keys.c[f"{scope}_id"])
        columns += [parent.c[name].label(f"{scope}_{name}_") for name in _PARENT_COLUMNS]
    for scope in _SCOPES:
        plan = tables.plans.alias(f"plan_of_{scope}")
        origin = origin.outerjoin(plan, plan.c.id == holders[scope].c.plan)
        columns += [plan.c[name].label(f"{scope}_plan_{name}_") for name in _PLAN_COLUMNS]
    names = {scope: keys.c["lineage" if scope == "key" else f"{scope}_id"] for scope in _SCOPES}
    mine = or_(*(and_(budgets.c.scope == scope, budgets.c.scope_id == name) for scope, name in names.items()))
    origin = origin.outerjoin(budgets, mine)
    columns += [budgets.c[name].label(f"budget_{name}_") for name in ("scope", "unit", "period", "amount")]
    return select(*columns).select_from(origin).order_by(budgets.c.account)


_FIND = _statement()


class StoreSource:
    """The keys made with `zuebee keys`. One round trip for each question; asked again each time, nothing is cached."""

    name = "store"

    def __init__(self, database: Database, *, currency: str) -> None:
        self._database = database
        self._currency = currency
        self._budgets: dict[tuple[Budget, ...], tuple[Budget, ...]] = {}

    async def find(self, presented: Presented) -> KeyRecord | Refusal | None:
        """See `KeySource.find`. A key whose plan, or an owner's plan, has ended is refused `subscription_lapsed`."""
        found = await self._database.run(lambda connection: find(connection, presented.digest, self._currency))
        if isinstance(found, KeyRecord) and found.principal.budgets:
            budgets = self._same(found.principal.budgets)
            return replace(found, principal=replace(found.principal, budgets=budgets))
        return found

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
    present = [scope for scope in _SCOPES if scope == "key" or row[f"{scope}_id"]]
    active = row["status"] == "active" and all(_parent(row, scope, "status") == "active" for scope in present[1:])
    if active and state_of(row, now_s) == "active" and any(_lapsed(row, scope, now_s) for scope in present):
        return SUBSCRIPTION_LAPSED
    levels = [_level(rows, scope) for scope in present]
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
        organisation_id=row["organisation_id"],
        plan=entitled.plan,
        priority=entitled.priority,
        tags=_tags(row, present),
        models=entitled.models or (),
        endpoints=entitled.endpoints or (),
        limits=entitled.limits,
        budgets=entitled.budgets,
    )
    allowed, denied = _texts(row["allowed_ips"]), _texts(row["denied_ips"])
    return KeyRecord(
        digest=row["digest"],
        principal=principal,
        active=active,
        revoked=row["revoked_at_s"] > 0,
        starts_at_s=row["starts_at_s"],
        expires_at_s=row["expires_at_s"],
        allowed=tuple(ipaddress.ip_network(text, strict=False) for text in allowed),
        denied=tuple(ipaddress.ip_network(text, strict=False) for text in denied),
        data=_data(row, principal, allowed, denied),
    )


def _parent(row: Mapping[str, Any], scope: Scope, column: str) -> Any:
    return row[column] if scope == "key" else row[f"{scope}_{column}_"]


def _lapsed(row: Mapping[str, Any], scope: Scope, now_s: float) -> bool:
    """Whether the holder's plan has ended: its time is over, or it is not offered any more."""
    if not _parent(row, scope, "plan"):
        return False
    ends_at_s = _parent(row, scope, "plan_ends_at_s")
    return bool(row[f"{scope}_plan_status_"] != "active" or (ends_at_s and now_s >= ends_at_s))


def _level(rows: Sequence[Any], scope: Scope) -> Level:
    row = rows[0]
    if scope != "key" and row[f"{scope}_id_"] is None:
        return Level(scope, row[f"{scope}_id"])  # an owner that is gone: the key is not active anyway
    return Level(
        scope=scope,
        id=row["lineage"] if scope == "key" else row[f"{scope}_id"],
        models=_texts(_parent(row, scope, "models")),
        endpoints=_texts(_parent(row, scope, "endpoints")),
        limits=_limits(_parent(row, scope, "limits")),
        budgets=tuple(
            BudgetForm(unit=each["budget_unit_"], period=each["budget_period_"], amount=each["budget_amount_"])
            for each in rows
            if each["budget_scope_"] == scope
        ),
        plan=_plan(row, scope),
    )


def _plan(row: Mapping[str, Any], scope: Scope) -> PlanTerms | None:
    at = f"{scope}_plan_"
    if row[f"{at}id_"] is None:
        return None
    return PlanTerms(
        id=row[f"{at}id_"],
        priority=row[f"{at}priority_"],
        models=_texts(row[f"{at}models_"]),
        endpoints=_texts(row[f"{at}endpoints_"]),
        limits=_limits(row[f"{at}limits_"]),
        budgets=msgspec.json.decode(row[f"{at}budgets_"], type=tuple[BudgetForm, ...]),
    )


def _texts(text: str) -> tuple[str, ...]:
    return msgspec.json.decode(text, type=tuple[str, ...])


def _limits(text: str) -> LimitSettings:
    return msgspec.json.decode(text, type=LimitSettings)


def _tags(row: Mapping[str, Any], present: Sequence[Scope]) -> tuple[str, ...]:
    """The key's and its owners', each once."""
    return tuple(dict.fromkeys(tag for scope in present for tag in _texts(_parent(row, scope, "tags") or "[]")))


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
        "organisation_id": principal.organisation_id,
        "plan": principal.plan,
        "priority": principal.priority,
        "billing": row["billing"],
        "tags": list(principal.tags),
    }
