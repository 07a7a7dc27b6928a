import asyncio
from typing import Any

import pytest

from zuebee.auth.nonces import MemoryNonces, NoncesFull, RedisNonces
from zuebee.lib import clock


class Time:
    now_s = 5000.0


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    found = Time()
    monkeypatch.setattr(clock, "monotonic_s", lambda: found.now_s)
    return found


async def test_a_nonce_is_used_once_by_each_client() -> None:
    nonces = MemoryNonces()
    assert not await nonces.seen("a", "n1", 300)
    assert await nonces.seen("a", "n1", 300)
    assert await nonces.seen("a", "n1", 1)
    assert not await nonces.seen("b", "n1", 300)
    assert not await nonces.seen("a", "n2", 300)


@pytest.mark.parametrize("ttl_s", [1, 9.99, 10, 300.5, 601])
async def test_a_nonce_is_remembered_for_its_time_and_not_for_ever(time: Time, ttl_s: float) -> None:
    for start_s in (5000.0, 5003.7, 5009.999):
        nonces = MemoryNonces()
        time.now_s = start_s
        await nonces.seen("a", "n", ttl_s)
        time.now_s = start_s + ttl_s
        assert await nonces.seen("a", "n", 1), "its last moment"
        assert nonces.count == 1
        time.now_s += 22
        assert not await nonces.seen("a", "n", 1)
        assert nonces.count == 1


async def test_full_is_full_and_nothing_is_forgotten(time: Time) -> None:
    nonces = MemoryNonces(100)
    for number in range(50):
        assert not await nonces.seen("greedy", str(number), 300)
    with pytest.raises(NoncesFull):
        await nonces.seen("greedy", "one more", 300)
    for number in range(50):
        assert not await nonces.seen("modest", str(number), 300), "half of the room is for others"
    with pytest.raises(NoncesFull):
        await nonces.seen("third", "n", 300)
    for number in range(50):
        assert await nonces.seen("greedy", str(number), 300)
    assert nonces.count == 100
    time.now_s += 320
    assert not await nonces.seen("greedy", "one more", 300)
    assert nonces.count == 1


class Redis:
    def __init__(self) -> None:
        self.kept: dict[str, tuple[Any, ...]] = {}

    async def call(self, *args: Any) -> Any:
        command, name, *rest = args
        assert (command, rest[1], rest[2]) == ("SET", "NX", "PX")
        await asyncio.sleep(0)
        return b"OK" if self.kept.setdefault(name, (rest[3],)) is not None and self._first(name) else None

    def _first(self, name: str) -> bool:
        seen = len(self.kept[name])
        self.kept[name] = (*self.kept[name], "again")
        return seen == 1


async def test_redis_keeps_it_for_all() -> None:
    redis = Redis()
    one, other = RedisNonces(redis, "zb:"), RedisNonces(redis, "zb:")
    assert not await one.seen("a", "n", 300.5)
    assert await other.seen("a", "n", 300.5)
    assert not await other.seen("a", "m", 300)
    assert not await RedisNonces(redis, "other:").seen("a", "n", 300)
    name, (ttl_ms, *_) = next(iter(redis.kept.items()))
    assert name.startswith("zb:nonce:")
    assert ttl_ms == 300_501
