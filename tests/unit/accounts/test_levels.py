from typing import Any

from zuebee.accounts.entitlements import Level, PlanTerms
from zuebee.accounts.principals import lapsed, level_of, plan_of, tags_of
from zuebee.accounts.schemas import BudgetForm
from zuebee.config.settings_base import LimitSettings

USER = {"id": "ann", "status": "active", "plan": "pro", "plan_ends_at_s": 0.0, "models": '["a"]', "endpoints": "[]",
        "limits": '{"requests_per_minute": 3}', "tags": '["x", "y"]'}  # fmt: skip
PLAN = {"id": "pro", "status": "active", "priority": "high", "models": "[]", "endpoints": '["/v1/*"]', "limits": "{}",
        "budgets": '[{"unit": "tokens", "period": "daily", "amount": 5}]'}  # fmt: skip
FIVE = BudgetForm(unit="tokens", period="daily", amount=5)


def row(**changes: Any) -> dict[str, Any]:
    """A user with a plan, and no budget."""
    found: dict[str, Any] = {"user_id": "ann", "plan": "", "tags": '["y", "z"]'}
    found |= {f"user_{name}_": value for name, value in USER.items()}
    found |= {f"user_plan_{name}_": value for name, value in PLAN.items()}
    return found | {f"budget_{name}_": None for name in ("scope", "unit", "period", "amount")} | changes


def test_a_holder_with_its_plan_and_its_own_budgets_only() -> None:
    own = {"budget_unit_": "tokens", "budget_period_": "daily", "budget_amount_": 5}
    found = level_of([row(budget_scope_="user", **own), row(budget_scope_="team", **own)], "user")
    plan = PlanTerms("pro", "high", (), ("/v1/*",), LimitSettings(), (FIVE,))
    assert found == Level("user", "ann", ("a",), (), LimitSettings(requests_per_minute=3), (FIVE,), plan)


def test_an_owner_that_is_gone_says_nothing() -> None:
    assert level_of([row(user_id_=None)], "user") == Level("user", "ann")
    assert plan_of(row(user_plan_id_=None), "user") is None


def test_a_plan_ends_with_its_time_or_with_its_offer() -> None:
    assert not lapsed(row(), "user", 100.0)
    assert not lapsed(row(user_plan_ends_at_s_=100.1), "user", 100.0)
    assert lapsed(row(user_plan_ends_at_s_=100.0), "user", 100.0)
    assert lapsed(row(user_plan_status_="disabled"), "user", 100.0)
    assert lapsed(row(user_plan_id_=None, user_plan_status_=None), "user", 100.0)
    assert not lapsed(row(user_plan_="", user_plan_status_=None), "user", 100.0)


def test_tags_stand_once_each() -> None:
    assert tags_of(row(), ["key", "user"]) == ("y", "z", "x")
