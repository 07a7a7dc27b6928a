from zuebee.contracts.admission import Limit
from zuebee.limits.plans import AtOnce, BucketAmount, Counters, ExactRequests, SlottedAmount

EXACT = Limit("key:k", "requests", 5, 60)
HOURLY = Limit("key:k", "requests", 50, 3600)
TOKENS = Limit("key:k", "tokens", 100, 60)
BUCKET = Limit("key:k", "requests", 10, 1, 20)
AT_ONCE = Limit("key:k", "concurrent", 2)


def test_each_limit_gets_the_counter_that_suits_it() -> None:
    limits = (EXACT, HOURLY, TOKENS, BUCKET, AT_ONCE)
    plan = Counters().plan(limits, limits, None)
    assert [type(rule) for rule in plan.rules] == [ExactRequests, SlottedAmount, SlottedAmount, BucketAmount, AtOnce]
    assert [rule.limit for rule in plan.tokens] == [TOKENS]
    assert [rule.limit for rule in plan.at_once] == [AT_ONCE]
    assert len(plan.timed) == 4


def test_limits_of_one_subject_share_a_counter_whatever_their_amount() -> None:
    counters = Counters()
    one = counters.plan([EXACT], [EXACT], None)
    other = counters.plan([EXACT], [Limit("key:k", "requests", 3, 60)], None)
    assert len(counters) == 1
    for _ in range(3):
        assert one.take(0, 0.0) is None
    assert other.take(0, 0.0) is not None
    assert one.take(0, 0.0) is None
    large = counters.plan([EXACT], [Limit("key:k", "requests", 50_000, 60)], None)
    assert counters.replaced == 1
    assert dict(large.headers(0.0))[b"x-ratelimit-remaining-requests"] == b"49996"


def test_all_or_none_and_the_longest_wait_is_told() -> None:
    plan = Counters().plan((), (EXACT, TOKENS, AT_ONCE), None)
    assert plan.take(90, 0.0) is None
    assert plan.take(90, 10.0) is not None
    limit, refusal = plan.refusal(90, 10.0)
    assert limit is TOKENS
    assert refusal.retry_after_s is not None
    assert 50 <= refusal.retry_after_s <= 52
    assert [state.remaining for state in (rule.state(10.0) for rule in plan.timed)] == [4, 10]
    assert plan.at_once[0].counter.count == 1
    assert plan.take(10, 10.0) is None
    assert plan.refusal(0, 10.0)[0] is AT_ONCE


def test_buckets_of_tokens_are_corrected() -> None:
    limit = Limit("key:k", "tokens", 100, 60, 200)
    plan = Counters().plan((), [limit], None)
    assert plan.take(150, 0.0) is None
    plan.tokens[0].settle(plan.marks()[0], 150, 50, 0.0)
    assert plan.take(150, 0.0) is None
    assert plan.take(10, 0.0) is not None


def test_counters_at_nothing_are_let_go_of() -> None:
    counters = Counters()
    plan = counters.plan((), (EXACT, TOKENS, BUCKET, AT_ONCE), None)
    assert plan.take(10, 0.0) is None
    for now_s, left in ((0.05, 4), (1.0, 3), (100.0, 1)):
        counters.sweep(now_s)
        counters.sweep(now_s)
        counters.sweep(now_s)
        assert len(counters) == left, now_s
