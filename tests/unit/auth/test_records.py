import contextlib
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.auth.records import NO_BALANCE, QUOTA_EXCEEDED, objection, record_of, with_fields
from zuebee.contracts.admission import Budget, Limit, Principal
from zuebee.contracts.errors import KEY_DISABLED, KEY_EXPIRED
from zuebee.lib.networks import parse_networks

DIGEST = "ab" * 32
ID = "key_" + DIGEST[:16]


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        ({}, None),
        ({"status": None}, None),
        ({"status": ""}, None),
        ({"status": "active"}, None),
        ({"status": " Active "}, None),
        ({"status": 0}, None),
        ({"status": "0"}, None),
        ({"status": 1}, KEY_DISABLED),
        ({"status": "disabled"}, KEY_DISABLED),
        ({"status": 2}, QUOTA_EXCEEDED),
        ({"status": "quota_exceeded"}, QUOTA_EXCEEDED),
        ({"status": "3"}, KEY_EXPIRED),
        ({"status": "expired"}, KEY_EXPIRED),
        ({"status": "anything"}, KEY_DISABLED),
        ({"status": 7}, KEY_DISABLED),
        ({"status": True}, KEY_DISABLED),
        ({"status": False}, KEY_DISABLED),
        ({"status": ["active"]}, KEY_DISABLED),
        ({"total_quota": 10, "used_quota": 9}, None),
        ({"total_quota": "10", "used_quota": "10"}, QUOTA_EXCEEDED),
        ({"total_quota": 0, "used_quota": 10}, None),
        ({"total_quota": 10}, None),
        ({"balance": 0}, NO_BALANCE),
        ({"balance": "-0.01"}, NO_BALANCE),
        ({"balance": Decimal("0.01")}, None),
        ({"balance": "5"}, None),
    ],
)
def test_what_speaks_against_a_key(data: dict[str, Any], refusal: object) -> None:
    assert objection(data) == refusal
    assert record_of(data, DIGEST).refusal == refusal


@pytest.mark.parametrize(
    ("value", "at_s"),
    [
        (None, 0.0), ("", 0.0), (0, 0.0), ("0", 0.0), (86400, 86400.0), ("86400", 86400.0), ("86400.5", 86400.5),
        (1_700_000_000_000, 1.7e9), ("1970-01-02T00:00:00Z", 86400.0), ("1970-01-02 01:00:00+01:00", 86400.0),
        ("1970-01-02 00:00:00", 86400.0), ("1970-01-02", 86400.0), (datetime(1970, 1, 2, tzinfo=UTC), 86400.0),
        (datetime(1970, 1, 2), 86400.0), (date(1970, 1, 2), 86400.0), (-1, -1.0),
    ],
)  # fmt: skip
def test_times_in_every_form(value: object, at_s: float) -> None:
    for field in ("expires_at", "expired_at"):
        assert record_of({field: value}, DIGEST).expires_at_s == at_s
    assert record_of({"starts_at": value}, DIGEST).starts_at_s == at_s


@pytest.mark.parametrize(
    "value", [["10.0.0.0/8", "::1"], '["10.0.0.0/8", "::1"]', "10.0.0.0/8,::1", " 10.0.0.0/8 , ::1 "]
)
def test_addresses_in_every_form(value: object) -> None:
    wanted = parse_networks(["10.0.0.0/8", "::1"])
    record = record_of({"allowed_ips": value, "denied_ips": value}, DIGEST)
    assert record.allowed == record.denied == wanted


@pytest.mark.parametrize(
    "data",
    [
        {"allowed_ips": "somewhere"}, {"allowed_ips": {"a": 1}}, {"denied_ips": "[10"}, {"expires_at": "soon"},
        {"expires_at": True}, {"starts_at": []}, {"balance": "much"}, {"balance": "nan"}, {"total_quota": {}},
        {"total_quota": 1.5}, {"total_quota": 10, "quota_reset_period": "hourly"}, {"requests_per_minute": -1},
        {"max_concurrent": "1.5"}, {"user_id": "x" * 300}, {"user_id": "a\nb"}, {"name": ["x"]}, {"models": 5},
        {"limits": "{"}, {"limits": "7"}, {"limits": 7}, {"total_quota": float("inf")},
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_an_error_that_names_the_field(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="|".join(data)):
        record_of(data, DIGEST)


def test_who_it_is() -> None:
    data = {
        "user_id": 17, "name": "Ann", "team": "t", "organization": "o", "plan": "gold", "priority": "high",
        "tags": "a, b", "models": '["m*"]', "allowed_endpoints": ["/v1/*"],
    }  # fmt: skip
    principal = record_of(data, DIGEST).principal
    assert principal == Principal(ID, "Ann", "17", "t", "o", "gold", "high", ("a", "b"), ("m*",), ("/v1/*",))
    bare = record_of({}, DIGEST).principal
    assert (bare.key_id, bare.name, bare.user_id) == (ID, ID, ID)
    assert with_fields(principal, {"priority": 5, "other": 1}) == principal


def test_limits_and_budgets() -> None:
    data = {"requests_per_minute": "60", "limits": '{"max_concurrent": 3}', "total_quota": 100, "used_quota": 7}
    principal = record_of(data | {"quota_reset_period": "daily"}, DIGEST).principal
    assert set(principal.limits) == {Limit(f"key:{ID}", "requests", 60, 60), Limit(f"key:{ID}", "concurrent", 3)}
    assert principal.budgets == (Budget(f"key:{ID}/tokens/daily", "tokens", "daily", 100, 7),)


FIELDS = ["status", "balance", "total_quota", "expires_at", "allowed_ips", "user_id", "limits", "models", "tags"]
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5)


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_nothing_but_a_record_or_a_value_error(data: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError):
        record_of(data, DIGEST)
