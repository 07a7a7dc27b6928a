"""What the limits in a configuration mean. PURE."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from zuebee.config.limits import LimitSettings, RateLimitSettings, RedisSettings
from zuebee.kit.yaml_tree import Path

SLOW_REDIS_S = 0.2
"""A request may wait for Redis about twice: once behind the one before, once for itself."""


MAX_HEARTBEAT_S = 10.0
"""A third of the lease of a place: two heartbeats may fail."""


def limit_findings(
    limits: RateLimitSettings, redis: RedisSettings | None, heartbeat_s: float = 1.0
) -> Iterator[tuple[Path, str, bool]]:
    """(path, message, fatal) of everything that is wrong with the limits."""
    if heartbeat_s > MAX_HEARTBEAT_S:
        message = f"at most {MAX_HEARTBEAT_S:g}s: places of `max_concurrent` that are not renewed are free after 30s"
        yield ("billing", "heartbeat"), message, True
    if limits.enabled and limits.storage == "redis" and redis is None:
        yield ("rate_limit", "storage"), "`redis` needs `redis.url`: which Redis?", True
    if redis is not None:
        yield from _redis(redis)
    if limits.storage == "memory" and limits.processes > 1:
        message = "has no effect under `storage: memory`: each process counts for itself; use `storage: redis`"
        yield ("rate_limit", "processes"), message, False
    for name, scope in _scopes(limits):
        path: Path = ("rate_limit", *name)
        if scope.burst_size and not scope.requests_per_second:
            yield (*path, "burst_size"), "has no effect without `requests_per_second`", False
        if 0 < scope.burst_size < scope.requests_per_second:
            message = "below `requests_per_second`: requests that come together are refused though the rate fits"
            yield (*path, "burst_size"), message, False


def _scopes(limits: RateLimitSettings) -> Iterator[tuple[tuple[str, ...], LimitSettings]]:
    named: dict[tuple[str, ...], LimitSettings | None] = {
        ("global",): limits.everyone,
        ("per_key",): limits.per_key,
        ("per_user",): limits.per_user,
        ("per_team",): limits.per_team,
        ("per_organisation",): limits.per_organisation,
        ("per_model",): limits.per_model,
        ("per_path",): limits.per_path,
        ("per_address",): limits.per_address,
        ("anonymous",): limits.anonymous,
    }
    if limits.per_priority is not None:
        for priority in ("low", "normal", "high"):
            named["per_priority", priority] = getattr(limits.per_priority, priority)
    return ((name, scope) for name, scope in named.items() if scope is not None and scope.enabled)


def _redis(redis: RedisSettings) -> Iterator[tuple[Path, str, bool]]:
    try:
        parts = urlsplit(redis.url)
        known = parts.scheme in ("redis", "rediss", "unix") and parts.port != 0
    except ValueError:
        known = False
    if not known:
        yield ("redis", "url"), "expected redis://HOST:PORT/DB, rediss://... or unix://PATH", True
    if redis.timeout_s > SLOW_REDIS_S:
        message = f"above {SLOW_REDIS_S * 1000:g} ms: every request may wait so long when Redis is slow"
        yield ("redis", "timeout"), message, False
