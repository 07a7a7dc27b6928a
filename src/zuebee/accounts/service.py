"""Organizations, teams, users, keys, plans and budgets: every order to them, each in one transaction.

Whoever lets others give orders asks `roles.demand` first.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, Connection, cast, func, select

from zuebee.accounts import budgets, directory, keys, service
from zuebee.accounts.directory import Kind, Status
from zuebee.accounts.keys import MadeKey
from zuebee.accounts.principals import find_by_id
from zuebee.accounts.schemas import AccountsError, Scope
from zuebee.contracts.errors import Refusal
from zuebee.contracts.keys import KeyRecord
from zuebee.lib.sql.database import Database
from zuebee.schema.sums import Sums
from zuebee.schema.tables import usage_records

Page = tuple[list[dict[str, Any]], str]
"""Views, and what `after` of the next page is; empty on the last one."""


class AccountsService:
    """What the command line, and later the admin API, do to accounts. `currency` is that of all money (ISO 4217).

    Fields are those of the forms in forms.py; any other is refused. All methods may raise AccountsError (nothing has
    changed then; it names the field) and DatabaseError. They block: call them in a thread.
    """

    def __init__(self, database: Database, *, currency: str) -> None:
        self._database = database
        self._currency = currency

    def create(self, kind: Kind, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Make an organization, a team, a user or a plan; its view."""
        return self._database.call(lambda c: directory.create(c, kind, fields, self._currency))

    def change(self, kind: Kind, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Change what `fields` name and leave the rest; the view after it."""
        return self._database.call(lambda c: directory.change(c, kind, name, fields, self._currency))

    def set_status(self, kind: Kind | Scope, name: str, status: Status) -> dict[str, Any]:
        """Enable or disable one of them, or a key. Whatever is below a disabled one is refused, within 5 s."""
        return self._database.call(lambda c: directory.set_status(c, kind, name, status))

    def show(self, kind: Kind, name: str) -> dict[str, Any]:
        """The view of one, with its budgets."""
        return self._database.call(lambda c: directory.show(c, kind, name))

    def listing(self, kind: Kind, *, organization_id: str = "", limit: int = 100, after: str = "") -> Page:
        """A page of them, oldest first."""
        return self._database.call(
            lambda c: directory.listing(c, kind, organization_id=organization_id, limit=limit, after=after)
        )

    def create_key(self, fields: Mapping[str, Any]) -> MadeKey:
        """Make a key: the only time that it can be seen."""
        return self._database.call(lambda c: keys.create(c, fields, self._currency))

    def change_key(self, key_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Change a key; the view after it."""
        return self._database.call(lambda c: keys.change(c, key_id, fields))

    def rotate_key(self, key_id: str, *, overlap_s: float) -> MadeKey:
        """Replace a key; the old one works for `overlap_s` more seconds."""
        return self._database.call(lambda c: keys.rotate(c, key_id, overlap_s))

    def revoke_key(self, key_id: str) -> dict[str, Any]:
        """End a key for ever: within 5 s everywhere, also for streams that are running."""
        return self._database.call(lambda c: keys.revoke(c, key_id))

    def show_key(self, key_id: str) -> dict[str, Any]:
        """The view of one key."""
        return self._database.call(lambda c: keys.show(c, key_id))

    def key_record(self, key_id: str) -> KeyRecord | Refusal | None:
        """What a request with this key would meet: its record, or why it would be refused."""
        return self._database.call(lambda c: find_by_id(c, key_id, self._currency))

    def list_keys(self, wanted: Mapping[str, str], *, limit: int = 100, after: str = "") -> Page:
        """A page of keys, oldest first; see `keys.listing`."""
        return self._database.call(lambda c: keys.listing(c, wanted, limit=limit, after=after))

    def set_budget(self, scope: Scope, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Give a holder a budget, or change its amount; the view of it."""
        return self._database.call(lambda c: budgets.set_budget(c, scope, name, fields, self._currency))

    def remove_budget(self, scope: Scope, name: str, *, unit: str, period: str) -> None:
        """Take a budget away."""
        self._database.call(lambda c: budgets.remove_budget(c, scope, name, unit, period))

    def budgets(self, scope: Scope, name: str) -> list[dict[str, Any]]:
        """The budgets of one holder, with the figures of the running period."""
        return self._database.call(lambda c: budgets.views(c, scope, name))

    def usage(self, by: str, wanted: Mapping[str, str], *, since_s: float, until_s: float) -> list[dict[str, Any]]:
        """What was used from `since_s` on and before `until_s`, summed up; see `service.usage`."""
        return self._database.call(
            lambda c: service.usage(c, by, wanted, since_s=since_s, until_s=until_s, currency=self._currency)
        )


# What was used: sums of the usage records by whom, what and when.

DAY_S = 86400
MAX_ROWS = 10_000
_BY = {
    "organization": ("organization_id",),
    "team": ("team_id",),
    "user": ("user_id",),
    "key": ("key_id",),
    "model": ("model",),
    "priority": ("priority",),
    "plan": ("plan",),
    "user_and_model": ("user_id", "model"),
    "day": (),
}
_SUMMED = ("prompt_tokens", "cached_tokens", "completion_tokens", "cost_nano")
FILTERS = ("organization_id", "team_id", "user_id", "key_id", "model", "plan", "priority")


def usage(
    connection: Connection,
    by: str,
    wanted: Mapping[str, str],
    *,
    since_s: float,
    until_s: float,
    currency: str,
) -> list[dict[str, Any]]:
    """Requests, prompt, cached and completion tokens, and cost in nano-units of `currency`, one row for each value
    of `by`.

    `wanted` are exact values of FILTERS. With `by` = `day`, `day` is the first second of the day (UTC). At most
    10,000 rows, the dearest first. Refused requests count as requests that used nothing.
    """
    records = usage_records.c
    if by not in _BY:
        raise AccountsError(f"expected one of {', '.join(_BY)}", field="by")
    if unknown := sorted(set(wanted) - set(FILTERS)):
        raise AccountsError("there is no such filter", field=unknown[0])
    groups: list[Any] = [records[name] for name in _BY[by]]
    if by == "day":
        day: Any = records.at_s / DAY_S
        # SQLite cuts off when it casts, PostgreSQL would round.
        whole = day if connection.dialect.name == "sqlite" else func.floor(day)
        groups = [(cast(whole, BigInteger) * DAY_S).label("day")]
    sums = Sums(connection, [records[name] for name in _SUMMED])
    conditions = [records[name] == value for name, value in wanted.items()]
    statement = (
        select(*groups, func.count().label("requests"), *sums.columns)
        .where(records.at_s >= since_s, records.at_s < until_s, *conditions)
        .group_by(*groups)
        .order_by(sums.order[-1].desc(), *groups)
        .limit(MAX_ROWS)
    )
    names, width = [*(_BY[by] or ("day",)), "requests"], len(groups) + 1
    rows = []
    for row in connection.execute(statement):
        kept = {name: value if name in FILTERS else int(value) for name, value in zip(names, row, strict=False)}
        rows.append({**kept, **dict(zip(_SUMMED, sums.read(row[width:]), strict=True)), "currency": currency})
    return rows
