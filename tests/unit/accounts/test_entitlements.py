from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.accounts.entitlements import RANK, Level, PlanTerms, budgets_of, limits_of, merge
from zuebee.accounts.schemas import BudgetForm, Scope
from zuebee.config.settings_base import LimitSettings
from zuebee.contracts.admission import Budget, Limit
from zuebee.lib.patterns import Patterns, allowed

NAMES = ["", "a", "ab", "abc", "abd", "b", "ba", "*"]
patterns = st.lists(st.sampled_from(["a", "ab", "abc", "a*", "ab*", "abc*", "b*", "ba", "*"]), max_size=3).map(tuple)
limits = st.builds(
    LimitSettings,
    requests_per_minute=st.integers(0, 3),
    requests_per_second=st.integers(0, 3),
    max_concurrent=st.integers(0, 3),
    on_store_down=st.sampled_from(["share", "open", "closed"]),
)
budgets = st.lists(
    st.builds(
        BudgetForm,
        unit=st.sampled_from(["tokens", "USD"]),
        period=st.just("never"),
        amount=st.one_of(st.none(), st.integers(0, 9)),
    ),
    max_size=2,
    unique_by=lambda budget: budget.unit,
).map(tuple)
plans = st.builds(
    PlanTerms,
    id=st.sampled_from(["p", "q"]),
    priority=st.sampled_from(["low", "normal", "high"]),
    models=patterns,
    endpoints=patterns,
    limits=limits,
    budgets=budgets,
)


@st.composite
def levels(draw: st.DrawFn) -> list[Level]:
    scopes: list[Scope] = ["key", "user", "team", "organization"]
    return [
        Level(scope, "x", draw(patterns), draw(patterns), draw(limits), draw(budgets), draw(st.none() | plans))
        for scope in scopes
    ]


def allows(some: Patterns | None, name: str) -> bool:
    return some is not None and allowed(name, some)


@given(levels(), st.sampled_from(["low", "normal", "high", None]), st.sampled_from(["none", "quota", "prepaid"]))
def test_a_childs_rights_are_a_part_of_its_parents(chain: list[Level], priority: object, billing: object) -> None:
    for cut in range(1, len(chain)):
        child = merge(chain, priority=priority, billing=billing, currency="USD")  # type: ignore[arg-type]
        parent = merge(chain[cut:], priority=None, billing="none", currency="USD")
        for name in NAMES:
            assert allows(parent.models, name) or not allows(child.models, name)
            assert allows(parent.endpoints, name) or not allows(child.endpoints, name)
        assert set(parent.limits) <= set(child.limits), "a limit of a parent holds for the child"
        assert set(parent.budgets) <= set(child.budgets), "a budget of a parent holds for the child"
        if any(level.plan for level in chain[cut:]):
            assert RANK[child.priority] <= RANK[parent.priority]


@given(levels())
def test_budgets_come_in_the_order_of_the_levels_and_each_account_once(chain: list[Level]) -> None:
    found = merge(chain, priority=None, billing="quota", currency="USD").budgets
    order = [budget.account.partition(":")[0] for budget in found]
    assert order == sorted(order, key=["key", "user", "team", "organization"].index)
    assert len({budget.account for budget in found}) == len(found)


def test_the_control_a_merge_that_forgets_a_level_is_seen() -> None:
    chain = [Level("key", "k"), Level("organization", "o", models=("a",))]
    forgetful = merge(chain[:1], priority=None, billing="none", currency="USD")
    assert allows(forgetful.models, "b")
    assert not allows(merge(chain, priority=None, billing="none", currency="USD").models, "b")


@dataclass
class Mode:
    billing: str
    own: tuple[BudgetForm, ...]
    expected: tuple[Budget, ...]


TEN = BudgetForm(unit="tokens", period="daily", amount=10)
OF_KEY = Budget("key:k/tokens/daily", "tokens", "daily", 10)
OF_ORGANIZATION = Budget("organization:o/tokens/daily", "tokens", "daily", 10)
PREPAID = Budget("key:k/USD/never", "USD", "never", None)
ZERO = Budget("key:k/tokens/never", "tokens", "never", 0)


@pytest.mark.parametrize(
    "mode",
    [
        Mode("none", (TEN,), (OF_ORGANIZATION,)),
        Mode("quota", (TEN,), (OF_KEY, OF_ORGANIZATION)),
        Mode("quota", (), (ZERO, OF_ORGANIZATION)),
        Mode("prepaid", (), (PREPAID, OF_ORGANIZATION)),
        Mode("prepaid", (TEN,), (OF_KEY, PREPAID, OF_ORGANIZATION)),
    ],
    ids=lambda mode: f"{mode.billing}-{len(mode.own)}",
)
def test_a_billing_mode_says_which_accounts_of_the_key_count(mode: Mode) -> None:
    chain = [Level("key", "k", budgets=mode.own), Level("organization", "o", budgets=(TEN,))]
    found = merge(chain, priority=None, billing=mode.billing, currency="USD")  # type: ignore[arg-type]
    assert found.budgets == mode.expected


def test_the_budgets_of_a_keys_plan_count_in_every_mode() -> None:
    for billing in ("none", "quota", "prepaid"):
        chain = [Level("key", "k", plan=PlanTerms("p", budgets=(TEN,)))]
        found = merge(chain, priority=None, billing=billing, currency="USD")  # type: ignore[arg-type]
        assert OF_KEY in found.budgets
        assert (PREPAID in found.budgets) == (billing == "prepaid")


def test_of_two_limits_of_one_holder_the_smaller_holds() -> None:
    own = LimitSettings(requests_per_minute=10, tokens_per_day=5, on_store_down="open")
    plan = PlanTerms("p", limits=LimitSettings(requests_per_minute=7, max_concurrent=2, on_store_down="closed"))
    assert limits_of(Level("team", "t", limits=own, plan=plan)) == (
        Limit("team:t", "requests", 7, 60, 0, "closed"),
        Limit("team:t", "tokens", 5, 86400, 0, "open"),
        Limit("team:t", "concurrent", 2, 0, 0, "closed"),
    )


def test_a_rate_is_a_bucket_of_twice_a_second_unless_said() -> None:
    level = Level("key", "k", limits=LimitSettings(requests_per_second=5))
    assert limits_of(level) == (Limit("key:k", "requests", 5, 1, 10),)
    assert limits_of(Level("key", "k", limits=LimitSettings(requests_per_second=5, enabled=False))) == ()


def test_of_two_budgets_for_one_account_the_smaller_holds() -> None:
    plan = PlanTerms("p", budgets=(BudgetForm(unit="tokens", period="daily", amount=3),))
    assert [b.limit for b in budgets_of(Level("user", "u", budgets=(TEN,), plan=plan))] == [3]


@pytest.mark.requirement("A100")
def test_the_priority_is_the_lowest_of_key_and_plans() -> None:
    def of(own: object, *classes: str) -> tuple[str, str]:
        chain = [
            Level("user", str(n), plan=PlanTerms(f"p{n}", priority=name))  # type: ignore[arg-type]
            for n, name in enumerate(classes)
        ]
        found = merge(chain, priority=own, billing="none", currency="USD")  # type: ignore[arg-type]
        return found.priority, found.plan

    assert of(None) == ("normal", "")
    assert of("high") == ("high", "")
    assert of(None, "high") == ("high", "p0")
    assert of("high", "low", "high") == ("low", "p0")
