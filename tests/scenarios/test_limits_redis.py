"""Limiters of many processes on one real Redis: exact together, and honest while it is slow, gone or emptied."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.fakes import make_job, until
from tests.support.redis_server import RedisServer, new_prefix, redis_server
from zuebee.config.settings_base import LimitSettings, RateLimitSettings
from zuebee.contracts.admission import Caller, Limit, Permit, Principal
from zuebee.contracts.errors import Refusal
from zuebee.lib.redis import RedisClient
from zuebee.limits.redis_limiter import BOUNDS, RedisBounds, RedisLimiter, RemotePermit

CALLER = Caller("POST", "/v1/chat/completions", {}, "10.0.0.1")
KEY = Principal("k")
BREAKER_S = 0.2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@asynccontextmanager
async def limiters(
    url: str,
    count: int = 1,
    prefix: str = "",
    timeout_s: float = 0.1,
    processes: int = 1,
    bounds: RedisBounds = BOUNDS,
    **per_key: Any,
) -> AsyncIterator[list[RedisLimiter]]:
    settings = RateLimitSettings(storage="redis", processes=processes, per_key=LimitSettings(**per_key))
    prefix = prefix or new_prefix()
    made = [
        RedisLimiter(
            settings, RedisClient(url, timeout_s=timeout_s, retry_after_s=BREAKER_S), prefix=prefix, bounds=bounds
        )
        for _ in range(count)
    ]
    try:
        yield made
    finally:
        for each in made:
            await each.aclose()


async def ask(limiter: RedisLimiter, principal: Principal = KEY, tokens: int = 0) -> Permit | Refusal:
    return await limiter.acquire(CALLER, principal, make_job(), tokens)


async def crowd(made: list[RedisLimiter], size: int, tokens: int = 0) -> list[tuple[RedisLimiter, Permit]]:
    """So many at once, spread over the limiters: those that were let in."""
    asked = [made[number % len(made)] for number in range(size)]
    found = await asyncio.gather(*(ask(each, tokens=tokens) for each in asked))
    return [(each, place) for each, place in zip(asked, found, strict=True) if not isinstance(place, Refusal)]


def running(server: RedisServer) -> int:
    """All leases in Redis."""
    client = server.client()
    return sum(int(client.zcard(key)) for key in client.keys("*concurrent*"))


def tokens(server: RedisServer, prefix: str = "") -> list[int]:
    """What each budget of tokens in Redis has been charged."""
    client = server.client()
    return [int(client.hget(key, "t")) for key in client.keys(f"{prefix}*tokens*")]


@pytest.mark.requirement("A084", "A078")
@pytest.mark.parametrize("processes", [1, 3])
async def test_of_two_hundred_at_once_exactly_those_that_fit(server: RedisServer, processes: int) -> None:
    async with limiters(server.url, processes, timeout_s=2, max_concurrent=17, requests_per_minute=100) as made:
        for expected in (17, 17, 17, 17, 17, 15, 0):
            places = await crowd(made, 200)
            assert len(places) == expected
            for limiter, place in places:
                limiter.release(place, 1)
            await until(lambda: running(server) == 0)
        assert not any(limiter.degraded for limiter in made)


@pytest.mark.requirement("A084")
async def test_tokens_are_one_budget(server: RedisServer) -> None:
    prefix = new_prefix()
    async with limiters(server.url, 3, prefix, timeout_s=2, tokens_per_minute=1000) as made:
        places = await crowd(made, 200, tokens=30)
        assert len(places) == 33
        for limiter, place in places:
            limiter.release(place, 10)  # 330 are used, 670 are left
        await until(lambda: tokens(server, prefix) == [330])
        assert len(await crowd(made, 200, tokens=30)) == 22


async def careless_take(client: RedisClient, key: str, limit: int) -> bool:
    """The control: what is read and what is written are two steps."""
    used = int(await client.call("GET", key) or 0)
    if used >= limit:
        return False
    await client.call("INCR", key)
    return True


async def test_a_limiter_in_two_steps_is_seen_to_let_in_too_many(server: RedisServer) -> None:
    clients = [RedisClient(server.url, timeout_s=2) for _ in range(3)]
    key = new_prefix()
    found = await asyncio.gather(*(careless_take(clients[number % 3], key, 17) for number in range(200)))
    assert sum(found) > 17
    for client in clients:
        await client.aclose()


async def test_never_more_than_the_limit_in_any_window(server: RedisServer) -> None:
    """Real time: a second for a window, asked for all the time, by two processes."""
    limit, seconds = 20, 3.0
    principal = Principal("w", limits=(Limit("key:w", "requests", limit, 1), Limit("key:w", "tokens", 10**6, 1)))
    taken: list[int] = []
    async with limiters(server.url, 2, timeout_s=2) as made:
        deadline_s = time.monotonic() + seconds

        async def hammer(limiter: RedisLimiter) -> None:
            while time.monotonic() < deadline_s:
                place = await ask(limiter, principal, 5)
                if not isinstance(place, Refusal):
                    assert isinstance(place, RemotePermit)
                    assert place.verdict is not None
                    taken.append(place.verdict.at_us)
                    limiter.release(place, 2)
                else:
                    assert place.retry_after_s is not None
                    assert 0 < place.retry_after_s <= 1.02
                await asyncio.sleep(0.002)

        await asyncio.gather(*(hammer(limiter) for limiter in made for _ in range(3)))
    taken.sort()
    for start in taken:
        assert sum(start <= at < start + 1_000_000 for at in taken) <= limit
    assert len(taken) >= limit * (seconds - 1.0), "and places come free in time"


@pytest.mark.alone
async def test_bursts_and_averages(server: RedisServer) -> None:
    async with limiters(server.url, 2, timeout_s=2, requests_per_second=10, burst_size=20) as made:
        assert len(await crowd(made, 100)) == 20
        await asyncio.sleep(0.5)
        assert 4 <= len(await crowd(made, 100)) <= 7


async def test_what_callers_are_told(server: RedisServer) -> None:
    async with limiters(server.url, 1, timeout_s=2, requests_per_minute=2, tokens_per_minute=100) as (limiter,):
        place = await ask(limiter, tokens=30)
        assert not isinstance(place, Refusal)
        fields = dict(place.headers())
        assert fields[b"x-ratelimit-remaining-requests"] == b"1"
        assert fields[b"x-ratelimit-remaining-tokens"] == b"70"
        await ask(limiter, tokens=30)
        refused = await ask(limiter, tokens=30)
        assert isinstance(refused, Refusal)
        assert refused.code == "rate_limit_exceeded"
        assert refused.retry_after_s is not None
        assert 58 < refused.retry_after_s <= 61
        counts = {key: count for key, count in limiter.decisions() if count}
        assert counts["key", "requests", "admitted"] == 2
        assert counts["key", "requests", "refused"] == 1


async def test_a_storm_of_callers_that_leave(server: RedisServer) -> None:
    """Whoever leaves, wherever it is: its place is free again, and nobody else gets its answer."""
    chance = random.Random(11)
    async with limiters(server.url, 2, timeout_s=2, max_concurrent=5000, tokens_per_minute=10**9) as made:
        for _ in range(20):
            tasks = [asyncio.ensure_future(ask(made[number % 2], tokens=10)) for number in range(100)]
            for task in tasks:
                if chance.random() < 0.6:
                    asyncio.get_running_loop().call_later(chance.random() * 0.004, task.cancel)
            found = await asyncio.gather(*tasks, return_exceptions=True)
            for number, place in enumerate(found):
                if not isinstance(place, BaseException | Refusal):
                    made[number % 2].release(place, 10)
        await until(lambda: running(server) == 0)
        place = await ask(made[0], tokens=1)
        assert not isinstance(place, Refusal)
        assert not any(limiter.degraded for limiter in made)


@pytest.mark.alone
@pytest.mark.requirement("A093")
@pytest.mark.parametrize("trouble", ["pause", "kill"])
async def test_nobody_waits_for_a_redis_that_is_gone(tmp_path: Path, trouble: str) -> None:
    with redis_server(tmp_path) as server:
        async with limiters(server.url, 1, requests_per_minute=40, max_concurrent=8, processes=4) as (limiter,):
            before = await crowd([limiter], 10)
            assert len(before) == 8
            getattr(server, trouble)()
            waits = []

            async def timed() -> Permit | Refusal:
                started_s = time.monotonic()
                found = await ask(limiter)
                waits.append(time.monotonic() - started_s)
                return found

            assert all(isinstance(each, Refusal) for each in await asyncio.gather(*(timed() for _ in range(20))))
            for _, place in before:
                limiter.release(place, 1)
            served = 0
            for _ in range(40):  # the share of one in four: two at once, ten in a minute
                asked = await asyncio.gather(*(timed() for _ in range(5)))
                let_in = [each for each in asked if not isinstance(each, Refusal)]
                assert len(let_in) <= 2
                served += len(let_in)
                for each in let_in:
                    limiter.release(each, 1)
            assert served == 10
            assert max(waits) < 0.2
            assert limiter.degraded
            assert dict(limiter.without_store())[()] > 200
            if trouble == "pause":
                server.resume()
            else:
                server.start()
            await until(lambda: not limiter.degraded)
            after = await crowd([limiter], 10)
            assert len(after) == 8, "neither lost places nor places that nobody holds"
            for _, place in after:
                limiter.release(place, 1)
            await until(lambda: running(server) == 0)


@pytest.mark.requirement("A093")
@pytest.mark.parametrize(("policy", "expected"), [("open", 200), ("closed", 503), ("share", 429)])
async def test_each_scope_says_what_happens_without_redis(tmp_path: Path, policy: str, expected: int) -> None:
    with redis_server(tmp_path, started=False) as server:
        per_key: dict[str, Any] = {"requests_per_minute": 4, "on_store_down": policy}
        async with limiters(server.url, 1, timeout_s=2, processes=2, **per_key) as (limiter,):
            await limiter.attend([])
            await until(lambda: limiter.degraded)
            found = [await ask(limiter) for _ in range(10)]
            statuses = [each.status if isinstance(each, Refusal) else 200 for each in found]
            assert statuses == ([200, 200] if expected == 429 else []) + [expected] * (8 if expected == 429 else 10)
            assert {each.code for each in found if isinstance(each, Refusal)} <= {
                "limits_unavailable",
                "rate_limit_exceeded",
            }
            server.start()
            await until(lambda: not limiter.degraded)
            assert len(await crowd([limiter], 10)) == 4


async def test_an_emptied_redis_learns_again_who_runs(server: RedisServer) -> None:
    bounds = RedisBounds(renew_s=0.1)
    async with limiters(server.url, 2, timeout_s=2, bounds=bounds, max_concurrent=10, tokens_per_minute=10_000) as made:
        places = await crowd(made, 30, tokens=100)
        assert len(places) == 10
        client = server.client()
        client.flushall()
        client.script_flush()
        await asyncio.sleep(0.11)
        for limiter in made:
            await limiter.attend([place for owner, place in places if owner is limiter])
        await until(lambda: running(server) == 10)
        assert await crowd(made, 30) == []
        for limiter, place in places:
            limiter.release(place, 1)
        await until(lambda: running(server) == 0)
        await ask(made[0], tokens=50)
        assert tokens(server) == [50], "what was charged before the loss is not given back after it"


@pytest.mark.alone
@pytest.mark.requirement("A091")
async def test_the_places_of_a_process_that_died_are_free_again(server: RedisServer) -> None:
    prefix, bounds = new_prefix(), RedisBounds(lease_s=1.0, renew_s=0.1)
    async with limiters(server.url, 2, prefix, timeout_s=2, bounds=bounds, max_concurrent=10) as (dead, alive):
        assert len(await crowd([dead], 6)) == 6
        kept = await crowd([alive], 10)
        assert len(kept) == 4
        for _ in range(5):
            await asyncio.sleep(0.3)
            await alive.attend([place for _, place in kept])
        assert len(await crowd([alive], 20)) == 6


async def test_keys_do_not_stay(server: RedisServer) -> None:
    server.client().flushall()
    async with limiters(
        server.url, 1, timeout_s=2, requests_per_second=5, requests_per_day=50, tokens_per_hour=9, max_concurrent=5
    ) as (limiter,):
        await ask(limiter, Principal("x" * 500), 3)
        client: redis.Redis = server.client()
        keys = client.keys("*")
        assert len(keys) == 4
        assert all(0 < client.pttl(key) <= 1.06 * 86_400_000 for key in keys)
        assert all(len(key) < 200 for key in keys)
