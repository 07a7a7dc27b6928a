import hashlib
import re
from typing import Any

import pytest

from tests.support.accounts import Store
from zuebee.accounts.keys import mint, state_of
from zuebee.accounts.schemas import AccountsError
from zuebee.lib import clock

DAY_S = 86400


def test_a_key_has_256_random_bits_and_is_kept_as_its_hash_only(store: Store) -> None:
    store.acme()
    made = store.accounts.create_key({"user_id": "ann", "name": "laptop"})
    assert re.fullmatch(r"sk-zuebee-[A-Za-z0-9_-]{43}", made.secret)
    digest = hashlib.sha256(made.secret.encode()).hexdigest()
    [row] = store.rows("SELECT * FROM keys")
    assert digest in row
    assert made.view["hint"] == f"sk-zuebee-...{made.secret[-4:]}"
    random = made.secret.removeprefix("sk-zuebee-")
    assert not any(random in str(value) for value in row), "the key itself is nowhere"
    assert made.secret not in repr(made)
    assert "digest" not in made.view
    assert len({mint()[0] for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("fields", "owners"),
    [
        ({"user_id": "ann"}, ("acme", "research", "ann")),
        ({"user_id": "bob"}, ("acme", "", "bob")),
        ({"team_id": "research"}, ("acme", "research", "")),
        ({"organization_id": "acme"}, ("acme", "", "")),
        ({}, ("", "", "")),
    ],
)
def test_owners_follow_from_the_lowest(store: Store, fields: dict[str, Any], owners: tuple[str, ...]) -> None:
    store.acme()
    view = store.accounts.create_key(fields).view
    assert (view["organization_id"], view["team_id"], view["user_id"]) == owners


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"user_id": "eve"}, "user_id"),
        ({"user_id": "ann", "organization_id": "other"}, "organization_id"),
        ({"user_id": "bob", "team_id": "research"}, "team_id"),
        ({"plan": "gold"}, "plan"),
        ({"billing": "quota"}, "billing"),
        ({"billing": "none", "budgets": [{"unit": "tokens", "period": "daily", "amount": 1}]}, "billing"),
        ({"budgets": [{"unit": "EUR", "period": "daily", "amount": 1}]}, "unit"),
        ({"id": "key_mine"}, "id"),
        ({"digest": "00"}, "digest"),
        ({"lineage": "key_other"}, "lineage"),
    ],
)
def test_bad_orders_make_no_key(store: Store, fields: dict[str, Any], field: str) -> None:
    store.acme()
    with pytest.raises(AccountsError) as caught:
        store.accounts.create_key(fields)
    assert caught.value.field == field
    assert store.rows("SELECT count(*) FROM keys") == [(0,)]


def test_a_key_is_billed_as_its_budgets_say(store: Store) -> None:
    def mode(**fields: Any) -> str:
        return str(store.accounts.create_key(fields).view["billing"])

    quota = {"unit": "tokens", "period": "daily", "amount": 1}
    assert mode() == "none"
    assert mode(budgets=[quota]) == "quota"
    assert mode(budgets=[quota, {"unit": "USD", "period": "never", "amount": None}]) == "prepaid"
    prepaid = store.accounts.create_key({"billing": "prepaid"}).view["id"]
    assert [each["account"] for each in store.accounts.budgets("key", prepaid)] == [f"key:{prepaid}/USD/never"]


def test_what_the_owner_may_not_use_is_refused_when_the_key_is_made(store: Store) -> None:
    store.acme()
    store.accounts.create("plan", {"id": "small", "models": ["gpt-*"]})
    store.accounts.change("organization", "acme", {"plan": "small"})
    store.accounts.create_key({"user_id": "ann", "models": ["gpt-4*"]})
    with pytest.raises(AccountsError, match="models: `claude-3` is not allowed"):
        store.accounts.create_key({"user_id": "ann", "models": ["gpt-4o", "claude-3"]})
    key_id = store.accounts.create_key({"user_id": "ann"}).view["id"]
    with pytest.raises(AccountsError, match="models"):
        store.accounts.change_key(key_id, {"models": ["claude-3"]})


def test_a_changed_key_still_ends_after_it_begins(store: Store) -> None:
    key_id = store.accounts.create_key({"starts_at_s": 100.0}).view["id"]
    with pytest.raises(AccountsError, match="expires before it starts"):
        store.accounts.change_key(key_id, {"expires_at_s": 50.0})
    assert store.accounts.change_key(key_id, {"expires_at_s": 150.0})["state"] == "expired"


def test_rotation_keeps_all_but_the_secret(store: Store) -> None:
    store.acme()
    fields = {"user_id": "ann", "name": "ci", "models": ["m"], "tags": ["t"], "limits": {"requests_per_minute": 5}}
    budgets = [{"unit": "USD", "period": "monthly", "amount": 10**9}]
    old = store.accounts.create_key({**fields, "budgets": budgets})
    now_s = clock.wall_s()
    new = store.accounts.rotate_key(old.view["id"], overlap_s=3600)
    assert new.secret != old.secret
    differ = {name for name in new.view if new.view[name] != old.view[name]}
    assert differ == {"id", "hint", "rotated_from", "created_at_s"}
    assert new.view["rotated_from"] == old.view["id"]
    assert store.accounts.budgets("key", new.view["id"]) == store.accounts.budgets("key", old.view["id"])
    after = store.accounts.show_key(old.view["id"])
    assert after["state"] == "active"
    assert after["expires_at_s"] == pytest.approx(now_s + 3600, abs=30)
    again = store.accounts.rotate_key(new.view["id"], overlap_s=0)
    assert again.view["lineage"] == old.view["id"], "the accounts stay those of the first key"


def test_rotation_does_not_prolong_and_can_be_at_once(store: Store) -> None:
    soon_s = clock.wall_s() + 60
    brief = store.accounts.create_key({"expires_at_s": soon_s}).view["id"]
    store.accounts.rotate_key(brief, overlap_s=DAY_S)
    assert store.accounts.show_key(brief)["expires_at_s"] == soon_s
    other = store.accounts.create_key({}).view["id"]
    store.accounts.rotate_key(other, overlap_s=0)
    assert store.accounts.show_key(other)["state"] == "revoked"


def test_only_a_living_key_without_successor_is_rotated(store: Store) -> None:
    one, two, three = (store.accounts.create_key({}).view["id"] for _ in range(3))
    store.accounts.revoke_key(one)
    store.accounts.set_status("key", two, "disabled")
    store.accounts.rotate_key(three, overlap_s=60)
    for key_id, reason in [(one, "was revoked"), (two, "is disabled"), (three, "has replaced it")]:
        with pytest.raises(AccountsError, match=reason):
            store.accounts.rotate_key(key_id, overlap_s=60)


def test_revoked_is_for_ever_and_the_first_time_counts(store: Store) -> None:
    key_id = store.accounts.create_key({}).view["id"]
    first = store.accounts.revoke_key(key_id)["revoked_at_s"]
    store.accounts.set_status("key", key_id, "active")
    again = store.accounts.revoke_key(key_id)
    assert (again["revoked_at_s"], again["state"]) == (first, "revoked")


def test_states() -> None:
    row = {"revoked_at_s": 0, "status": "active", "expires_at_s": 20, "starts_at_s": 10}
    assert [state_of(row, now_s) for now_s in (9, 10, 19, 20)] == ["not_started", "active", "active", "expired"]
    assert state_of({**row, "status": "disabled"}, 15) == "disabled"
    assert state_of({**row, "revoked_at_s": 1, "status": "disabled"}, 15) == "revoked"


@pytest.mark.requirement("A381")
def test_keys_are_listed_with_their_usage_and_found_by_owner_and_state(store: Store) -> None:
    store.acme()
    ann = store.accounts.create_key({"user_id": "ann"}).view["id"]
    bob = store.accounts.create_key({"user_id": "bob"}).view["id"]
    gone = store.accounts.create_key({"team_id": "research", "expires_at_s": 1.0}).view["id"]
    today = int(clock.wall_s() // DAY_S)
    columns = "(key_id, day, requests, prompt_tokens, completion_tokens, cost_nano)"
    for key_id, day, requests in [(ann, today, 2), (ann, today - 29, 1), (ann, today - 30, 50), (bob, today, 7)]:
        store.rows(f"INSERT INTO usage_days {columns} VALUES ('{key_id}', {day}, {requests}, 10, 5, 3) RETURNING day")
    found, _ = store.accounts.list_keys({})
    assert [each["last_30_days"]["requests"] for each in found] == [3, 7, 0]
    assert found[0]["last_30_days"] == {"requests": 3, "tokens": 30, "cost_nano": 6}

    def ids(**wanted: str) -> list[str]:
        return [each["id"] for each in store.accounts.list_keys(wanted)[0]]

    assert ids(user_id="bob") == [bob]
    assert ids(team_id="research") == [ann, gone]
    assert ids(organization_id="other") == []
    store.accounts.set_status("key", bob, "disabled")
    assert (ids(state="active"), ids(state="disabled"), ids(state="expired")) == ([ann], [bob], [gone])
    store.accounts.revoke_key(ann)
    assert (ids(state="active"), ids(state="revoked")) == ([], [ann])
    later = store.accounts.create_key({"starts_at_s": clock.wall_s() + DAY_S}).view
    assert later["state"] == "not_started"
    assert (ids(state="active"), ids(state="not_started")) == ([], [later["id"]])
    with pytest.raises(AccountsError, match="expected active"):
        ids(state="expierd")
