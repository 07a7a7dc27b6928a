from typing import Any

import pytest

from tests.support.fakes import VirtualTime
from zuebee.contracts.admission import ANONYMOUS, Limits, Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Usage
from zuebee.limits.service import MemoryLimiter

DAY_S = 86400.0


def key(name: str = "k", **limits: Any) -> Principal:
    return Principal(name, name, name, Limits(**limits))


def limiter(on_record: int = 0) -> MemoryLimiter:
    return MemoryLimiter(lambda key_id, since_s: on_record)


def used(tokens: int) -> Usage:
    return Usage(tokens - 1, 1, "provider")


@pytest.mark.requirement("A090")
async def test_sixty_a_minute(virtual_time: VirtualTime) -> None:
    target, principal = limiter(), key(requests_per_minute=60)
    for _ in range(60):
        assert await target.acquire(principal) is None
        target.release(principal, None)
    virtual_time.advance(20)
    refusal = await target.acquire(principal)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (429, "rate_limit_exceeded", 40.0)
    assert refusal.should_retry
    virtual_time.advance(40)
    assert await target.acquire(principal) is None


@pytest.mark.requirement("A091")
async def test_three_at_once(virtual_time: VirtualTime) -> None:
    target, principal = limiter(), key(max_concurrent=3)
    for _ in range(3):
        assert await target.acquire(principal) is None
    refusal = await target.acquire(principal)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (429, "concurrent_limit_exceeded")
    assert await target.acquire(key("other", max_concurrent=3)) is None
    target.release(principal, None)
    assert await target.acquire(principal) is None


async def test_a_refused_request_takes_nothing(virtual_time: VirtualTime) -> None:
    target = limiter()
    principal = key(requests_per_minute=2, max_concurrent=1)
    assert await target.acquire(principal) is None
    for _ in range(10):
        assert isinstance(await target.acquire(principal), Refusal)  # for its concurrency
    target.release(principal, None)
    assert await target.acquire(principal) is None  # the second in this minute
    target.release(principal, None)
    for _ in range(10):
        assert isinstance(await target.acquire(principal), Refusal)  # for its rate
    virtual_time.advance(60)
    assert await target.acquire(principal) is None  # and no place was lost


@pytest.mark.requirement("A253")
async def test_a_quota_ends(virtual_time: VirtualTime) -> None:
    target, principal = limiter(), key(total_tokens=100)
    for tokens in (60, 40):
        assert await target.acquire(principal) is None
        target.release(principal, used(tokens))
    refusal = await target.acquire(principal)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.type, refusal.code) == (429, "insufficient_quota", "quota_exceeded")
    assert not refusal.should_retry


@pytest.mark.requirement("A253")
@pytest.mark.parametrize(
    ("on_record", "before", "fits"), [(99, 0, True), (100, 0, False), (60, 40, False), (60, 39, True)]
)
async def test_what_was_used_before_counts(on_record: int, before: int, fits: bool) -> None:
    target = limiter(on_record)
    refusal = await target.acquire(key(total_tokens=100, tokens_used_before=before))
    assert (refusal is None) is fits


async def test_a_new_period_begins_at_nothing(virtual_time: VirtualTime) -> None:
    virtual_time.now_s = 100 * DAY_S + 5
    asked: list[tuple[str, float]] = []

    def tokens_since(key_id: str, since_s: float) -> int:
        asked.append((key_id, since_s))
        return 100

    target, principal = MemoryLimiter(tokens_since), key(total_tokens=100, token_period="daily", tokens_used_before=500)
    assert isinstance(await target.acquire(principal), Refusal)
    assert asked == [("k", 100 * DAY_S)]
    virtual_time.advance(DAY_S)
    assert await target.acquire(principal) is None
    target.release(principal, used(100))
    assert isinstance(await target.acquire(principal), Refusal)
    virtual_time.advance(DAY_S)
    assert await target.acquire(principal) is None
    assert len(asked) == 1


async def test_without_limits_nothing_is_refused(virtual_time: VirtualTime) -> None:
    target = limiter(10**12)
    for _ in range(500):
        assert await target.acquire(ANONYMOUS) is None
    target.release(ANONYMOUS, used(10**9))
    assert await target.acquire(ANONYMOUS) is None
