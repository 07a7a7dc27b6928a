from tests.support.fakes import make_job
from tests.support.memory import alive
from zuebee.config.settings_base import LimitSettings, RateLimitSettings
from zuebee.contracts.admission import Caller, Limit, Principal
from zuebee.limits.buckets import LEASE_S
from zuebee.limits.plans import MAX_PLANS, LimitPlan, PlanBook, TakenPermit

CALLER = Caller("POST", "/v1/chat/completions", {}, "10.0.0.1")
KEY = Principal("k")


def book(**scopes: LimitSettings) -> PlanBook:
    return PlanBook(RateLimitSettings(**(scopes or {"per_key": LimitSettings(max_concurrent=2)})))  # type: ignore[arg-type]


def test_a_plan_is_remembered_for_its_principal() -> None:
    target = book()
    plan = target.plan_of(CALLER, KEY, make_job())
    assert target.plan_of(CALLER, KEY, make_job(model="other")) is plan
    again = target.plan_of(CALLER, Principal("k"), make_job())
    assert again is not plan
    assert again.rules[0].counter is plan.rules[0].counter


def test_a_plan_depends_on_model_and_address_only_where_limits_do() -> None:
    target = book(per_model=LimitSettings(max_concurrent=2), per_address=LimitSettings(max_concurrent=2))
    plan = target.plan_of(CALLER, KEY, make_job(model="a"))
    assert target.plan_of(CALLER, KEY, make_job(model="b")) is not plan
    assert target.plan_of(Caller("POST", CALLER.route, {}, "10.0.0.2"), KEY, make_job(model="a")) is not plan


def test_plans_are_bounded() -> None:
    before, target = alive(LimitPlan), book()
    for number in range(MAX_PLANS + 10):
        target.plan_of(CALLER, Principal(f"{number % 7}"), make_job()).admitted += 1
    assert alive(LimitPlan) <= before + MAX_PLANS + 1
    assert dict(target.decisions()) == {("key", "concurrent", "admitted"): MAX_PLANS + 10}


def test_a_share_may_be_less_or_nothing() -> None:
    settings = RateLimitSettings(per_key=LimitSettings(max_concurrent=9, requests_per_minute=5))
    target = PlanBook(settings, lambda limit: None if limit.kind == "requests" else Limit("key:k", "concurrent", 1))
    plan = target.plan_of(CALLER, KEY, make_job())
    assert len(plan.limits) == 2
    assert [rule.limit.amount for rule in plan.rules] == [1]


def test_places_are_held_until_freed_once_or_forgotten() -> None:
    target = book()
    plan = target.plan_of(CALLER, KEY, make_job())
    permits = []
    for _ in range(2):
        assert plan.take(0, 0.0) is None
        permits.append(TakenPermit(plan, 0, 0.0))
        target.hold(permits[-1])
    assert dict(target.slots()) == {("key",): 2}
    target.free(permits[0])
    target.free(permits[0])
    assert plan.at_once[0].counter.count == 1
    target.attend(LEASE_S - 1)
    assert dict(target.slots()) == {("key",): 1}
    target.attend(LEASE_S)
    assert dict(target.slots()) == {}
    assert plan.at_once[0].counter.count == 0


def test_refusals_are_counted() -> None:
    target = book()
    target.refused(Limit("key:k", "concurrent", 2))
    target.refused(Limit("what:ever", "tokens", 2, 60))
    assert dict(target.decisions()) == {("key", "concurrent", "refused"): 1, ("other", "tokens", "refused"): 1}
