from typing import Any

import pytest

from tests.support.accounts import Store
from zuebee.accounts.schemas import AccountsError


def test_what_is_made_can_be_seen(store: Store) -> None:
    store.acme()
    view = store.accounts.show("user", "ann")
    expected = {"organization_id": "acme", "team_id": "research", "role": "admin", "name": "ann", "status": "active"}
    assert expected.items() <= view.items()
    found, following = store.accounts.listing("user", organization_id="acme")
    assert ([each["id"] for each in found], following) == (["ann", "bob"], "")


@pytest.mark.parametrize(
    ("kind", "fields", "field", "reason"),
    [
        ("organization", {"id": "acme"}, "id", "conflict"),
        ("team", {"id": "t", "organization_id": "nobody"}, "organization_id", "not_found"),
        ("team", {"id": "t"}, "", "invalid"),
        ("user", {"id": "u", "organization_id": "other", "team_id": "research"}, "team_id", "invalid"),
        ("user", {"id": "u", "organization_id": "acme", "team_id": "none"}, "team_id", "not_found"),
        ("user", {"id": "u", "organization_id": "acme", "role": "owner"}, "role", "invalid"),
        ("user", {"id": "u", "organization_id": "acme", "status": "active"}, "status", "forbidden"),
        ("organization", {"id": "o", "plan": "gold"}, "plan", "not_found"),
        ("plan", {"id": "p", "budgets": [{"unit": "EUR", "period": "daily", "amount": 1}]}, "unit", "invalid"),
    ],
)
def test_bad_orders_change_nothing_and_name_the_field(
    store: Store, kind: Any, fields: dict[str, Any], field: str, reason: str
) -> None:
    store.acme()
    before = store.rows("SELECT count(*) FROM users UNION ALL SELECT count(*) FROM teams")
    with pytest.raises(AccountsError) as caught:
        store.accounts.create(kind, fields)
    assert (caught.value.field, caught.value.kind) == (field, reason)
    assert store.rows("SELECT count(*) FROM users UNION ALL SELECT count(*) FROM teams") == before


def test_a_change_leaves_what_it_does_not_name(store: Store) -> None:
    store.acme()
    store.accounts.change("team", "research", {"models": ["a"], "tags": ["lab"]})
    view = store.accounts.change("team", "research", {"tags": []})
    assert (view["models"], view["tags"]) == (["a"], [])
    with pytest.raises(AccountsError, match="organization_id: this cannot be set"):
        store.accounts.change("team", "research", {"organization_id": "other"})
    with pytest.raises(AccountsError, match="there is no team `nothing`"):
        store.accounts.change("team", "nothing", {})


def test_a_users_keys_move_along_with_it(store: Store) -> None:
    store.acme()
    key_id = store.accounts.create_key({"user_id": "ann"}).view["id"]
    assert store.accounts.show_key(key_id)["team_id"] == "research"
    store.accounts.change("user", "ann", {"team_id": ""})
    assert store.accounts.show_key(key_id)["team_id"] == ""


def test_injected_sql_is_only_text(store: Store) -> None:
    store.acme()
    evil = "x'); DROP TABLE users; --"
    store.accounts.change("team", "research", {"name": evil, "tags": [evil]})
    assert store.accounts.show("team", "research")["name"] == evil
    with pytest.raises(AccountsError, match="there is no user"):
        store.accounts.show("user", evil)
    assert store.rows("SELECT count(*) FROM users") == [(2,)]
