from typing import Any

import pytest
from sqlalchemy import event

from tests.support.accounts import Store
from zuebee.accounts.principals import StoreSource, entitled
from zuebee.contracts.admission import ANONYMOUS, Budget, Limit, Principal
from zuebee.contracts.errors import Refusal
from zuebee.lib import clock

TOKENS = {"unit": "tokens", "period": "monthly"}


def ask(store: Store, **named: Any) -> Principal | Refusal:
    principal = Principal("jwt_1", "Ann", **{"user_id": "ann", **named})
    return store.database.call(lambda connection: entitled(connection, principal, "USD"))


def who(store: Store, **named: Any) -> Principal:
    found = ask(store, **named)
    assert isinstance(found, Principal), found
    return found


def code(store: Store, **named: Any) -> str:
    found = ask(store, **named)
    return found.code if isinstance(found, Refusal) else ""


def test_what_is_named_brings_its_rights(store: Store) -> None:
    store.acme()
    accounts = store.accounts
    accounts.create(
        "plan",
        {
            "id": "gold", "priority": "high", "models": ["gpt-*"], "limits": {"max_concurrent": 2},
            "budgets": [{**TOKENS, "amount": 900}],
        },
    )  # fmt: skip
    accounts.change("user", "ann", {"tags": ["x"], "limits": {"requests_per_minute": 3}})
    accounts.change("team", "research", {"models": ["gpt-4*"], "endpoints": ["/v1/chat/*"], "tags": ["eu", "x"]})
    accounts.set_budget("organization", "acme", {"unit": "USD", "period": "never", "amount": None})
    accounts.set_budget("team", "research", {**TOKENS, "amount": 70})
    accounts.set_budget("user", "ann", {**TOKENS, "amount": 50})
    accounts.set_budget("user", "bob", {**TOKENS, "amount": 1})
    found = who(store, team_id="research", organization_id="acme", plan="gold")
    assert (found.key_id, found.name, found.user_id) == ("jwt_1", "Ann", "ann")
    assert (found.team_id, found.organization_id, found.plan, found.priority) == ("research", "acme", "gold", "high")
    assert (found.models, found.endpoints, found.tags) == (("gpt-4*",), ("/v1/chat/*",), ("x", "eu"))
    assert found.limits == (Limit("key:jwt_1", "concurrent", 2), Limit("user:ann", "requests", 3, 60))
    assert found.budgets == (
        Budget("key:jwt_1/tokens/monthly", "tokens", "monthly", 900),
        Budget("user:ann/tokens/monthly", "tokens", "monthly", 50),
        Budget("team:research/tokens/monthly", "tokens", "monthly", 70),
        Budget("organization:acme/USD/never", "USD", "never", None),
    )


def test_what_is_not_named_follows_from_the_lowest_that_is(store: Store) -> None:
    store.acme()
    found = who(store)
    assert (found.team_id, found.organization_id) == ("research", "acme")
    found = who(store, user_id="stranger", team_id="research")
    assert (found.user_id, found.team_id, found.organization_id) == ("stranger", "research", "acme")
    found = who(store, organization_id="other")
    assert (found.team_id, found.organization_id) == ("research", "other"), "what was named stays"


def test_names_that_the_store_does_not_know_give_and_take_nothing(store: Store) -> None:
    named = {"user_id": "x", "team_id": "y", "organization_id": "z", "plan": "w"}
    assert who(store, **named) == Principal("jwt_1", "Ann", **named)
    assert who(store, user_id="", plan="' OR 1=1 --") == Principal("jwt_1", "Ann", plan="' OR 1=1 --")


def test_what_the_principal_may_by_itself_is_only_narrowed(store: Store) -> None:
    store.acme()
    store.accounts.change("user", "ann", {"models": ["a*"]})
    own = {"limits": (Limit("key:jwt_1", "requests", 1, 60),), "models": ("ab", "b"), "priority": "low"}
    found = who(store, **own)
    assert (found.models, found.limits, found.priority) == (("ab",), own["limits"], "low")
    assert code(store, models=("b",)) == "nothing_allowed"


@pytest.mark.parametrize(("scope", "name"), [("user", "ann"), ("team", "research"), ("organization", "acme")])
def test_a_disabled_owner_refuses(store: Store, scope: Any, name: str) -> None:
    store.acme()
    assert code(store) == ""
    store.accounts.set_status(scope, name, "disabled")
    assert code(store) == "key_disabled"
    assert code(store, user_id="stranger") == ""
    store.accounts.set_status(scope, name, "active")
    assert code(store) == ""


@pytest.mark.requirement("A051")
@pytest.mark.parametrize(("scope", "name"), [("user", "ann"), ("team", "research"), ("organization", "acme")])
def test_a_plan_that_has_ended_refuses(store: Store, scope: Any, name: str) -> None:
    store.acme()
    store.accounts.create("plan", {"id": "gold"})
    store.accounts.change(scope, name, {"plan": "gold", "plan_ends_at_s": clock.wall_s() + 60})
    assert who(store).plan == "gold"
    store.accounts.change(scope, name, {"plan_ends_at_s": clock.wall_s() - 1})
    assert code(store) == "subscription_lapsed"


def test_a_disabled_plan_refuses_whoever_names_it(store: Store) -> None:
    store.accounts.create("plan", {"id": "gold"})
    assert code(store, user_id="stranger", plan="gold") == ""
    store.accounts.set_status("plan", "gold", "disabled")
    assert code(store, user_id="stranger", plan="gold") == "subscription_lapsed"


async def test_one_round_trip_and_equal_budgets_are_the_same_object(store: Store) -> None:
    store.acme()
    store.accounts.set_budget("user", "ann", {**TOKENS, "amount": 50})
    source = StoreSource(store.database, currency="USD")
    statements: list[Any] = []
    event.listen(store.database.engine, "before_cursor_execute", lambda *a: statements.append(a))
    one = await source.entitle(Principal("jwt_1", user_id="ann"))
    assert len(statements) == 1
    other = await source.entitle(Principal("jwt_1", user_id="ann"))
    assert isinstance(one, Principal)
    assert isinstance(other, Principal)
    assert one.budgets is other.budgets
    statements.clear()
    assert await source.entitle(ANONYMOUS) is ANONYMOUS
    assert not statements
