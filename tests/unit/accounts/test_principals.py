import hashlib
from typing import Any

import pytest
from sqlalchemy import event

from tests.support.accounts import Store
from zuebee.accounts.principals import StoreSource
from zuebee.auth.records import judge
from zuebee.contracts.admission import Budget, Caller, Limit
from zuebee.contracts.errors import ADDRESS_REFUSED, Refusal
from zuebee.contracts.keys import Credential, KeyRecord
from zuebee.lib import clock

CALLER = Caller("POST", "/v1/chat/completions", {}, "127.0.0.1")


async def ask(store: Store, secret: str) -> KeyRecord | Refusal | None:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return await StoreSource(store.database, currency="USD").find(Credential(CALLER, secret.encode(), digest))


async def code(store: Store, secret: str) -> str:
    """What a request with the key would be refused with; empty if it would not."""
    found = await ask(store, secret)
    if isinstance(found, KeyRecord):
        refusal = judge(found, "127.0.0.1", clock.wall_s())
        return refusal.code if refusal else ""
    return found.code if found else "unknown"


async def test_a_key_brings_all_that_it_entitles_to(store: Store) -> None:
    store.acme()
    accounts = store.accounts
    plan_budget = {"unit": "tokens", "period": "monthly", "amount": 900}
    accounts.create("plan", {"id": "pro", "priority": "high", "models": ["gpt-*"], "budgets": [plan_budget]})
    accounts.change("organization", "acme", {"plan": "pro", "tags": ["eu", "x"], "limits": {"max_concurrent": 9}})
    accounts.change("team", "research", {"endpoints": ["/v1/chat/*"], "limits": {"tokens_per_day": 7}})
    accounts.set_budget("user", "ann", {"unit": "USD", "period": "never", "amount": None})
    made = accounts.create_key(
        {
            "user_id": "ann", "name": "laptop", "models": ["gpt-4o", "gpt-5*"], "tags": ["x", "y"],
            "limits": {"requests_per_minute": 3}, "allowed_ips": ["127.0.0.0/8"], "denied_ips": ["10.1.1.1"],
            "expires_at_s": 4e9, "budgets": [{"unit": "tokens", "period": "daily", "amount": 5}],
        }
    )  # fmt: skip
    found = await ask(store, made.secret)
    assert isinstance(found, KeyRecord)
    who = found.principal
    key_id = made.view["id"]
    assert (who.key_id, who.name, who.user_id, who.team_id) == (key_id, "laptop", "ann", "research")
    assert (who.organization_id, who.plan, who.priority, who.tags) == ("acme", "pro", "high", ("x", "y", "eu"))
    assert (who.models, who.endpoints) == (("gpt-4o", "gpt-5*"), ("/v1/chat/*",))
    assert who.limits == (
        Limit(f"key:{key_id}", "requests", 3, 60),
        Limit("team:research", "tokens", 7, 86400),
        Limit("organization:acme", "concurrent", 9),
    )
    assert who.budgets == (
        Budget(f"key:{key_id}/tokens/daily", "tokens", "daily", 5),
        Budget("user:ann/USD/never", "USD", "never", None),
        Budget("organization:acme/tokens/monthly", "tokens", "monthly", 900),
    )
    assert (found.active, found.revoked, found.expires_at_s) == (True, False, 4e9)
    assert ([str(n) for n in found.allowed], [str(n) for n in found.denied]) == (["127.0.0.0/8"], ["10.1.1.1/32"])
    assert found.data["user_id"] == "ann"
    assert made.secret not in str(found.data)


async def test_one_round_trip(store: Store) -> None:
    store.acme()
    secret = store.accounts.create_key({"user_id": "ann"}).secret
    statements: list[Any] = []
    event.listen(store.database.engine, "before_cursor_execute", lambda *a: statements.append(a))
    assert isinstance(await ask(store, secret), KeyRecord)
    assert len(statements) == 1


async def test_equal_budgets_are_the_same_object(store: Store) -> None:
    secret = store.accounts.create_key({"budgets": [{"unit": "tokens", "period": "daily", "amount": 5}]}).secret
    source = StoreSource(store.database, currency="USD")
    shown = Credential(CALLER, None, hashlib.sha256(secret.encode()).hexdigest())
    one, other = await source.find(shown), await source.find(shown)
    assert isinstance(one, KeyRecord)
    assert isinstance(other, KeyRecord)
    assert one.principal.budgets is other.principal.budgets


async def test_an_unknown_key_is_not_known_here(store: Store) -> None:
    assert await ask(store, "sk-zuebee-nothing") is None


@pytest.mark.parametrize("scope", ["organization", "team", "user"])
async def test_whoever_is_disabled_takes_its_keys_along(store: Store, scope: Any) -> None:
    store.acme()
    secret = store.accounts.create_key({"user_id": "ann"}).secret
    assert await code(store, secret) == ""
    name = {"organization": "acme", "team": "research", "user": "ann"}[scope]
    store.accounts.set_status(scope, name, "disabled")
    assert await code(store, secret) == "key_disabled"
    store.accounts.set_status(scope, name, "active")
    assert await code(store, secret) == ""


@pytest.mark.requirement("A051")
@pytest.mark.parametrize("scope", ["organization", "team", "user", "key"])
async def test_a_lapsed_subscription_at_any_level_has_a_code_of_its_own(store: Store, scope: Any) -> None:
    store.acme()
    made = store.accounts.create_key({"user_id": "ann"})
    store.accounts.create("plan", {"id": "pro"})
    name = {"organization": "acme", "team": "research", "user": "ann", "key": made.view["id"]}[scope]

    def subscribe(until_s: float) -> None:
        terms = {"plan": "pro", "plan_ends_at_s": until_s}
        if scope == "key":
            store.accounts.change_key(name, terms)
        else:
            store.accounts.change(scope, name, terms)

    subscribe(clock.wall_s() + 60)
    assert await code(store, made.secret) == ""
    subscribe(clock.wall_s() - 1)
    assert await code(store, made.secret) == "subscription_lapsed"
    subscribe(0)
    assert await code(store, made.secret) == ""
    store.accounts.set_status("plan", "pro", "disabled")
    assert await code(store, made.secret) == "subscription_lapsed"


@pytest.mark.requirement("A054")
async def test_an_ipv4_address_is_the_same_however_a_list_spells_it(store: Store) -> None:
    lists = {"denied_ips": ["::ffff:10.1.2.3"], "allowed_ips": ["::ffff:10.0.0.0/104"]}
    made = store.accounts.create_key(lists)
    record = await ask(store, made.secret)
    assert isinstance(record, KeyRecord)
    assert [judge(record, address, 1.0) for address in ("10.1.2.3", "::ffff:10.1.2.3", "11.0.0.1")] == [
        ADDRESS_REFUSED
    ] * 3
    assert judge(record, "10.9.9.9", 1.0) is None


async def test_the_keys_own_end_comes_before_its_plans(store: Store) -> None:
    store.accounts.create("plan", {"id": "pro"})
    made = store.accounts.create_key({"plan": "pro", "plan_ends_at_s": 1.0})
    store.accounts.revoke_key(made.view["id"])
    assert await code(store, made.secret) == "key_revoked"


async def test_rights_that_have_nothing_in_common_allow_nothing(store: Store) -> None:
    store.acme()
    secret = store.accounts.create_key({"user_id": "ann", "models": ["a"]}).secret
    store.accounts.change("team", "research", {"models": ["b"]})
    assert await code(store, secret) == "nothing_allowed"


async def test_an_owner_that_is_gone_disables_the_key(store: Store) -> None:
    store.acme()
    secret = store.accounts.create_key({"user_id": "ann"}).secret
    store.rows("DELETE FROM users WHERE id = 'ann' RETURNING id")
    assert await code(store, secret) == "key_disabled"


async def test_both_keys_of_a_rotation_count_together(store: Store) -> None:
    terms = {"limits": {"requests_per_minute": 5}, "budgets": [{"unit": "tokens", "period": "daily", "amount": 5}]}
    old = store.accounts.create_key(terms)
    new = store.accounts.rotate_key(old.view["id"], overlap_s=60)
    one, other = await ask(store, old.secret), await ask(store, new.secret)
    assert isinstance(one, KeyRecord)
    assert isinstance(other, KeyRecord)
    assert one.principal.key_id != other.principal.key_id
    assert (one.principal.lineage, other.principal.lineage) == ("", old.view["id"])
    assert (one.principal.limits, one.principal.budgets) == (other.principal.limits, other.principal.budgets)
    assert one.principal.budgets[0].account == f"key:{old.view['id']}/tokens/daily"
