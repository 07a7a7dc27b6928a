from typing import Any

import msgspec
import pytest

from zuebee.config.settings_base import LimitSettings, RateLimitSettings, RedisSettings


def test_nothing_is_limited_until_somebody_says_so() -> None:
    limits = RateLimitSettings()
    scopes = [name for name in limits.__struct_fields__ if name.startswith("per_") or name in ("everyone", "anonymous")]
    assert len(scopes) == 10
    assert [getattr(limits, name) for name in scopes] == [None] * 10
    numbers = {name: getattr(LimitSettings(), name) for name in LimitSettings.__struct_fields__}
    assert {name for name, value in numbers.items() if value == 0} == numbers.keys() - {"enabled", "on_store_down"}


def test_global_is_the_word_of_the_file() -> None:
    limits = msgspec.convert({"global": {"requests_per_second": 5}}, RateLimitSettings)
    assert limits.everyone == LimitSettings(requests_per_second=5)
    with pytest.raises(msgspec.ValidationError, match="everyone"):
        msgspec.convert({"everyone": {}}, RateLimitSettings)


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_day", "max_concurrent", "burst_size"])
def test_a_number_that_redis_could_not_count_is_none(name: str) -> None:
    assert getattr(msgspec.convert({name: 1 << 53}, LimitSettings), name) == 1 << 53
    with pytest.raises(msgspec.ValidationError, match=name):
        msgspec.convert({name: (1 << 53) + 1}, LimitSettings)


def test_who_guesses_keys_is_left_standing_by_default() -> None:
    abuse = RateLimitSettings().abuse
    assert (abuse.enabled, abuse.max_failures, abuse.window_s, abuse.cool_down_s) == (True, 30, 60, 60)


def test_a_limit_whose_store_is_down_is_shared_out_by_default() -> None:
    assert LimitSettings().on_store_down == "share"
    assert RateLimitSettings().processes == 1


def test_redis_is_not_waited_for_and_its_url_not_shown() -> None:
    redis = RedisSettings(url="redis://:s3cret@h/0")
    assert redis.timeout_s <= 0.1
    assert "s3cret" not in repr(redis)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"per_key": {"requests_per_minute": -1}}, "requests_per_minute"),
        ({"per_key": {"on_store_down": "wait"}}, "on_store_down"),
        ({"storage": "postgres"}, "storage"),
        ({"processes": 0}, "processes"),
        ({"abuse": {"max_failures": 0}}, "max_failures"),
    ],
)
def test_what_cannot_be_meant_is_refused(values: dict[str, Any], field: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert(values, RateLimitSettings)
