from typing import Any

import pytest

from zuebee.auth.records import QUOTA_EXCEEDED, digest_of
from zuebee.auth.sources.base import FileSource, file_records
from zuebee.config.settings import BackendSettings, Settings
from zuebee.config.settings_auth import ApiKeySettings
from zuebee.config.settings_base import LimitSettings, RateLimitSettings
from zuebee.contracts.admission import Budget, Caller, Limit
from zuebee.contracts.keys import Credential, KeyRecord

KEY = "sk-test-0123456789abcdef"
ID = "key_" + digest_of(KEY.encode())[:16]


def records(*keys: ApiKeySettings, **settings: Any) -> list[KeyRecord]:
    return file_records(Settings(backends=[BackendSettings(url="http://a")], api_keys=list(keys), **settings))


def shown(key: bytes) -> Credential:
    return Credential(Caller("POST", "/", {}, ""), key, digest_of(key))


@pytest.mark.requirement("A064", "A251", "A252")
async def test_a_key_of_the_file_is_found_by_its_digest() -> None:
    source = FileSource(records(ApiKeySettings(key=KEY, name="mine", user_id="me")))
    record = await source.find(shown(KEY.encode()))
    assert isinstance(record, KeyRecord)
    assert (record.principal.name, record.principal.user_id) == ("mine", "me")
    assert await source.find(shown(b"other")) is None
    assert KEY not in repr(record)
    await source.aclose()


async def test_a_key_may_be_given_as_its_digest() -> None:
    (record,) = records(ApiKeySettings(key_sha256=digest_of(KEY.encode()).upper()))
    assert record.digest == digest_of(KEY.encode())
    assert record.principal.name == record.principal.user_id == record.principal.key_id == ID


@pytest.mark.requirement("A090", "A253")
def test_limits_of_a_key() -> None:
    def limits(limit: RateLimitSettings, **fields: Any) -> set[Limit]:
        return set(records(ApiKeySettings(key=KEY, **fields), rate_limit=limit)[0].principal.limits)

    def minute(amount: int) -> Limit:
        return Limit(f"key:{ID}", "requests", amount, 60)

    def at_once(amount: int) -> Limit:
        return Limit(f"key:{ID}", "concurrent", amount)

    shared = LimitSettings(requests_per_minute=60, max_concurrent=3)
    assert limits(RateLimitSettings(per_key=shared), requests_per_minute=5) >= {minute(5)}
    assert limits(RateLimitSettings(), max_concurrent=2) == {at_once(2)}
    assert limits(RateLimitSettings()) == set()
    assert limits(RateLimitSettings(enabled=False, per_key=shared), max_concurrent=2) == set()
    own = limits(RateLimitSettings(per_key=shared), limits=LimitSettings(tokens_per_minute=9), max_concurrent=1)
    assert own >= {Limit(f"key:{ID}", "tokens", 9, 60), at_once(1)}
    assert minute(60) in own or minute(0) in own


def test_a_quota_is_a_budget() -> None:
    (record,) = records(ApiKeySettings(key=KEY, total_quota=100, used_quota=7, quota_reset_period="daily"))
    assert record.principal.budgets == (Budget(f"key:{ID}/tokens/daily", "tokens", "daily", 100, 7),)


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
def test_when_a_key_may_be_used(fields: dict[str, Any], active: bool, expired: bool, expires_at_s: float) -> None:
    (record,) = records(ApiKeySettings(key=KEY, **fields))
    assert (record.active, record.expired, record.expires_at_s) == (active, expired, expires_at_s)


def test_a_quota_that_is_said_to_be_used_up_has_its_own_refusal() -> None:
    (record,) = records(ApiKeySettings(key=KEY, status="quota_exceeded"))
    assert record.active
    assert record.refusal == QUOTA_EXCEEDED


def test_who_a_key_belongs_to_and_what_a_script_sees_of_it() -> None:
    key = ApiKeySettings(
        key=KEY, name="n", team_id="t", organization_id="o", priority="high", models=["a*"], endpoints=["/v1/*"],
        expires_at="1970-01-02T00:00:00Z",
    )  # fmt: skip
    (record,) = records(key)
    principal = record.principal
    assert (principal.team_id, principal.organization_id, principal.priority) == ("t", "o", "high")
    assert (principal.models, principal.endpoints) == (("a*",), ("/v1/*",))
    assert (record.data["status"], record.data["expires_at"], record.data["team"]) == ("active", 86400, "t")
    assert KEY not in repr(record.data)
