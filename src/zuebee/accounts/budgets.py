"""Budgets of organisations, teams, users and keys, and what the ledger says of their accounts."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, and_, delete, insert, or_, select, update

from zuebee.accounts import directory, forms
from zuebee.accounts.entitlements import account_of
from zuebee.accounts.errors import AccountsError
from zuebee.accounts.forms import BudgetForm, Scope
from zuebee.accounts.rows import begin_write
from zuebee.contracts.periods import period_start_s
from zuebee.kit import clock
from zuebee.schema.tables import budgets, keys, ledger_balances


def set_budget(
    connection: Connection, scope: Scope, name: str, fields: Mapping[str, Any], currency: str
) -> dict[str, Any]:
    """Give a holder a budget, or change its amount; the view of the budget.

    What was spent in the running period stays spent. A key that had no budget is billed by it from now on.
    """
    form = forms.read(BudgetForm, fields)
    begin_write(connection)
    holder = _holder(connection, scope, name)
    put_budget(connection, scope, holder, form, currency)
    if scope == "key":
        _bill_by_budgets(connection, holder)
    return next(view for view in views(connection, scope, name) if view["account"] == _account(scope, holder, form))


def put_budget(connection: Connection, scope: Scope, holder: str, form: BudgetForm, currency: str) -> None:
    """Write one budget. `holder` is an id, of a key its lineage."""
    forms.check_budget(form, currency)
    account = _account(scope, holder, form)
    known = connection.execute(select(budgets.c.amount).where(budgets.c.account == account)).first()
    if known is None:
        values = {"scope": scope, "scope_id": holder, "unit": form.unit, "period": form.period, "amount": form.amount}
        connection.execute(insert(budgets).values(account=account, created_at_s=clock.wall_s(), **values))
        return
    if (known[0] is None) != (form.amount is None):
        # What was paid in and what is granted by a limit cannot be told apart in one account.
        raise AccountsError(
            "this account is prepaid, or was not, and stays so; use another period or unit", field="amount",
            kind="conflict",
        )  # fmt: skip
    connection.execute(update(budgets).where(budgets.c.account == account).values(amount=form.amount))


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
    """The budgets of one holder with the figures of the running period: granted, used, held, available."""
    holder, now_s = _holder(connection, scope, name), clock.wall_s()
    rows = connection.execute(
        select(budgets)
        .where(budgets.c.scope == scope, budgets.c.scope_id == holder)
        .order_by(budgets.c.unit, budgets.c.period)
    ).mappings()
    found = [dict(row) for row in rows]
    starts = {row["account"]: period_start_s(row["period"], now_s) for row in found}
    running = or_(
        *(and_(ledger_balances.c.account == name, ledger_balances.c.starts_at_s == at) for name, at in starts.items())
    )
    by_account: dict[str, dict[str, Any]] = {}
    if starts:
        balances = connection.execute(select(ledger_balances).where(running)).mappings()
        by_account = {row["account"]: dict(row) for row in balances}
    return [_view(row, starts[row["account"]], by_account.get(row["account"])) for row in found]


def _view(row: Mapping[str, Any], starts_at_s: float, balance: Mapping[str, Any] | None) -> dict[str, Any]:
    figures = {name: balance[name] if balance else 0 for name in ("granted", "used", "held")}
    if row["amount"] is not None:
        # The ledger grants the limit, and a change of it, when the next request comes.
        figures["granted"] += row["amount"] - (balance["limited"] if balance else 0)
    available = figures["granted"] - figures["used"] - figures["held"]
    period = {"starts_at_s": starts_at_s, **figures, "available": available}
    return {name: row[name] for name in ("account", "unit", "period", "amount")} | {"running": period}


def _holder(connection: Connection, scope: Scope, name: str) -> str:
    row = directory.must(connection, scope, name)
    lineage: str = row["lineage"] if scope == "key" else row["id"]
    return lineage


def _account(scope: Scope, holder: str, form: BudgetForm) -> str:
    return account_of(scope, holder, form.unit, form.period)
