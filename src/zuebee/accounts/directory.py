"""Organisations, teams, users and plans in the store."""

from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy import Connection, Table, update

from zuebee.accounts import forms
from zuebee.accounts.amounts import TOKENS
from zuebee.accounts.errors import AccountsError, unknown
from zuebee.accounts.forms import read
from zuebee.accounts.rows import add_row, begin_write, page, row_of, to_row, to_view
from zuebee.kit import clock
from zuebee.schema import tables
from zuebee.schema.currency import hold_to

Kind = Literal["organisation", "team", "user", "plan"]
Status = Literal["active", "disabled"]

TABLES: dict[str, Table] = {
    "organisation": tables.organisations,
    "team": tables.teams,
    "user": tables.users,
    "plan": tables.plans,
    "key": tables.keys,
}
_NEW: dict[Kind, type[forms.Form]] = {
    "organisation": forms.NewOrganisation,
    "team": forms.NewTeam,
    "user": forms.NewUser,
    "plan": forms.NewPlan,
}
_CHANGE: dict[Kind, type[forms.Form]] = {
    "organisation": forms.OrganisationChange,
    "team": forms.TeamChange,
    "user": forms.UserChange,
    "plan": forms.PlanChange,
}


def create(connection: Connection, kind: Kind, fields: Mapping[str, Any], currency: str) -> dict[str, Any]:
    """Make one; its view."""
    given = read(_NEW[kind], fields).given()
    begin_write(connection)
    if row_of(connection, TABLES[kind], given["id"]) is not None:
        raise AccountsError(f"{kind} `{given['id']}` is there already", field="id", kind="conflict")
    check_references(connection, given, given.get("organisation_id", ""))
    _check_plan_budgets(connection, given, currency)
    given.setdefault("name", given["id"])
    add_row(connection, TABLES[kind], {**given, "created_at_s": clock.wall_s()})
    return show(connection, kind, given["id"])


def change(connection: Connection, kind: Kind, name: str, fields: Mapping[str, Any], currency: str) -> dict[str, Any]:
    """Change what `fields` name; the view after it."""
    given = read(_CHANGE[kind], fields).given()
    begin_write(connection)
    known = must(connection, kind, name)
    check_references(connection, given, known.get("organisation_id", ""))
    _check_plan_budgets(connection, given, currency)
    if given:
        connection.execute(update(TABLES[kind]).where(TABLES[kind].c.id == name).values(**to_row(given)))
    if kind == "user" and "team_id" in given:
        # A user's keys move along: their requests count for the new team.
        keys = tables.keys
        connection.execute(update(keys).where(keys.c.user_id == name).values(team_id=given["team_id"]))
    return show(connection, kind, name)


def set_status(connection: Connection, kind: str, name: str, status: Status) -> dict[str, Any]:
    """Enable or disable one. Disabling an organisation, a team or a user disables all keys below."""
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
    organisation_id: str = "",
    team_id: str = "",
    limit: int = 100,
    after: str = "",
) -> tuple[list[dict[str, Any]], str]:
    """A page of them, and where the next one begins; see `rows.page`."""
    columns = TABLES[kind].c
    wanted = {"organisation_id": organisation_id, "team_id": team_id}
    conditions = [columns[name] == value for name, value in wanted.items() if value and name in columns]
    rows, following = page(connection, TABLES[kind], conditions, limit=limit, after=after)
    return [to_view(row) for row in rows], following


def must(connection: Connection, kind: str, name: str, *, field: str = "") -> dict[str, Any]:
    """The row of one. Raises AccountsError when there is none."""
    row = row_of(connection, TABLES[kind], name)
    if row is None:
        raise unknown(kind, name, field=field)
    return row


def check_references(connection: Connection, given: Mapping[str, Any], organisation_id: str) -> None:
    """What is referred to exists, and is of the same organisation. Raises AccountsError."""
    if given.get("organisation_id"):
        must(connection, "organisation", given["organisation_id"], field="organisation_id")
    if given.get("plan"):
        must(connection, "plan", given["plan"], field="plan")
    if given.get("team_id"):
        team = must(connection, "team", given["team_id"], field="team_id")
        if team["organisation_id"] != organisation_id:
            raise AccountsError(f"team `{team['id']}` is of another organisation", field="team_id")


def _check_plan_budgets(connection: Connection, given: Mapping[str, Any], currency: str) -> None:
    for budget in given.get("budgets", ()):
        forms.check_budget(budget, currency)
        if budget.unit != TOKENS:
            hold_to(connection, currency)
