"""The store as a source of keys: a digest becomes a record with everything that its key entitles to."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from zuebee.accounts.entitlements import merge
from zuebee.accounts.keys import state_of
from zuebee.accounts.levels import (
    NOTHING_LEFT,
    SCOPES,
    SUBSCRIPTION_LAPSED,
    column_of,
    lapsed,
    level_of,
    statement,
    tags_of,
    texts,
)
from zuebee.accounts.named import entitled
from zuebee.contracts.admission import Budget, Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.keys import KeyRecord, Presented
from zuebee.kit import clock
from zuebee.kit.database import Database
from zuebee.kit.networks import parse_networks
from zuebee.schema import tables

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

    async def find(self, presented: Presented) -> KeyRecord | Refusal | None:
        """See `KeySource.find`. A key whose plan, or an owner's plan, has ended is refused `subscription_lapsed`."""
        found = await self._database.run(lambda connection: find(connection, presented.digest, self._currency))
        if isinstance(found, KeyRecord) and found.principal.budgets:
            budgets = self._same(found.principal.budgets)
            return msgspec.structs.replace(found, principal=replace(found.principal, budgets=budgets))
        return found

    async def entitle(self, principal: Principal) -> Principal | Refusal:
        """The principal with what the store says of the plan, the user, the team and the organisation that it names.

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
        organisation_id=row["organisation_id"],
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
        "organisation_id": principal.organisation_id,
        "plan": principal.plan,
        "priority": principal.priority,
        "billing": row["billing"],
        "tags": list(principal.tags),
    }
