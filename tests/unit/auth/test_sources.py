from typing import Any

import pytest

from zuebee.auth.credentials import KeyRecord, digest_of
from zuebee.auth.sources import FileSource, file_records
from zuebee.config import ApiKeySettings, BackendSettings, PerKeyLimitSettings, RateLimitSettings, Settings
from zuebee.contracts.admission import Limits

KEY = "sk-test-0123456789abcdef"


def records(*keys: ApiKeySettings, **settings: Any) -> list[KeyRecord]:
    return file_records(Settings(backends=[BackendSettings(url="http://a")], api_keys=list(keys), **settings))


@pytest.mark.requirement("A064", "A251", "A252")
async def test_a_key_of_the_file_is_found_by_its_digest() -> None:
    known = records(ApiKeySettings(key=KEY, name="mine", user_id="me"))
    source = FileSource(known)
    record = await source.find(digest_of(KEY.encode()))
    assert record is not None
    assert (record.principal.name, record.principal.user_id) == ("mine", "me")
    assert await source.find(digest_of(b"other")) is None
    assert KEY not in repr(record)


async def test_a_key_may_be_given_as_its_digest() -> None:
    (record,) = records(ApiKeySettings(key_sha256=digest_of(KEY.encode()).upper()))
    assert record.digest == digest_of(KEY.encode())
    assert record.principal.name == record.principal.user_id == record.principal.key_id == "key_" + record.digest[:16]


@pytest.mark.requirement("A090", "A253")
def test_limits_of_a_key() -> None:
    def limits(limit: RateLimitSettings, **fields: Any) -> Limits:
        return records(ApiKeySettings(key=KEY, **fields), rate_limit=limit)[0].principal.limits

    shared = PerKeyLimitSettings(requests_per_minute=60, max_concurrent=3)
    assert limits(RateLimitSettings(per_key=shared)) == Limits(60, 3)
    assert limits(RateLimitSettings(per_key=shared), requests_per_minute=5) == Limits(5, 3)
    assert limits(RateLimitSettings(), max_concurrent=2) == Limits(0, 2)
    assert limits(RateLimitSettings()) == Limits()
    assert limits(RateLimitSettings(enabled=False, per_key=shared), max_concurrent=2) == Limits()
    off = PerKeyLimitSettings(enabled=False, requests_per_minute=60)
    assert limits(RateLimitSettings(per_key=off)) == Limits()
    quota = limits(RateLimitSettings(), total_quota=100, used_quota=7, quota_reset_period="daily")
    assert quota == Limits(0, 0, 100, 7, "daily")


@pytest.mark.parametrize(
    ("fields", "active", "expired", "expires_at_s"),
    [
        ({}, True, False, 0.0),
        ({"enabled": False}, False, False, 0.0),
        ({"status": "disabled"}, False, False, 0.0),
        ({"status": "expired"}, False, True, 0.0),
        ({"expires_at": "1970-01-02T00:00:00Z"}, True, False, 86400.0),
        ({"expires_at": "1970-01-02T01:00:00+01:00"}, True, False, 86400.0),
    ],
)
def test_the_state_of_a_key(fields: dict[str, Any], active: bool, expired: bool, expires_at_s: float) -> None:
    (record,) = records(ApiKeySettings(key=KEY, **fields))
    assert (record.active, record.expired, record.expires_at_s) == (active, expired, expires_at_s)


@pytest.mark.requirement("A254")
def test_the_addresses_of_a_key() -> None:
    (record,) = records(ApiKeySettings(key=KEY, allowed_ips=["10.0.0.0/8", "::1"], denied_ips=["10.0.0.1"]))
    assert [str(network) for network in record.allowed] == ["10.0.0.0/8", "::1/128"]
    assert [str(network) for network in record.denied] == ["10.0.0.1/32"]
