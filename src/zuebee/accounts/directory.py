"""Organizations, teams, users and plans in the store."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, Table, func, insert, select, tuple_, update
from sqlalchemy.sql.elements import ColumnElement

from zuebee.accounts import schemas
from zuebee.accounts.schemas import TOKENS, AccountsError, read, unknown
from zuebee.config.settings_base import LimitSettings
from zuebee.lib import clock
from zuebee.schema import tables
from zuebee.schema.currency import hold_to

# Rows of the store and what they mean: lists and settings stand in them as JSON.

JSON = ("models", "endpoints", "limits", "tags", "budgets", "allowed_ips", "denied_ips", "lines")
MAX_PAGE = 1000


def begin_write(connection: Connection) -> None:
    """The first step of a transaction that reads before it writes: nobody else writes in between (SQLite)."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def to_row(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a form as columns."""
    return {name: _json(value) if name in JSON else value for name, value in fields.items()}


def _json(value: Any) -> str:
    if isinstance(value, LimitSettings):
        value = set_limits(value)
    return msgspec.json.encode(value).decode()


def set_limits(limits: LimitSettings) -> dict[str, Any]:
    """Those that differ from their default: 0, no limit."""
    default = LimitSettings()
    return {
        name: value for name in limits.__struct_fields__ if (value := getattr(limits, name)) != getattr(default, name)
    }


def to_view(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as it is shown: JSON decoded, and never a key's digest."""
    return {
        str(name): msgspec.json.decode(value) if name in JSON else value
        for name, value in row.items()
        if name != "digest"
    }


def row_of(connection: Connection, table: Table, key: str) -> dict[str, Any] | None:
    """The row with this id."""
    found = connection.execute(select(table).where(table.c.id == key)).mappings().first()
    return None if found is None else dict(found)


def add_row(connection: Connection, table: Table, fields: Mapping[str, Any]) -> None:
    """Insert fields of a form."""
    connection.execute(insert(table).values(**to_row(fields)))


def page(
    connection: Connection, table: Table, conditions: Sequence[ColumnElement[bool]], *, limit: int, after: str
) -> tuple[list[dict[str, Any]], str]:
    """Rows in the order in which they were made, from behind the one with the id `after`; and the id that the next
    page begins behind, empty on the last page.
    """
    limit = max(1, min(limit, MAX_PAGE))
    statement = select(table).where(*conditions).order_by(table.c.created_at_s, table.c.id).limit(limit + 1)
    if after:
        mark = select(table.c.created_at_s).where(table.c.id == after).scalar_subquery()
        statement = statement.where(tuple_(table.c.created_at_s, table.c.id) > tuple_(func.coalesce(mark, 0), after))
    rows = [dict(row) for row in connection.execute(statement).mappings()]
    return rows[:limit], rows[limit - 1]["id"] if len(rows) > limit else ""


Kind = Literal["organization", "team", "user", "plan"]
Status = Literal["active", "disabled"]

TABLES: dict[str, Table] = {
    "organization": tables.organizations,
    "team": tables.teams,
    "user": tables.users,
    "plan": tables.plans,
    "key": tables.keys,
}
_NEW: dict[Kind, type[schemas.Form]] = {
    "organization": schemas.NewOrganization,
    "team": schemas.NewTeam,
    "user": schemas.NewUser,
    "plan": schemas.NewPlan,
}
_CHANGE: dict[Kind, type[schemas.Form]] = {
    "organization": schemas.OrganizationChange,
    "team": schemas.TeamChange,
    "user": schemas.UserChange,
    "plan": schemas.PlanChange,
}


def create(connection: Connection, kind: Kind, fields: Mapping[str, Any], currency: str) -> dict[str, Any]:
    """Make one; its view."""
    given = read(_NEW[kind], fields).given()
    begin_write(connection)
    if row_of(connection, TABLES[kind], given["id"]) is not None:
        raise AccountsError(f"{kind} `{given['id']}` is there already", field="id", kind="conflict")
    check_references(connection, given, given.get("organization_id", ""))
    _check_plan_budgets(connection, given, currency)
    given.setdefault("name", given["id"])
    add_row(connection, TABLES[kind], {**given, "created_at_s": clock.wall_s()})
    return show(connection, kind, given["id"])


def change(connection: Connection, kind: Kind, name: str, fields: Mapping[str, Any], currency: str) -> dict[str, Any]:
    """Change what `fields` name; the view after it."""
    given = read(_CHANGE[kind], fields).given()
    begin_write(connection)
    known = must(connection, kind, name)
    check_references(connection, given, known.get("organization_id", ""))
    _check_plan_budgets(connection, given, currency)
    if given:
        connection.execute(update(TABLES[kind]).where(TABLES[kind].c.id == name).values(**to_row(given)))
    if kind == "user" and "team_id" in given:
        # A user's keys move along: their requests count for the new team.
        keys = tables.keys
        connection.execute(update(keys).where(keys.c.user_id == name).values(team_id=given["team_id"]))
    return show(connection, kind, name)


def set_status(connection: Connection, kind: str, name: str, status: Status) -> dict[str, Any]:
    """Enable or disable one. Disabling an organization, a team or a user disables all keys below."""
    begin_write(connection)
    must(connection, kind, name)
    connection.execute(update(TABLES[kind]).where(TABLES[kind].c.id == name).values(status=status))
    return show(connection, kind, name)


def show(connection: Connection, kind: str, name: str) -> dict[str, Any]:
    """The view of one. Raises AccountsError when there is none."""
    return to_view(must(connection, kind, name))


def listing(
    connection: Connection,
    kind: Kind,
    *,
    organization_id: str = "",
    team_id: str = "",
    limit: int = 100,
    after: str = "",
) -> tuple[list[dict[str, Any]], str]:
    """A page of them, and where the next one begins; see `rows.page`."""
    columns = TABLES[kind].c
    wanted = {"organization_id": organization_id, "team_id": team_id}
    conditions = [columns[name] == value for name, value in wanted.items() if value and name in columns]
    rows, following = page(connection, TABLES[kind], conditions, limit=limit, after=after)
    return [to_view(row) for row in rows], following


def must(connection: Connection, kind: str, name: str, *, field: str = "") -> dict[str, Any]:
    """The row of one. Raises AccountsError when there is none."""
    row = row_of(connection, TABLES[kind], name)
    if row is None:
        raise unknown(kind, name, field=field)
    return row


def check_references(connection: Connection, given: Mapping[str, Any], organization_id: str) -> None:
    """What is referred to exists, and is of the same organization. Raises AccountsError."""
    if given.get("organization_id"):
        must(connection, "organization", given["organization_id"], field="organization_id")
    if given.get("plan"):
        must(connection, "plan", given["plan"], field="plan")
    if given.get("team_id"):
        team = must(connection, "team", given["team_id"], field="team_id")
        if team["organization_id"] != organization_id:
            raise AccountsError(f"team `{team['id']}` is of another organization", field="team_id")


def _check_plan_budgets(connection: Connection, given: Mapping[str, Any], currency: str) -> None:
    for budget in given.get("budgets", ()):
        schemas.check_budget(budget, currency)
        if budget.unit != TOKENS:
            hold_to(connection, currency)
