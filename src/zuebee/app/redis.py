"""Clients of Redis, for the processes that have one."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zuebee.kit.redis import RedisClient


def redis_client(url: str, *, timeout_s: float, retry_after_s: float = 1.0) -> "RedisClient":
    """See RedisClient. Raises ValueError."""
    from zuebee.kit.redis import RedisClient  # takes 0.04 s to import, which most starts can do without

    return RedisClient(url, timeout_s=timeout_s, retry_after_s=retry_after_s)
