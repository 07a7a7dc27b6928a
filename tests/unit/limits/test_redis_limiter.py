"""With a Redis that is scripted; a real one is in tests/scenarios/test_limits_redis.py."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from tests.support.fakes import make_job, until
from zuebee.config.settings_base import AbuseSettings, LimitSettings, RateLimitSettings
from zuebee.contracts.admission import ANONYMOUS, Caller, Permit, Principal
from zuebee.contracts.errors import Refusal
from zuebee.lib import clock
from zuebee.lib.failures import RedisDown
from zuebee.limits.redis_limiter import BOUNDS, RENEW_S, RedisBounds, RedisLimiter

CALLER = Caller("POST", "/v1/chat/completions", {}, "10.0.0.1")
KEY = Principal("k")


class FakeRedis:
    """Lets everybody in, one call at a time, when the gate is open; keeps what it was told."""

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.down = False
        self.retry_after_s = 0.01
        self.answer: Any = None

    async def eval(self, script: str, keys: Sequence[str], args: Sequence[bytes]) -> Any:
        operations = msgspec.msgpack.decode(args[0])[1]
        self.calls.append(operations)
        await self.gate.wait()
        if self.down:
            raise RedisDown("no answer in time")
        takes = [each for each in operations if each[0] == 1]
        return self.answer or [1, *([0, 0, *([1, 0] * len(each[3]))] for each in takes)]

    async def call(self, *args: Any) -> Any:
        if self.down:
            raise RedisDown("left alone")
        return b"PONG"

    async def aclose(self) -> None:
        self.calls.append([])

    def said(self, kind: int) -> list[Any]:
        return [operation for call in self.calls for operation in call if operation[0] == kind]


@asynccontextmanager
async def scene(bounds: RedisBounds = BOUNDS, **per_key: Any) -> AsyncIterator[tuple[RedisLimiter, FakeRedis]]:
    fake = FakeRedis()
    settings = RateLimitSettings(storage="redis", per_key=LimitSettings(**per_key), abuse=AbuseSettings(max_failures=1))
    limiter = RedisLimiter(settings, fake, prefix="p:", bounds=bounds)  # type: ignore[arg-type]
    try:
        yield limiter, fake
    finally:
        fake.gate.set()
        await limiter.aclose()


def ask(limiter: RedisLimiter, principal: Principal = KEY, tokens: int = 10) -> "asyncio.Future[Permit | Refusal]":
    return asyncio.ensure_future(limiter.acquire(CALLER, principal, make_job(), tokens))


async def test_while_one_call_is_under_way_others_queue() -> None:
    async with scene(requests_per_minute=100) as (limiter, fake):
        fake.gate.clear()
        asked = [ask(limiter)]
        await until(lambda: len(fake.calls) == 1)
        asked += [ask(limiter) for _ in range(50)]
        await asyncio.sleep(0.01)
        fake.gate.set()
        assert not any(isinstance(each, Refusal) for each in await asyncio.gather(*asked))
        assert [len(call) for call in fake.calls] == [1, 50]


async def test_without_limits_redis_is_not_asked() -> None:
    async with scene(requests_per_minute=100) as (limiter, fake):
        permit = await ask(limiter, ANONYMOUS)
        assert not isinstance(permit, Refusal)
        assert permit.headers() == []
        limiter.release(permit, 5)
        assert fake.calls == []


async def test_places_are_given_back_once_and_with_what_was_used() -> None:
    async with scene(max_concurrent=3, tokens_per_minute=100) as (limiter, fake):
        permit = await ask(limiter)
        assert not isinstance(permit, Refusal)
        assert dict(limiter.slots()) == {("key",): 1}
        limiter.release(permit, 4)
        limiter.release(permit, 4)
        await until(lambda: len(fake.said(2)) > 0)
        ((_, lease, keys, corrections),) = fake.said(2)
        assert lease == fake.said(1)[0][1]
        assert len(keys) == 1
        assert [correction[2] for correction in corrections] == [-6]
        assert dict(limiter.slots()) == {}


async def test_who_leaves_before_and_after_the_verdict_leaves_nothing_behind() -> None:
    async with scene(max_concurrent=3) as (limiter, fake):
        fake.gate.clear()
        early = ask(limiter)
        await until(lambda: len(fake.calls) == 1)
        queued = ask(limiter)
        await asyncio.sleep(0)
        early.cancel()
        queued.cancel()
        await asyncio.gather(early, queued, return_exceptions=True)
        fake.gate.set()
        await until(lambda: len(fake.said(2)) == 1)
        assert len(fake.said(1)) == 1, "who left while it queued was not asked for"
        assert fake.said(2)[0][1] == fake.said(1)[0][1]
        assert dict(limiter.slots()) == {}


async def test_down_and_back(caplog: pytest.LogCaptureFixture) -> None:
    async with scene(max_concurrent=2) as (limiter, fake):
        first = await ask(limiter)
        assert not isinstance(first, Refusal)
        fake.down = True
        second = await ask(limiter)
        assert not isinstance(second, Refusal)
        assert limiter.degraded
        calls = len(fake.calls)
        refused = await ask(limiter)
        assert isinstance(refused, Refusal)
        assert refused.code == "concurrent_limit_exceeded", "who ran before counts in its share"
        assert len(fake.calls) == calls, "nobody asks while it is down"
        assert dict(limiter.without_store()) == {(): 2.0}
        await limiter.attend([first, second])
        assert len(fake.calls) == calls
        fake.down = False
        await until(lambda: not limiter.degraded)
        await limiter.attend([first, second])
        await until(lambda: len(fake.said(3)) == 2)  # both are known to Redis again
        limiter.release(second, 1)
        lost = fake.said(1)[-1][1]
        await until(lambda: sum(each[1] == lost for each in fake.said(2)) == 2)  # once for safety, once for good


async def test_leases_are_renewed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scene(max_concurrent=2) as (limiter, fake):
        permit = await ask(limiter)
        assert not isinstance(permit, Refusal)
        for _ in range(5):
            await limiter.attend([permit])
        await until(lambda: len(fake.said(3)) == 1)
        began_s = clock.monotonic_s()
        monkeypatch.setattr(clock, "monotonic_s", lambda: began_s + RENEW_S)
        await limiter.attend([permit])
        await until(lambda: len(fake.said(3)) == 2)
        limiter.release(permit, 1)
        await until(lambda: len(fake.said(2)) == 1)


async def test_an_answer_that_makes_no_sense_is_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    async with scene(requests_per_minute=5) as (limiter, fake):
        fake.answer = b"what?"
        permit = await ask(limiter)
        assert not isinstance(permit, Refusal)
        assert dict(limiter.without_store()) == {(): 1.0}
        fake.answer = None
        await until(lambda: not limiter.degraded)


async def test_too_many_who_wait_are_decided_here() -> None:
    async with scene(RedisBounds(max_asking=5), requests_per_minute=100) as (limiter, fake):
        fake.gate.clear()
        asked = [ask(limiter) for _ in range(20)]
        await until(lambda: sum(each.done() for each in asked) >= 14)
        fake.gate.set()
        assert not any(isinstance(each, Refusal) for each in await asyncio.gather(*asked))


async def test_other_limits_and_offenders() -> None:
    async with scene(max_concurrent=2) as (limiter, fake):
        limiter.failed("10.0.0.9")
        assert limiter.blocked("10.0.0.9") is not None
        assert list(limiter.blocked_addresses()) == [((), 1.0)]
        limiter.apply(RateLimitSettings(storage="redis", per_key=LimitSettings(max_concurrent=7)))
        await ask(limiter)
        assert fake.said(1)[0][3][0][1] == 7
        assert dict(limiter.decisions())["key", "concurrent", "admitted"] == 1
