"""How fast requests may come: counters in memory, or in Redis for many processes."""

from zuebee.app.connect import redis_client
from zuebee.app.parts.base import Change, Part
from zuebee.config.settings import Settings
from zuebee.limits.redis_limiter import RedisLimiter
from zuebee.limits.service import MemoryLimiter
from zuebee.telemetry.metrics import Metrics


class LimitsPart(Part):
    """The limiter, which follows new limits."""

    def __init__(self, settings: Settings) -> None:
        self.limiter = build_limiter(settings)

    def lend(self, metrics: Metrics) -> None:
        limiter = self.limiter
        metrics.lend("zuebee_limiter_decisions_total", limiter.decisions)
        metrics.lend("zuebee_limiter_slots", limiter.slots)
        metrics.lend("zuebee_limiter_degraded", lambda: [((), float(limiter.degraded))])
        metrics.lend("zuebee_limiter_without_store_total", limiter.without_store)
        metrics.lend("zuebee_limiter_counters", limiter.counters)
        metrics.lend("zuebee_addresses_blocked", limiter.blocked_addresses)

    def prepare(self, settings: Settings) -> Change:
        return Change(lambda: self.limiter.apply(settings.rate_limit))

    async def aclose(self) -> None:
        await self.limiter.aclose()


def build_limiter(settings: Settings) -> MemoryLimiter | RedisLimiter:
    """The limiter that the settings ask for. Redis need not be there yet."""
    limits, redis = settings.rate_limit, settings.redis
    if limits.storage == "memory" or not limits.enabled or redis is None:
        return MemoryLimiter(limits)
    client = redis_client(redis.url, timeout_s=redis.timeout_s, retry_after_s=redis.retry_after_s)
    return RedisLimiter(limits, client, prefix=redis.prefix)


def same_limiter(settings: Settings, running: Settings) -> bool:
    """Whether the running limiter can follow new settings."""
    ours, theirs = settings.rate_limit, running.rate_limit
    return (ours.storage, ours.processes, ours.enabled) == (theirs.storage, theirs.processes, theirs.enabled) or (
        ours.storage == theirs.storage == "memory"
    )
