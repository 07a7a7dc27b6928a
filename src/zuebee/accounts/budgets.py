"""Budgets of organizations, teams, users and keys, and what the ledger says of their accounts."""

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, delete, insert, or_, select, update

from zuebee.accounts import directory, schemas
from zuebee.accounts.directory import begin_write
from zuebee.accounts.entitlements import Level, PlanTerms, account_of, budgets_of
from zuebee.accounts.schemas import TOKENS, AccountsError, BudgetForm, Scope
from zuebee.contracts.admission import Budget
from zuebee.contracts.limits import period_start_s
from zuebee.contracts.purses import unused_by_limit
from zuebee.lib import clock
from zuebee.schema.currency import hold_to
from zuebee.schema.tables import budgets, keys, ledger_balances, plans


def set_budget(
    connection: Connection, scope: Scope, name: str, fields: Mapping[str, Any], currency: str
) -> dict[str, Any]:
    """Give a holder a budget, or change its amount; the view of the budget.

    What was spent in the running period stays spent. A key that had no budget is billed by it from now on.
    """
    form = schemas.read(BudgetForm, fields)
    begin_write(connection)
    holder = _holder(connection, scope, name)
    put_budget(connection, scope, holder, form, currency)
    if scope == "key":
        _bill_by_budgets(connection, holder)
    return next(view for view in views(connection, scope, name) if view["account"] == _account(scope, holder, form))


def put_budget(connection: Connection, scope: Scope, holder: str, form: BudgetForm, currency: str) -> None:
    """Write one budget. `holder` is an id, of a key its lineage."""
    schemas.check_budget(form, currency)
    if form.unit != TOKENS:
        hold_to(connection, currency)
    account = _account(scope, holder, form)
    known = connection.execute(select(budgets.c.amount).where(budgets.c.account == account)).first()
    if known is None:
        _check_unpaid(connection, account, form)
        values = {"scope": scope, "scope_id": holder, "unit": form.unit, "period": form.period, "amount": form.amount}
        connection.execute(insert(budgets).values(account=account, created_at_s=clock.wall_s(), **values))
        return
    if (known[0] is None) != (form.amount is None):
        was, is_now = ("has a limit", "prepaid") if form.amount is None else ("is prepaid", "limited")
        raise AccountsError(f"this account {was}: remove that budget before it is {is_now}", field="amount",
                            kind="conflict")  # fmt: skip
    connection.execute(update(budgets).where(budgets.c.account == account).values(amount=form.amount))


def _check_unpaid(connection: Connection, account: str, form: BudgetForm) -> None:
    """What was paid in is no limit's to grant or to bound. Raises AccountsError."""
    if form.amount is None or form.period != "never":
        return
    columns = ledger_balances.c
    paid = columns.granted > columns.limited
    if connection.execute(select(columns.id).where(columns.account == account, paid)).first() is not None:
        raise AccountsError(
            "this account was paid into, and stays prepaid; use another period or unit", field="period", kind="conflict"
        )


def remove_budget(connection: Connection, scope: Scope, name: str, unit: str, period: str) -> None:
    """Take a budget away: from now on it bounds nothing. Its account keeps its history."""
    begin_write(connection)
    holder = _holder(connection, scope, name)
    account = f"{scope}:{holder}/{unit}/{period}"
    if connection.execute(delete(budgets).where(budgets.c.account == account)).rowcount == 0:
        raise AccountsError(f"there is no budget `{account}`", field="period", kind="not_found")
    if scope == "key":
        _bill_by_budgets(connection, holder)


def _bill_by_budgets(connection: Connection, lineage: str) -> None:
    amounts = connection.execute(
        select(budgets.c.amount).where(budgets.c.scope == "key", budgets.c.scope_id == lineage)
    ).scalars()
    found = list(amounts)
    mode = "none" if not found else "prepaid" if None in found else "quota"
    connection.execute(update(keys).where(keys.c.lineage == lineage).values(billing=mode))


def views(connection: Connection, scope: Scope, name: str) -> list[dict[str, Any]]:
    """The budgets of one holder, its own and its plan's, with the figures of the running period: granted, used, held,
    available.
    """
    row, now_s = directory.must(connection, scope, name), clock.wall_s()
    holder = row["lineage"] if scope == "key" else row["id"]
    own = connection.execute(
        select(budgets.c.unit, budgets.c.period, budgets.c.amount)
        .where(budgets.c.scope == scope, budgets.c.scope_id == holder)
        .order_by(budgets.c.unit, budgets.c.period)
    )
    given = tuple(BudgetForm(unit=unit, period=period, amount=amount) for unit, period, amount in own)
    found = budgets_of(Level(scope, holder, budgets=given, plan=_plan_terms(connection, row["plan"])))
    starts = {budget.account: period_start_s(budget.period, now_s) for budget in found}
    by_account: dict[str, dict[str, Any]] = {}
    if starts:
        columns = ledger_balances.c
        running = or_(*(and_(columns.account == name, columns.starts_at_s == at) for name, at in starts.items()))
        balances = connection.execute(select(ledger_balances).where(running)).mappings()
        by_account = {row["account"]: dict(row) for row in balances}
    return [_view(budget, starts[budget.account], by_account.get(budget.account)) for budget in found]


def _plan_terms(connection: Connection, plan: str) -> PlanTerms | None:
    text = connection.execute(select(plans.c.budgets).where(plans.c.id == plan)).scalar()
    return None if text is None else PlanTerms(plan, budgets=msgspec.json.decode(text, type=tuple[BudgetForm, ...]))


def _view(budget: Budget, starts_at_s: int, balance: Mapping[str, Any] | None) -> dict[str, Any]:
    figures = {name: balance[name] if balance else 0 for name in ("granted", "used", "held")}
    # The ledger grants a limit, and a change of it, and takes one back that went, when the next request comes.
    if budget.limit is not None:
        figures["granted"] += budget.limit - (balance["limited"] if balance else 0)
    elif balance and balance["changes"]:
        figures["granted"] -= unused_by_limit(
            figures["granted"], figures["used"], figures["held"], balance["limited"], balance["apart"]
        )
    available = figures["granted"] - figures["used"] - figures["held"]
    period = {"starts_at_s": starts_at_s, **figures, "available": available}
    return {
        "account": budget.account,
        "unit": budget.unit,
        "period": budget.period,
        "amount": budget.limit,
        "running": period,
    }


def _holder(connection: Connection, scope: Scope, name: str) -> str:
    row = directory.must(connection, scope, name)
    lineage: str = row["lineage"] if scope == "key" else row["id"]
    return lineage


def _account(scope: Scope, holder: str, form: BudgetForm) -> str:
    return account_of(scope, holder, form.unit, form.period)
