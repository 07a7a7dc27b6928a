"""Places that are taken before a body is read: counted once, taken over in one moment, given back at every end."""

import asyncio
import random
from collections.abc import Callable

import pytest

from tests.support.fakes import VirtualTime, make_job, until
from tests.unit.limits.test_redis_limiter import FakeRedis
from zuebee.config.settings_base import LimitSettings, RateLimitSettings
from zuebee.contracts.admission import Caller, Limit, Permit, Principal
from zuebee.contracts.errors import Refusal
from zuebee.limits.buckets import LEASE_S
from zuebee.limits.plans import TakenPermit
from zuebee.limits.redis_limiter import RedisLimiter
from zuebee.limits.service import MemoryLimiter

KEY = Principal("k", "n", "u", "t", "o")
CALLER = Caller("POST", "/v1/chat/completions", {}, "10.0.0.1")
AT_ONCE = LimitSettings(max_concurrent=2)

Limiter = MemoryLimiter | RedisLimiter


def in_memory(settings: RateLimitSettings) -> MemoryLimiter:
    return MemoryLimiter(settings)


def in_redis(settings: RateLimitSettings, redis: FakeRedis | None = None) -> RedisLimiter:
    return RedisLimiter(settings, redis or FakeRedis(), prefix="p:")  # type: ignore[arg-type]


async def enter(limiter: Limiter, caller: Caller = CALLER, principal: Principal = KEY) -> Permit | Refusal | None:
    return await limiter.enter(caller, principal)


async def acquire(limiter: Limiter, early: Permit | Refusal | None, model: str = "m") -> Permit | Refusal:
    assert not isinstance(early, Refusal)
    return await limiter.acquire(CALLER, KEY, make_job(model=model, early=early), 5)


def slots(limiter: Limiter) -> dict[tuple[str, ...], float]:
    return dict(limiter.slots())


SCOPES = ["everyone", "per_organization", "per_team", "per_user", "per_key", "per_path", "per_address"]


@pytest.mark.parametrize("scope", SCOPES)
async def test_each_scope_that_the_body_does_not_decide_about_counts(scope: str) -> None:
    limiter = MemoryLimiter(RateLimitSettings(**{scope: AT_ONCE}))  # type: ignore[arg-type]
    early = [await enter(limiter), await enter(limiter)]
    refused = await enter(limiter)
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code) == (429, "concurrent_limit_exceeded")
    assert sum(slots(limiter).values()) == 2
    for each in early:
        assert each is not None
        assert not isinstance(each, Refusal)
        limiter.release(each, None)
        limiter.release(each, None)
    assert slots(limiter) == {}


async def test_a_limit_of_models_or_of_rates_is_none_of_them() -> None:
    limiter = MemoryLimiter(RateLimitSettings(per_model=AT_ONCE, per_key=LimitSettings(requests_per_minute=1)))
    assert await enter(limiter) is None
    limited = Principal("k", limits=(Limit("model:m", "concurrent", 1), Limit("key:k", "requests", 1, 60)))
    assert await enter(limiter, principal=limited) is None


@pytest.mark.parametrize("make", [in_memory, in_redis])
async def test_a_place_is_taken_over_and_counts_once(make: Callable[[RateLimitSettings], Limiter]) -> None:
    limiter = make(RateLimitSettings(storage="redis" if make is in_redis else "memory", per_key=AT_ONCE))
    early = await enter(limiter)
    assert slots(limiter) == {("key",): 1}
    permit = await acquire(limiter, early)
    assert not isinstance(permit, Refusal)
    assert slots(limiter) == {("key",): 1}
    assert early is not None
    assert not isinstance(early, Refusal)
    limiter.release(early, None)  # as its settlement does
    assert slots(limiter) == {("key",): 1}
    limiter.release(permit, 3)
    assert slots(limiter) == {}
    await limiter.aclose()


async def test_the_last_place_is_not_refused_to_whoever_has_it() -> None:
    limiter = MemoryLimiter(RateLimitSettings(per_key=LimitSettings(max_concurrent=1)))
    assert not isinstance(await acquire(limiter, await enter(limiter)), Refusal)


async def test_a_refusal_for_something_else_leaves_nothing() -> None:
    rates = LimitSettings(max_concurrent=1, requests_per_minute=1)
    limiter = MemoryLimiter(RateLimitSettings(per_key=rates))
    first = await acquire(limiter, await enter(limiter))
    assert not isinstance(first, Refusal)
    limiter.release(first, None)
    early = await enter(limiter)
    refused = await acquire(limiter, early)
    assert isinstance(refused, Refusal)
    assert refused.code == "rate_limit_exceeded"
    assert early is not None
    assert not isinstance(early, Refusal)
    limiter.release(early, None)
    assert slots(limiter) == {}


async def test_it_lives_as_long_as_it_is_attended_to(virtual_time: VirtualTime) -> None:
    limiter = MemoryLimiter(RateLimitSettings(per_key=LimitSettings(max_concurrent=1)))
    early = await enter(limiter)
    assert early is not None
    assert not isinstance(early, Refusal)
    for _ in range(3):
        virtual_time.advance(LEASE_S - 1)
        await limiter.attend([early])
        assert isinstance(await enter(limiter), Refusal)
    virtual_time.advance(LEASE_S + 1)
    await limiter.attend([])
    assert not isinstance(await enter(limiter), Refusal)


async def test_other_limits_meanwhile_change_nothing_that_is_held() -> None:
    limiter = MemoryLimiter(RateLimitSettings(per_key=LimitSettings(max_concurrent=2)))
    early = [await enter(limiter), await enter(limiter)]
    limiter.apply(RateLimitSettings(per_key=LimitSettings(max_concurrent=1), per_user=LimitSettings(max_concurrent=5)))
    assert isinstance(await enter(limiter), Refusal)
    assert isinstance(await acquire(limiter, early[0]), Refusal), "one is too many now"
    permit = await acquire(limiter, early[1])
    assert not isinstance(permit, Refusal)
    limiter.release(permit, None)
    assert slots(limiter) == {}


@pytest.mark.parametrize("seed", range(30))
async def test_any_order_keeps_the_limit_and_ends_at_nothing(seed: int) -> None:
    choose = random.Random(seed)
    rates = LimitSettings(max_concurrent=3, requests_per_minute=choose.choice((0, 20)))
    limiter = MemoryLimiter(RateLimitSettings(per_key=rates, per_model=LimitSettings(max_concurrent=2)))
    early: list[TakenPermit] = []
    permits: list[Permit] = []
    for _ in range(200):
        step = choose.randrange(4)
        if step == 0 and isinstance(taken := await enter(limiter), TakenPermit):
            early.append(taken)
        elif step == 1 and early:
            taken = early.pop(choose.randrange(len(early)))
            permit = await acquire(limiter, taken, choose.choice("ab"))  # type: ignore[arg-type]
            if not isinstance(permit, Refusal):
                permits.append(permit)
            limiter.release(taken, None)  # type: ignore[arg-type]
        elif step == 2 and permits:
            limiter.release(permits.pop(choose.randrange(len(permits))), 5)
        elif early and choose.random() < 0.3:
            limiter.release(early.pop(), None)  # type: ignore[arg-type]
        assert slots(limiter).get(("key",), 0) == len(early) + len(permits) <= 3
    for permit in [*early, *permits]:
        limiter.release(permit, 0)  # type: ignore[arg-type]
    assert slots(limiter) == {}


# --- in Redis ---


async def test_redis_gives_up_the_early_place_and_takes_the_other_in_one_call() -> None:
    fake = FakeRedis()
    limiter = in_redis(RateLimitSettings(storage="redis", per_key=AT_ONCE), fake)
    permit = await acquire(limiter, await enter(limiter))
    assert [[operation[0] for operation in call] for call in fake.calls] == [[1], [2, 1]]
    (_, first, *_), (_, second, *_) = fake.said(1)
    assert [operation[1] for operation in fake.said(2)] == [first]
    assert not isinstance(permit, Refusal)
    limiter.release(permit, 1)
    await until(lambda: len(fake.said(2)) == 2)
    assert [operation[1] for operation in fake.said(2)] == [first, second]
    await limiter.aclose()


async def test_without_redis_the_share_counts_it_once() -> None:
    fake = FakeRedis()
    limiter = in_redis(RateLimitSettings(storage="redis", per_key=LimitSettings(max_concurrent=1)), fake)
    early = await enter(limiter)
    fake.down = True
    permit = await acquire(limiter, early)
    assert not isinstance(permit, Refusal)
    assert isinstance(await enter(limiter), Refusal)
    limiter.release(permit, 1)
    assert slots(limiter) == {}
    await limiter.aclose()


async def test_who_leaves_while_redis_is_asked_leaves_nothing() -> None:
    fake = FakeRedis()
    limiter = in_redis(RateLimitSettings(storage="redis", per_key=AT_ONCE), fake)
    early = await enter(limiter)
    fake.gate.clear()
    asked = asyncio.ensure_future(acquire(limiter, early))
    await until(lambda: len(fake.calls) == 2)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert early is not None
    assert not isinstance(early, Refusal)
    limiter.release(early, None)
    fake.gate.set()
    leases = {operation[1] for operation in fake.said(1)}
    await until(lambda: {operation[1] for operation in fake.said(2)} == leases)
    assert slots(limiter) == {}
    await limiter.aclose()
