import pytest

from zuebee.auth.records import NOTHING, merged
from zuebee.contracts.admission import Budget, Limit, Principal


def test_one_stays_as_it_is() -> None:
    assert merged([Principal("a")]) == Principal("a")


def test_the_first_is_who_calls_and_the_limits_of_all_hold() -> None:
    one = Principal("a", "n", limits=(Limit("key:a", "requests", 9, 60),), budgets=(Budget("x", "tokens", "never", 1),))
    two = Principal(
        "b", "m", tags=("t",), limits=(Limit("key:a", "requests", 5, 60), Limit("key:b", "concurrent", 1)),
        budgets=(Budget("x", "tokens", "never", 9), Budget("y", "tokens", "never", 2)),
    )  # fmt: skip
    both = merged([one, two])
    assert (both.key_id, both.name, both.tags) == ("a", "n", ("t",))
    assert both.limits == (Limit("key:a", "requests", 5, 60), Limit("key:b", "concurrent", 1))
    assert [budget.limit for budget in both.budgets] == [1, 2]
    assert [budget.limit for budget in merged([two, one]).budgets] == [1, 2], "whichever comes first"
    unlimited = Principal("a", limits=(Limit("key:a", "requests", 0, 60),))
    assert merged([unlimited, two]).limits[0].amount == 5


def test_of_two_budgets_of_one_account_the_smaller_holds() -> None:
    quota, half = Budget("x", "tokens", "never", 100, 10), Budget("x", "tokens", "never", 50, 40)
    prepaid = Budget("x", "tokens", "never", None)
    for one, other, both in [(quota, half, (50, 40)), (half, quota, (50, 40)), (prepaid, half, (None, 40))]:
        (left,) = merged([Principal("a", budgets=(one,)), Principal("a", budgets=(other,))]).budgets
        assert (left.limit, left.used_before) == both


def test_the_low_class_of_one_source_holds_for_all() -> None:
    low, normal, high = (Principal("a", priority=priority) for priority in ("low", "normal", "high"))
    classes = [merged([one, other]).priority for one, other in [(low, high), (high, low), (high, normal)]]
    assert classes == ["low", "low", "high"]
    assert merged([normal, high]).priority == "normal", "the first is who calls"


@pytest.mark.parametrize(
    ("ours", "theirs", "both"),
    [
        ((), (), ()),
        (("a",), (), ("a",)),
        ((), ("a*",), ("a*",)),
        (("a*",), ("ab", "b"), ("ab",)),
        (("ab", "c"), ("a*",), ("ab",)),
        (("a*", "b"), ("a*", "c"), ("a*",)),
        (("a",), ("b",), (NOTHING,)),
    ],
)
def test_no_source_widens_what_another_narrows(ours: tuple[str, ...], theirs: tuple[str, ...], both: object) -> None:
    assert merged([Principal("a", models=ours), Principal("b", models=theirs)]).models == both
    assert merged([Principal("a", endpoints=ours), Principal("b", endpoints=theirs)]).endpoints == both
