from tests.support.accounts import Store
from zuebee.contracts.errors import Refusal
from zuebee.contracts.keys import KeyRecord


def test_what_a_key_would_meet_can_be_asked_by_its_id(store: Store) -> None:
    store.acme()
    key_id = store.accounts.create_key({"user_id": "ann"}).view["id"]
    found = store.accounts.key_record(key_id)
    assert isinstance(found, KeyRecord)
    assert found.principal.team_id == "research"
    store.accounts.create("plan", {"id": "p"})
    store.accounts.change("organization", "acme", {"plan": "p", "plan_ends_at_s": 1.0})
    lapsed = store.accounts.key_record(key_id)
    assert isinstance(lapsed, Refusal)
    assert lapsed.code == "subscription_lapsed"
    assert store.accounts.key_record("key_unknown") is None


def test_plans_are_listed(store: Store) -> None:
    for name in ("a", "b", "c"):
        store.accounts.create("plan", {"id": name})
    page, following = store.accounts.listing("plan", limit=2)
    assert ([each["id"] for each in page], following) == (["a", "b"], "b")
    assert [each["id"] for each in store.accounts.listing("plan", limit=2, after=following)[0]] == ["c"]
