from typing import Any

import pytest
from sqlalchemy import insert

from tests.support.accounts import Store
from zuebee.accounts.schemas import AccountsError
from zuebee.contracts.limits import period_start_s
from zuebee.lib import clock
from zuebee.schema.tables import ledger_balances


def tokens(amount: int | None, period: str = "daily") -> dict[str, Any]:
    return {"unit": "tokens", "period": period, "amount": amount}


def test_a_budget_shows_its_running_period(store: Store) -> None:
    store.acme()
    view = store.accounts.set_budget("team", "research", tokens(100))
    start_s = period_start_s("daily", clock.wall_s())
    running = {"starts_at_s": start_s, "granted": 100, "used": 0, "held": 0, "available": 100}
    assert view == {
        "account": "team:research/tokens/daily", "unit": "tokens", "period": "daily", "amount": 100,
        "running": running,
    }  # fmt: skip
    columns = "(account, unit, period, starts_at_s, granted, limited, used, held)"
    for start in (start_s, start_s - 86400):
        values = f"('team:research/tokens/daily', 'tokens', 'daily', {start}, 110, 100, 30, 5)"
        store.rows(f"INSERT INTO ledger_balances {columns} VALUES {values} RETURNING id")
    view = store.accounts.set_budget("team", "research", tokens(200))
    assert view["running"] == {**running, "granted": 210, "used": 30, "held": 5, "available": 175}


def test_a_plans_budgets_are_among_them(store: Store) -> None:
    store.acme()
    store.accounts.create("plan", {"id": "p", "budgets": [tokens(50), tokens(9, "never")]})
    store.accounts.change("user", "ann", {"plan": "p"})
    store.accounts.set_budget("user", "ann", tokens(80))
    found = {view["account"]: view["amount"] for view in store.accounts.budgets("user", "ann")}
    assert found == {"user:ann/tokens/daily": 50, "user:ann/tokens/never": 9}


def test_a_keys_budget_is_its_lineages_and_sets_its_billing(store: Store) -> None:
    first = store.accounts.create_key({}).view["id"]
    second = store.accounts.rotate_key(first, overlap_s=60).view["id"]
    view = store.accounts.set_budget("key", second, tokens(5))
    assert view["account"] == f"key:{first}/tokens/daily"
    assert [store.accounts.show_key(each)["billing"] for each in (first, second)] == ["quota", "quota"]
    store.accounts.remove_budget("key", first, unit="tokens", period="daily")
    assert store.accounts.show_key(second)["billing"] == "none"
    with pytest.raises(AccountsError, match="there is no budget"):
        store.accounts.remove_budget("key", first, unit="tokens", period="daily")


def test_prepaid_stays_prepaid(store: Store) -> None:
    store.acme()
    store.accounts.set_budget("organization", "acme", tokens(None, "never"))
    store.accounts.set_budget("organization", "acme", tokens(None, "never"))
    with pytest.raises(AccountsError) as caught:
        store.accounts.set_budget("organization", "acme", tokens(5, "never"))
    assert caught.value.kind == "conflict"
    with pytest.raises(AccountsError, match="period"):
        store.accounts.set_budget("organization", "acme", tokens(None, "daily"))


def test_a_budget_belongs_to_somebody(store: Store) -> None:
    with pytest.raises(AccountsError, match="there is no organization `acme`"):
        store.accounts.set_budget("organization", "acme", tokens(5))


def test_a_limit_that_never_starts_again_is_refused_where_money_was_paid_in(store: Store) -> None:
    store.acme()
    prepaid = {"unit": "USD", "period": "never", "amount": None}
    store.accounts.set_budget("organization", "acme", prepaid)
    store.payments.top_up("organization", "acme", payment_id="1", amount=5)
    with pytest.raises(AccountsError, match="is prepaid: remove that budget before it is limited"):
        store.accounts.set_budget("organization", "acme", {**prepaid, "amount": 7})
    store.accounts.remove_budget("organization", "acme", unit="USD", period="never")
    with pytest.raises(AccountsError, match="was paid into, and stays prepaid; use another period"):
        store.accounts.set_budget("organization", "acme", {**prepaid, "amount": 7})
    store.accounts.set_budget("organization", "acme", {"unit": "USD", "period": "monthly", "amount": 7})
    assert store.accounts.set_budget("organization", "acme", prepaid)["running"]["available"] == 5


def test_a_limit_that_went_is_not_shown_as_money(store: Store) -> None:
    store.acme()
    row = {"account": "organization:acme/USD/never", "unit": "USD", "period": "never"}
    figures = {"granted": 105, "limited": 100, "used": 30, "held": 20, "changes": 1}
    store.database.call(lambda c: c.execute(insert(ledger_balances).values(**row, **figures)))
    view = store.accounts.set_budget("organization", "acme", {"unit": "USD", "period": "never", "amount": None})
    assert view["running"]["granted"] == 55
    assert view["running"]["available"] == 5
