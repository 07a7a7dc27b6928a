"""What every settings section is made of. The one place that reads the environment."""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, field

from zuebee.lib.units import Duration, Timeout


def environment() -> Mapping[str, str]:
    """The process environment: the one place that reads it."""
    return os.environ


def seconds(value: float) -> Any:
    """A default, for fields whose type is `Duration` or `Timeout`."""
    return Timeout(value)


_SECRET = frozenset(
    {
        "addr",
        "api_key",
        "cache_secret",
        "database",
        "dsn",
        "headers",
        "http",
        "https",
        "key",
        "password",
        "secret",
        "secrets",
        "token",
        "url",
    }
)


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: immutable, an unknown key is an error, and `repr` shows no secrets."""

    def __repr__(self) -> str:
        """All values, for messages of a debugger; those that may be secret are left out."""
        shown = (
            f"{name}=..." if name in _SECRET and getattr(self, name) else f"{name}={getattr(self, name)!r}"
            for name in self.__struct_fields__
        )
        return f"{type(self).__name__}({', '.join(shown)})"


# What a change of a setting needs: `Meta(extra=...)` of the setting, else of the section that it stands in.

RELOAD: Final = {"change": "a reload"}
RESTART: Final = {"change": "a restart"}
RESTART_WITH_REDIS: Final = {"change": "a restart with Redis"}
"""While the counters of limits live in Redis, or come to; else a reload."""

# How much and how fast.

MAX_NUMBER = 1 << 53
"""Beyond it neither JSON nor the script in Redis counts exactly."""
Number: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]


class LimitSettings(Section, frozen=True, kw_only=True):
    """Limits of each member of a scope. 0 is no limit. Present means on."""

    enabled: Annotated[bool, Meta(description="Off: this limit does not apply.")] = True
    requests_per_second: Annotated[Number, Meta(description="Requests per second, on average; see burst_size.")] = 0
    burst_size: Annotated[
        Number, Meta(description="Most requests that may come at once; 0: twice requests_per_second.")
    ] = 0
    requests_per_minute: Annotated[Number, Meta(description="Requests in any 60 seconds.")] = 0
    requests_per_hour: Annotated[Number, Meta(description="Requests in any 60 minutes.")] = 0
    requests_per_day: Annotated[Number, Meta(description="Requests in any 24 hours.")] = 0
    tokens_per_minute: Annotated[
        Number, Meta(description="Tokens in any 60 seconds; estimated before the call, corrected after it.")
    ] = 0
    tokens_per_hour: Annotated[Number, Meta(description="Tokens in any 60 minutes.")] = 0
    tokens_per_day: Annotated[Number, Meta(description="Tokens in any 24 hours.")] = 0
    max_concurrent: Annotated[Number, Meta(description="Most requests that run at once.")] = 0
    on_store_down: Annotated[
        Literal["share", "open", "closed"],
        Meta(
            description="When Redis is down: the process applies its share of the limit (share), no limit (open), or "
            "answers 503 (closed)."
        ),
    ] = "share"


class AbuseSettings(Section, frozen=True, kw_only=True):
    """Addresses that fail to authenticate again and again are left standing."""

    enabled: Annotated[bool, Meta(description="Off: no address is blocked.")] = True
    max_failures: Annotated[
        int, Meta(ge=1, description="Failed authentications of one address within `window` after which it is blocked.")
    ] = 30
    window_s: Annotated[Timeout, Meta(description="Failures that are older do not count.")] = field(
        name="window", default=seconds(60)
    )
    cool_down_s: Annotated[
        Timeout, Meta(description="How long every request of a blocked address is answered 429.")
    ] = field(name="cool_down", default=seconds(60))


class PriorityLimitSettings(Section, frozen=True, kw_only=True):
    """Each class has a bucket of its own, so that the lower one can be limited first."""

    low: Annotated[LimitSettings | None, Meta(description="Class low.")] = None
    normal: Annotated[LimitSettings | None, Meta(description="Class normal.")] = None
    high: Annotated[LimitSettings | None, Meta(description="Class high.")] = None


class RateLimitSettings(Section, frozen=True, kw_only=True):
    """How fast. Each section holds for each key, user, ... by itself; `global` for all together."""

    enabled: Annotated[bool, Meta(description="Off: no limits at all.", extra=RESTART_WITH_REDIS)] = True
    storage: Annotated[
        Literal["memory", "redis"],
        Meta(description="Where the counters live: this process, or Redis for many.", extra=RESTART_WITH_REDIS),
    ] = "memory"
    processes: Annotated[
        int,
        Meta(
            ge=1,
            description="How many processes share the limits in Redis; with `on_store_down: share` each gets this "
            "part of the limit.",
            extra=RESTART_WITH_REDIS,
        ),
    ] = 1
    everyone: Annotated[LimitSettings | None, Meta(description="All requests together.")] = field(
        name="global", default=None
    )
    per_key: Annotated[LimitSettings | None, Meta(description="Each key.")] = None
    per_user: Annotated[LimitSettings | None, Meta(description="Each user.")] = None
    per_team: Annotated[LimitSettings | None, Meta(description="Each team.")] = None
    per_organization: Annotated[LimitSettings | None, Meta(description="Each organization.")] = None
    per_model: Annotated[LimitSettings | None, Meta(description="Each model.")] = None
    per_path: Annotated[LimitSettings | None, Meta(description="Each path.")] = None
    per_address: Annotated[LimitSettings | None, Meta(description="Each client address.")] = None
    anonymous: Annotated[
        LimitSettings | None, Meta(description="Each address of callers without a key, on an open gateway.")
    ] = None
    per_priority: Annotated[PriorityLimitSettings | None, Meta(description="All requests of one class together.")] = (
        None
    )
    abuse: Annotated[AbuseSettings, Meta(description="Repeated failures to authenticate.")] = AbuseSettings()


class RedisSettings(Section, frozen=True, kw_only=True):
    """The Redis that limits and caches share."""

    url: Annotated[str, Meta(description="redis:// or rediss:// URL.")] = "redis://127.0.0.1:6379/0"
    prefix: Annotated[str, Meta(description="Prefix of the names of all entries in Redis.")] = "zuebee:"
    timeout_s: Annotated[
        Timeout, Meta(description="Longest time for an answer of Redis; a slower one counts as a failure.")
    ] = field(name="timeout", default=seconds(0.1))
    retry_after_s: Annotated[Duration, Meta(description="How long ZueBee does not ask Redis again after failures.")] = (
        field(name="retry_after", default=seconds(1))
    )
