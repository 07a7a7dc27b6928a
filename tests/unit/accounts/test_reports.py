import pytest

from tests.support.accounts import Store
from zuebee.accounts.schemas import AccountsError

DAY_S = 86400.0


def fill(store: Store) -> None:
    store.used(at_s=10.0, user_id="ann", organization_id="acme", key_id="k1", cost_nano=5)
    store.used(at_s=DAY_S, user_id="ann", organization_id="acme", key_id="k1", cost_nano=7, model="n")
    store.used(at_s=DAY_S + 1, user_id="bob", organization_id="acme", key_id="k2", cost_nano=100, cached_tokens=4)
    store.used(at_s=DAY_S + 2, user_id="eve", organization_id="other", prompt_tokens=None, completion_tokens=None)


@pytest.mark.requirement("A107")
def test_usage_is_summed_by_user_model_and_period(store: Store) -> None:
    fill(store)
    by_user = store.accounts.usage("user", {}, since_s=0, until_s=9e9)
    figures = {row["user_id"]: (row["requests"], row["prompt_tokens"], row["cost_nano"]) for row in by_user}
    assert figures == {"bob": (1, 10, 100), "ann": (2, 20, 12), "eve": (1, 0, 0)}
    assert [row["user_id"] for row in by_user] == ["bob", "ann", "eve"], "the dearest first"
    by_model = store.accounts.usage("model", {"user_id": "ann"}, since_s=0, until_s=9e9)
    assert {row["model"]: row["cost_nano"] for row in by_model} == {"n": 7, "m": 5}
    by_day = store.accounts.usage("day", {}, since_s=0, until_s=9e9)
    assert {row["day"]: row["requests"] for row in by_day} == {0: 1, 86400: 3}


def test_a_period_has_its_first_second_and_not_its_last(store: Store) -> None:
    fill(store)
    [row] = store.accounts.usage("organization", {"organization_id": "acme"}, since_s=DAY_S, until_s=DAY_S + 1)
    assert (row["requests"], row["cost_nano"]) == (1, 7)


def test_unknown_sums_and_filters_are_refused(store: Store) -> None:
    with pytest.raises(AccountsError, match="by"):
        store.accounts.usage("address", {}, since_s=0, until_s=1)
    with pytest.raises(AccountsError, match="there is no such filter"):
        store.accounts.usage("user", {"1=1; --": "x"}, since_s=0, until_s=1)
