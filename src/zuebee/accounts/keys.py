"""Keys in the store: made, shown once, replaced, revoked. At rest there is only their SHA-256."""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, insert, select, update

from zuebee.accounts import directory, schemas
from zuebee.accounts.budgets import put_budget
from zuebee.accounts.directory import add_row, begin_write, page, to_row, to_view
from zuebee.accounts.schemas import TOKENS, AccountsError, read
from zuebee.lib import clock
from zuebee.lib.nearest import did_you_mean
from zuebee.lib.patterns import narrow
from zuebee.schema.sums import Sums
from zuebee.schema.tables import keys, plans, usage_days

PREFIX = "sk-zuebee-"
RANDOM_BYTES = 32
DAY_S = 86400
USAGE_DAYS = 30
_OWNERS = ("organization_id", "team_id", "user_id")


class MadeKey(msgspec.Struct, frozen=True):
    """A key that was just made. `secret` is the key itself: it is nowhere else, and cannot be asked for again."""

    secret: str
    view: dict[str, Any]

    def __repr__(self) -> str:
        """Without the secret."""
        return f"MadeKey({self.view.get('id')})"


def mint() -> tuple[str, str, str]:
    """A new key of 256 random bits, its digest (SHA-256 in hex), and its hint: first 10 and last 4 characters."""
    secret = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    return secret, hashlib.sha256(secret.encode()).hexdigest(), f"{secret[:10]}...{secret[-4:]}"


def create(connection: Connection, fields: Mapping[str, Any], currency: str) -> MadeKey:
    """Make a key with the fields of `NewKey`."""
    form = read(schemas.NewKey, fields)
    given = form.given()
    budgets = given.pop("budgets")
    begin_write(connection)
    given.update(_owners(connection, given))
    directory.check_references(connection, given, given["organization_id"])
    _check_within_parents(connection, given)
    given["billing"] = _mode(given.get("billing"), form.budgets)
    secret, digest, hint = mint()
    key_id = "key_" + secrets.token_hex(8)
    made = {"id": key_id, "lineage": key_id, "digest": digest, "hint": hint, "created_at_s": clock.wall_s()}
    add_row(connection, keys, {**given, **made})
    if given["billing"] == "prepaid" and all(budget.amount is not None for budget in budgets):
        budgets = [*budgets, schemas.BudgetForm(unit=currency, period="never", amount=None)]
    for budget in budgets:
        put_budget(connection, "key", key_id, budget, currency)
    return MadeKey(secret, show(connection, key_id))


def _mode(given: schemas.BillingMode | None, budgets: Sequence[schemas.BudgetForm]) -> schemas.BillingMode:
    """How a key is billed: as said, or as its budgets make plain."""
    if given == "none" and budgets:
        raise AccountsError("a key with budgets is billed by quota or prepaid", field="billing")
    if given == "quota" and not any(budget.amount is not None for budget in budgets):
        raise AccountsError("needs a budget with an amount", field="billing")
    if given is not None:
        return given
    if not budgets:
        return "none"
    return "prepaid" if any(budget.amount is None for budget in budgets) else "quota"


def _owners(connection: Connection, given: Mapping[str, Any]) -> dict[str, str]:
    """The organization, team and user of a new key: those above follow from the lowest that is named."""
    said = {name: given.get(name, "") for name in _OWNERS}
    found = dict(said)
    for kind in ("user", "team"):
        name = found[f"{kind}_id"]
        if not name:
            continue
        row = directory.must(connection, kind, name, field=f"{kind}_id")
        found["organization_id"] = row["organization_id"]
        if kind == "user":
            found["team_id"] = row["team_id"]
    for name in ("organization_id", "team_id"):
        if said[name] and said[name] != found[name]:
            raise AccountsError(f"does not fit: it follows that it is `{found[name]}`", field=name)
    return found


def _check_within_parents(connection: Connection, given: Mapping[str, Any]) -> None:
    """What is asked for must not be wholly outside of what the parents have: it would never work."""
    parents = [
        directory.must(connection, kind, given[f"{kind}_id"])
        for kind in ("user", "team", "organization")
        if given[f"{kind}_id"]
    ]
    named = {row["plan"] for row in (*parents, given) if row.get("plan")}
    above_all: list[Any] = [*parents, *connection.execute(select(plans).where(plans.c.id.in_(named))).mappings()]
    for field in ("models", "endpoints"):
        above = narrow([tuple(msgspec.json.decode(row[field])) for row in above_all])
        for pattern in given.get(field, ()):
            if above is None or narrow([above, (pattern,)]) is None:
                raise AccountsError(f"`{pattern}` is not allowed to whom the key belongs", field=field)


def change(connection: Connection, key_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Change what `fields` (of `KeyChange`) name; the view after it."""
    given = read(schemas.KeyChange, fields).given()
    begin_write(connection)
    row = directory.must(connection, "key", key_id)
    directory.check_references(connection, given, row["organization_id"])
    schemas.check_life(given.get("starts_at_s", row["starts_at_s"]), given.get("expires_at_s", row["expires_at_s"]))
    _check_within_parents(connection, {**{name: row[name] for name in (*_OWNERS, "plan")}, **given})
    if given:
        connection.execute(update(keys).where(keys.c.id == key_id).values(**to_row(given)))
    return show(connection, key_id)


def rotate(connection: Connection, key_id: str, overlap_s: float) -> MadeKey:
    """A new key in place of this one, with the same rights, budgets and limits: they count for both together.

    The old one works for `overlap_s` more seconds, but not beyond its own expiry; 0: it is revoked at once.
    """
    begin_write(connection)
    old, now_s = directory.must(connection, "key", key_id), clock.wall_s()
    if old["revoked_at_s"]:
        raise AccountsError(f"`{key_id}` was revoked", field="key", kind="conflict")
    if old["status"] != "active":
        raise AccountsError(f"`{key_id}` is disabled", field="key", kind="conflict")
    successor = connection.execute(
        select(keys.c.id).where(keys.c.rotated_from == key_id, keys.c.revoked_at_s == 0)
    ).scalar()
    if successor is not None:
        raise AccountsError(f"`{successor}` has replaced it already: rotate that", field="key", kind="conflict")
    secret, digest, hint = mint()
    new_id = "key_" + secrets.token_hex(8)
    fresh = {"id": new_id, "digest": digest, "hint": hint, "rotated_from": key_id, "created_at_s": now_s}
    connection.execute(insert(keys).values(**{**old, **fresh}))
    if overlap_s > 0:
        ends_s = min(filter(None, (old["expires_at_s"], now_s + overlap_s)))
        connection.execute(update(keys).where(keys.c.id == key_id).values(expires_at_s=ends_s))
    else:
        connection.execute(update(keys).where(keys.c.id == key_id).values(revoked_at_s=now_s))
    return MadeKey(secret, show(connection, new_id))


def revoke(connection: Connection, key_id: str) -> dict[str, Any]:
    """End a key for ever. A second time changes nothing."""
    begin_write(connection)
    directory.must(connection, "key", key_id)
    live = (keys.c.id == key_id) & (keys.c.revoked_at_s == 0)
    connection.execute(update(keys).where(live).values(revoked_at_s=clock.wall_s()))
    return show(connection, key_id)


def show(connection: Connection, key_id: str) -> dict[str, Any]:
    """The view of one key."""
    return _view(connection, [directory.must(connection, "key", key_id)])[0]


def listing(
    connection: Connection, wanted: Mapping[str, str], *, limit: int = 100, after: str = ""
) -> tuple[list[dict[str, Any]], str]:
    """A page of keys with their usage of the last 30 days, and where the next page begins.

    `wanted`: values of `organization_id`, `team_id`, `user_id`, `plan`; and `state`, as a view has it.
    """
    conditions = [keys.c[name] == wanted[name] for name in (*_OWNERS, "plan") if wanted.get(name)]
    if state := wanted.get("state"):
        conditions.append(_is_in(state, clock.wall_s()))
    rows, following = page(connection, keys, conditions, limit=limit, after=after)
    return _view(connection, rows), following


def _view(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    now_s = clock.wall_s()
    first_day = int(now_s // DAY_S) - USAGE_DAYS + 1
    days = usage_days.c
    sums = Sums(connection, [days.requests, days.prompt_tokens, days.completion_tokens, days.cost_nano])
    used = connection.execute(
        select(usage_days.c.key_id, *sums.columns)
        .where(usage_days.c.key_id.in_([row["id"] for row in rows]), usage_days.c.day >= first_day)
        .group_by(usage_days.c.key_id)
    )
    usage = {key_id: sums.read(figures) for key_id, *figures in used}
    views = []
    for row in rows:
        requests, prompt, completion, cost_nano = usage.get(row["id"], [0, 0, 0, 0])
        last = {"requests": requests, TOKENS: prompt + completion, "cost_nano": cost_nano}
        views.append({**to_view(row), "state": state_of(row, now_s), "last_30_days": last})
    return views


def _is_in(state: str, now_s: float) -> ColumnElement[bool]:
    """What `state_of` says, as a condition. Raises AccountsError for what is no state."""
    on = (keys.c.revoked_at_s == 0) & (keys.c.status == "active")
    ended = (keys.c.expires_at_s > 0) & (keys.c.expires_at_s <= now_s)
    begun = keys.c.starts_at_s <= now_s
    match state:
        case "revoked":
            return keys.c.revoked_at_s > 0
        case "disabled":
            return (keys.c.revoked_at_s == 0) & (keys.c.status != "active")
        case "expired":
            return on & ended
        case "not_started":
            return on & ~ended & ~begun
        case "active":
            return on & ~ended & begun
    hint = did_you_mean(state, ("active", "not_started", "disabled", "expired", "revoked"))
    raise AccountsError(f"expected active, not_started, disabled, expired or revoked{hint}", field="state")


def state_of(row: Mapping[str, Any], now_s: float) -> str:
    """`revoked`, `disabled`, `expired`, `not_started` or `active`: of the key alone, whatever its owners are."""
    if row["revoked_at_s"]:
        return "revoked"
    if row["status"] != "active":
        return "disabled"
    if row["expires_at_s"] and now_s >= row["expires_at_s"]:
        return "expired"
    return "not_started" if now_s < row["starts_at_s"] else "active"
