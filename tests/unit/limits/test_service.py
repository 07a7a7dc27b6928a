import asyncio
from typing import Any

import pytest

from tests.support.fakes import VirtualTime, make_job, told
from zuebee.config.settings_base import AbuseSettings, LimitSettings, PriorityLimitSettings, RateLimitSettings
from zuebee.contracts.admission import ANONYMOUS, Caller, Limit, Permit, Principal
from zuebee.contracts.errors import Refusal
from zuebee.limits.buckets import LEASE_S
from zuebee.limits.service import MemoryLimiter

KEY = Principal("k", "n", "u")


def limiter(**per_key: Any) -> MemoryLimiter:
    return MemoryLimiter(RateLimitSettings(per_key=LimitSettings(**per_key)))


def caller(address: str = "10.0.0.1", route: str = "/v1/chat/completions") -> Caller:
    return Caller("POST", route, {}, address)


async def ask(
    target: MemoryLimiter, principal: Principal = KEY, tokens: int = 0, *, model: str = "m", address: str = "10.0.0.1"
) -> Permit | Refusal:
    return await target.acquire(caller(address), principal, make_job(model=model), tokens)


async def permit(target: MemoryLimiter, principal: Principal = KEY, tokens: int = 0, **more: str) -> Permit:
    taken = await ask(target, principal, tokens, **more)
    assert not isinstance(taken, Refusal), taken
    return taken


async def refusal(target: MemoryLimiter, principal: Principal = KEY, tokens: int = 0, **more: str) -> Refusal:
    refused = await ask(target, principal, tokens, **more)
    assert isinstance(refused, Refusal)
    return refused


@pytest.mark.requirement("A090")
async def test_sixty_a_minute(virtual_time: VirtualTime) -> None:
    target = limiter(requests_per_minute=60)
    for _ in range(60):
        target.release(await permit(target), None)
    virtual_time.advance(20)
    refused = await refusal(target)
    assert (refused.status, refused.code, refused.retry_after_s) == (429, "rate_limit_exceeded", 40.0)
    assert refused.should_retry
    virtual_time.advance(40)
    await permit(target)


@pytest.mark.requirement("A091")
async def test_three_at_once(virtual_time: VirtualTime) -> None:
    target = limiter(max_concurrent=3)
    permits = [await permit(target) for _ in range(3)]
    assert (await refusal(target)).code == "concurrent_limit_exceeded"
    await permit(target, Principal("other"))
    target.release(permits[0], None)
    target.release(permits[0], None)  # giving back twice frees one place
    await permit(target)
    assert (await refusal(target)).code == "concurrent_limit_exceeded"


async def test_a_refused_request_takes_nothing(virtual_time: VirtualTime) -> None:
    """In each order of the rules: what came before the rule that refuses is as it was."""
    for tight in ("concurrent", "requests", "tokens", "bucket"):
        virtual_time.advance(1000)
        amounts = dict.fromkeys(("concurrent", "requests", "tokens", "bucket"), 100) | {tight: 2}
        target = MemoryLimiter(RateLimitSettings(everyone=LimitSettings(max_concurrent=100, tokens_per_hour=10**6)))
        principal = Principal(
            "k",
            limits=(
                Limit("key:k", "requests", amounts["requests"], 60),
                Limit("key:k", "requests", amounts["bucket"], 1, amounts["bucket"]),
                Limit("key:k", "tokens", amounts["tokens"], 60),
                Limit("key:k", "concurrent", amounts["concurrent"]),
                Limit("user:u", "requests", 100, 3600),
            ),
        )
        permits = [await permit(target, principal, 1) for _ in range(2)]
        before = [told(rule.state(1e9)) if rule.limit.burst else None for rule in permits[0].plan.timed]  # type: ignore[attr-defined]
        now = permits[0].headers()
        for _ in range(500):
            await refusal(target, principal, 1)
        assert permits[0].headers() == now
        assert before == [told(rule.state(1e9)) if rule.limit.burst else None for rule in permits[0].plan.timed]  # type: ignore[attr-defined]
        assert dict(target.slots()) == {("global",): 2, ("key",): 2}


async def test_tokens_are_charged_before_and_corrected_after(virtual_time: VirtualTime) -> None:
    target = limiter(tokens_per_minute=100)
    first = await permit(target, tokens=60)
    assert (await refusal(target, tokens=60)).code == "token_rate_limit_exceeded"
    target.release(first, 10)
    second = await permit(target, tokens=60)
    target.release(second, None)
    third = await permit(target, tokens=90)
    virtual_time.advance(30)
    target.release(third, 500)  # it used more than there is: nothing fits until that has passed
    virtual_time.advance(35)
    wait_s = (await refusal(target, tokens=1)).retry_after_s
    assert wait_s is not None
    assert 20 < wait_s <= 27
    virtual_time.advance(wait_s)
    await permit(target, tokens=100)


async def test_the_first_request_is_not_refused_for_being_large(virtual_time: VirtualTime) -> None:
    target = limiter(tokens_per_minute=100)
    first = await permit(target, tokens=4000)
    assert (await refusal(target, tokens=1)).code == "token_rate_limit_exceeded"
    target.release(first, 30)
    await permit(target, tokens=70)
    refused = await refusal(target, tokens=4000)
    assert "counts as 100" in refused.message


async def test_at_so_many_a_second(virtual_time: VirtualTime) -> None:
    target = limiter(requests_per_second=2, burst_size=3)
    for _ in range(3):
        await permit(target)
    assert (await refusal(target)).retry_after_s == pytest.approx(0.5)
    virtual_time.advance(0.51)
    await permit(target)


@pytest.mark.requirement("A083")
async def test_the_lower_class_is_limited_first(virtual_time: VirtualTime) -> None:
    classes = PriorityLimitSettings(
        low=LimitSettings(requests_per_minute=2),
        normal=LimitSettings(requests_per_minute=5),
        high=LimitSettings(requests_per_minute=9),
    )
    target = MemoryLimiter(RateLimitSettings(per_priority=classes))
    admitted = {"low": 0, "normal": 0, "high": 0}
    for _ in range(20):
        for number, priority in enumerate(admitted):
            principal = Principal(f"{number}", priority=priority)  # type: ignore[arg-type]
            admitted[priority] += not isinstance(await ask(target, principal), Refusal)
    assert admitted == {"low": 2, "normal": 5, "high": 9}


@pytest.mark.requirement("A088")
async def test_a_greedy_client_leaves_others_their_share(virtual_time: VirtualTime) -> None:
    """Six places, three for each user: one asks for all of them all the time, the other now and then."""
    settings = RateLimitSettings(
        everyone=LimitSettings(max_concurrent=6), per_user=LimitSettings(max_concurrent=3, requests_per_minute=100)
    )
    target = MemoryLimiter(settings)
    keys = [Principal(f"greedy{number}", user_id="greedy") for number in range(10)]
    modest = Principal("m", user_id="modest")
    served = {"greedy": 0, "modest": 0}
    for _ in range(30):
        held = [taken for key in keys if not isinstance(taken := await ask(target, key), Refusal)]
        theirs = [await permit(target, modest) for _ in range(3)]
        assert len(held) == 3
        served["greedy"] += len(held)
        served["modest"] += len(theirs)
        for each in (*held, *theirs):
            target.release(each, 1)
        virtual_time.advance(2)
    assert served == {"greedy": 90, "modest": 90}


@pytest.mark.requirement("A087")
async def test_callers_without_a_key_are_held_shorter() -> None:
    anonymous = LimitSettings(requests_per_minute=2)
    target = MemoryLimiter(RateLimitSettings(per_address=LimitSettings(requests_per_minute=10), anonymous=anonymous))
    for _ in range(2):
        await permit(target, ANONYMOUS)
    assert (await refusal(target, ANONYMOUS)).message.startswith("Rate limit reached for callers without a key")
    await permit(target, ANONYMOUS, address="10.0.0.2")
    for _ in range(8):
        await permit(target, KEY)
    assert "this address" in (await refusal(target, KEY)).message


async def test_models_and_paths_have_counters_of_their_own() -> None:
    one = LimitSettings(requests_per_minute=1)
    target = MemoryLimiter(RateLimitSettings(per_model=one))
    await permit(target, model="a")
    await permit(target, model="b")
    assert "this model" in (await refusal(target, Principal("other"), model="a")).message
    target = MemoryLimiter(RateLimitSettings(per_path=one))
    await permit(target)
    assert "this endpoint" in (await refusal(target, model="b")).message


@pytest.mark.requirement("A078")
@pytest.mark.parametrize("size", [200])
async def test_of_two_hundred_at_once_exactly_those_that_fit(size: int) -> None:
    target = limiter(max_concurrent=17, requests_per_minute=1000, tokens_per_minute=16 * 50)
    found = await asyncio.gather(*(ask(target, tokens=50) for _ in range(size)))
    permits = [each for each in found if not isinstance(each, Refusal)]
    assert len(permits) == 16
    for each in permits:
        target.release(each, 50)
    assert dict(target.slots()) == {}
    assert dict(target.decisions())["key", "concurrent", "admitted"] == 16
    assert sum(count for (_, _, decision), count in target.decisions() if decision == "refused") == size - 16


@pytest.mark.requirement("A091")
async def test_a_place_that_nobody_renews_is_free_again(virtual_time: VirtualTime) -> None:
    target = limiter(max_concurrent=2)
    lost, kept = await permit(target), await permit(target)
    for _ in range(int(LEASE_S)):
        virtual_time.advance(1)
        await target.attend([kept])
    taken = await permit(target)
    assert (await refusal(target)).code == "concurrent_limit_exceeded"
    target.release(lost, 1)  # late: nothing is freed twice
    assert (await refusal(target)).code == "concurrent_limit_exceeded"
    target.release(kept, 1)
    target.release(taken, 1)
    assert dict(target.slots()) == {}


async def test_other_limits_keep_the_counts(virtual_time: VirtualTime) -> None:
    target = limiter(requests_per_minute=60, max_concurrent=50)
    permits = [await permit(target) for _ in range(40)]
    target.apply(RateLimitSettings(per_key=LimitSettings(requests_per_minute=41, max_concurrent=50)))
    await permit(target)
    assert (await refusal(target)).code == "rate_limit_exceeded"
    target.apply(RateLimitSettings(per_key=LimitSettings(requests_per_minute=20_000, max_concurrent=42)))
    held = await permit(target)
    assert dict(held.headers())[b"x-ratelimit-remaining-requests"] == b"%d" % (20_000 - 42)
    assert (await refusal(target)).code == "concurrent_limit_exceeded"
    for each in permits:
        target.release(each, 1)
    assert dict(target.slots()) == {("key",): 2}
    target.apply(RateLimitSettings(enabled=False))
    for _ in range(100):
        await permit(target)


async def test_users_with_different_limits_share_a_counter() -> None:
    target = limiter()
    small = Principal("a", limits=(Limit("user:u", "requests", 10, 60),))
    large = Principal("b", limits=(Limit("user:u", "requests", 20_000, 60),))
    for _ in range(4):
        await permit(target, small)
    for _ in range(3):  # now the counter keeps amounts instead of times
        await permit(target, large)
    for _ in range(3):
        await permit(target, small)
    assert (await refusal(target, small)).code == "rate_limit_exceeded"
    await permit(target, large)


@pytest.mark.slow
async def test_idle_counters_are_let_go_of(virtual_time: VirtualTime) -> None:
    target = MemoryLimiter(RateLimitSettings(per_address=LimitSettings(requests_per_minute=5, max_concurrent=5)))
    running = await permit(target, address="10.9.9.9")
    for number in range(3000):
        target.release(await permit(target, address=f"10.0.{number >> 8}.{number & 255}"), 1)
    assert list(target.counters()) == [((), 6002.0)]
    virtual_time.advance(100)
    for _ in range(20):
        await target.attend([running])
    assert list(target.counters()) == [((), 1.0)], "only the slot that is held"
    for _ in range(4):
        await permit(target, address="10.9.9.9")
    assert (await refusal(target, address="10.9.9.9")).code == "concurrent_limit_exceeded"


async def test_invented_names_share_a_counter_when_there_are_too_many() -> None:
    scopes = {"per_model": LimitSettings(requests_per_minute=5), "per_key": LimitSettings(requests_per_minute=9)}
    target = MemoryLimiter(RateLimitSettings(**scopes), max_counters=100)  # type: ignore[arg-type]
    found = [await ask(target, Principal(f"{number}"), model=f"m{number}") for number in range(300)]
    assert sum(isinstance(each, Refusal) for each in found) > 90
    await permit(target, Principal("new"), model="m1")


async def test_a_late_correction_counts_though_the_counter_was_let_go_of(virtual_time: VirtualTime) -> None:
    target = limiter(tokens_per_minute=100)
    slow = await permit(target, tokens=10)
    virtual_time.advance(100)
    for _ in range(3):
        await target.attend([slow])
    assert list(target.counters()) == [((), 0.0)]
    target.release(slow, 10 + 100)
    assert (await refusal(target, tokens=1)).code == "token_rate_limit_exceeded"


async def test_without_limits_nothing_is_refused() -> None:
    target = MemoryLimiter(RateLimitSettings())
    for _ in range(500):
        taken = await permit(target, ANONYMOUS, 10**9)
        assert taken.headers() == []
        target.release(taken, None)
    assert list(target.counters()) == [((), 0.0)]
    assert not target.degraded


@pytest.mark.requirement("A087")
async def test_repeated_failures_are_left_standing(virtual_time: VirtualTime) -> None:
    target = MemoryLimiter(RateLimitSettings(abuse=AbuseSettings(max_failures=5)))
    for _ in range(5):
        assert target.blocked("10.0.0.1") is None
        target.failed("10.0.0.1")
    assert target.blocked("10.0.0.1") is not None
    assert list(target.blocked_addresses()) == [((), 1.0)]
    virtual_time.advance(60)
    assert target.blocked("10.0.0.1") is None
    assert list(target.without_store()) == [((), 0.0)]
