"""Nonces in a real Redis: of all processes that share it, one lets a signed request in."""

import asyncio

import pytest

from tests.support.databases import redis_url
from zuebee.auth.nonces import RedisNonces
from zuebee.lib.failures import RedisError
from zuebee.lib.redis import RedisClient

# redis-py has another name for the client's name from version 7 on.
pytestmark = pytest.mark.filterwarnings("ignore:.*lib_name:DeprecationWarning")


@pytest.mark.requirement("A055", "A058")
async def test_a_nonce_is_used_once_by_all_processes() -> None:
    with redis_url() as (url, prefix):
        processes = [RedisNonces(RedisClient(url, timeout_s=2), prefix) for _ in range(3)]
        found = await asyncio.gather(*[one.seen("acme", "nonce-1", 30) for one in processes for _ in range(20)])
        assert sorted(found) == [False, *[True] * 59]
        assert not await processes[0].seen("other", "nonce-1", 0.05)
        assert await processes[1].seen("other", "nonce-1", 0.05)
        await asyncio.sleep(0.1)
        assert not await processes[2].seen("other", "nonce-1", 0.05), "it was forgotten in its time"
        for one in processes:
            await one.aclose()


async def test_without_redis_nobody_is_let_in() -> None:
    nonces = RedisNonces(RedisClient("redis://127.0.0.1:9/0", timeout_s=0.2), "x:")
    with pytest.raises(RedisError):
        await nonces.seen("acme", "nonce-1", 30)
    await nonces.aclose()
