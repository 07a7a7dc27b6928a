import pytest

from zuebee.auth.merge import NOTHING, merged
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
    unlimited = Principal("a", limits=(Limit("key:a", "requests", 0, 60),))
    assert merged([unlimited, two]).limits[0].amount == 5


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
