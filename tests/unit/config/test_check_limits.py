import pytest

from zuebee.config.settings_base import LimitSettings, PriorityLimitSettings, RateLimitSettings, RedisSettings
from zuebee.config.validate_policies import limit_findings
from zuebee.lib.units import Timeout

BURST_ALONE = LimitSettings(burst_size=5)


@pytest.mark.parametrize(
    ("limits", "redis", "path", "fatal"),
    [
        (RateLimitSettings(storage="redis"), None, ("rate_limit", "storage"), True),
        (RateLimitSettings(processes=3), None, ("rate_limit", "processes"), False),
        (RateLimitSettings(per_team=BURST_ALONE), None, ("rate_limit", "per_team", "burst_size"), False),
        (RateLimitSettings(everyone=BURST_ALONE), None, ("rate_limit", "global", "burst_size"), False),
        (
            RateLimitSettings(per_priority=PriorityLimitSettings(low=BURST_ALONE)),
            None,
            ("rate_limit", "per_priority", "low", "burst_size"),
            False,
        ),
        (
            RateLimitSettings(per_key=LimitSettings(requests_per_second=9, burst_size=3)),
            None,
            ("rate_limit", "per_key", "burst_size"),
            False,
        ),
        (RateLimitSettings(), RedisSettings(url="http://x"), ("redis", "url"), True),
        (RateLimitSettings(), RedisSettings(url="redis://x:notaport"), ("redis", "url"), True),
        (RateLimitSettings(), RedisSettings(timeout_s=Timeout(1)), ("redis", "timeout"), False),
    ],
)
def test_findings(limits: RateLimitSettings, redis: RedisSettings | None, path: tuple[str, ...], fatal: bool) -> None:
    ((found, message, is_fatal),) = limit_findings(limits, redis)
    assert (found, is_fatal) == (path, fatal)
    assert message


def test_what_is_right_or_off_is_not_mentioned() -> None:
    off = RateLimitSettings(enabled=False, storage="redis")
    switched_off = RateLimitSettings(per_key=LimitSettings(enabled=False, burst_size=5))
    whole = RateLimitSettings(storage="redis", processes=3, per_key=LimitSettings(requests_per_second=5, burst_size=5))
    assert [*limit_findings(off, None), *limit_findings(switched_off, None)] == []
    assert list(limit_findings(whole, RedisSettings(url="rediss://u:p@x:6380/1"))) == []


def test_a_heartbeat_must_be_faster_than_leases_end() -> None:
    ((path, _, fatal),) = limit_findings(RateLimitSettings(), None, 10.5)
    assert (path, fatal) == (("billing", "renew_interval"), True)
    assert list(limit_findings(RateLimitSettings(), None, 10.0)) == []
