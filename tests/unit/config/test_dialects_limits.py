"""How fast, in LLMProxy's files."""

import pytest

from zuebee.config.load import ConfigError, loads
from zuebee.config.settings import Settings
from zuebee.config.settings_base import LimitSettings

BACKEND = "backends: [{url: 'http://a:1'}]\napi_keys: [{key: sk-a-real-key-0001}]\n"


def settings(text: str) -> Settings:
    return loads(BACKEND + text, "f", {}, lambda path: True).settings


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        settings(text)
    return caught.value.problems


@pytest.mark.requirement("A255", "A090")
def test_sections_without_a_switch_are_on_and_every_number_counts() -> None:
    limits = settings(
        "rate_limit: {global: {requests_per_second: 100}, per_key: {requests_per_second: 5, requests_per_minute: 60, "
        "burst_size: -1, tokens_per_minute: 9000, max_concurrent: 3}}"
    ).rate_limit
    assert limits.enabled
    assert limits.everyone == LimitSettings(requests_per_second=100)
    assert limits.per_key == LimitSettings(
        requests_per_second=5, requests_per_minute=60, tokens_per_minute=9000, max_concurrent=3
    )


@pytest.mark.parametrize(
    "text",
    [
        "rate_limit: {enabled: false, storage: redis, global: {requests_per_second: 5}, per_key: {burst_size: 5}}",
        "rate_limit: {enabled: false, script: {path: x}}",
        "rate_limit: {global: {enabled: false, requests_per_second: 5}}",
        "rate_limit: {global: {requests_per_second: 0}, redis: default}",
        "rate_limit: {per_key: {requests_per_second: 0, burst_size: , tokens_per_minute: 0}}",
    ],
)
def test_what_limits_nothing_is_accepted(text: str) -> None:
    limits = settings(text).rate_limit
    for scope in (limits.everyone, limits.per_key):
        assert not limits.enabled or scope is None or not scope.enabled or scope == LimitSettings()


CACHES = """\
rate_limit: {storage: redis, redis: fast, per_key: {requests_per_minute: 5}}
storage:
  caches:
    - {name: default, driver: memory}
    - {name: fast, driver: redis, addr: "redis.local:6380", password: "a/b:c", db: 2, pool_size: 10, read_timeout: 50ms}
"""


@pytest.mark.requirement("A084")
def test_the_cache_that_limits_name_is_their_redis() -> None:
    found = settings(CACHES)
    assert found.redis is not None
    assert found.redis.url == "redis://:a%2Fb%3Ac@redis.local:6380/2"
    assert found.redis.timeout_s == 0.05
    assert found.rate_limit.storage == "redis"
    assert "a/b:c" not in repr(found)


def test_a_redis_of_ours_wins() -> None:
    found = settings(CACHES + "redis: {url: 'redis://other:1/0'}\n")
    assert found.redis is not None
    assert found.redis.url == "redis://other:1/0"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate_limit: {script: {path: x}}", "f:3: rate_limit.script: scripts are not supported yet; remove it"),
        ("rate_limit: {storage: redis}", "f:3: rate_limit.storage: `redis` needs `redis.url`: which Redis?"),
        (
            "rate_limit: {storage: redis, redis: slow}\nstorage: {caches: [{name: fast}]}",
            "f:3: rate_limit.storage: `redis` needs `redis.url`: which Redis?",
        ),
        (
            "rate_limit: {storage: redis}\nstorage: {caches: [{name: default, driver: memory}]}",
            "f:4: storage.caches[0].driver: `rate_limit.storage: redis` needs a cache with driver `redis`",
        ),
        (
            "rate_limit: {storage: disk}",
            "f:3: rate_limit.storage: expected `memory` or `redis`",
        ),
        ("rate_limit: {per_key: {requests_per_minute: -1}}", "f:3: rate_limit.per_key.requests_per_minute: "),
        ("rate_limit: {per_key: {requests_per_minut: 1}}", "f:3: rate_limit.per_key.requests_per_minut: unknown key"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, expected: str) -> None:
    found = problems(text)
    assert any(each.startswith(expected) for each in found), found
