import pytest

from zuebee.contracts.admission import Limit
from zuebee.limits.rules import State, duration, limit_headers, refusal_of


@pytest.mark.parametrize(
    ("value_s", "text"),
    [
        (0.0, b"0ms"),
        (0.0165, b"17ms"),
        (0.9991, b"1000ms"),
        (1.0, b"1s"),
        (6.2, b"7s"),
        (60.0, b"1m0s"),
        (361.0, b"6m1s"),
        (86400.0, b"24h0m0s"),
    ],
)
def test_durations_as_openai_writes_them(value_s: float, text: bytes) -> None:
    assert duration(value_s) == text


@pytest.mark.requirement("A082")
def test_the_tightest_of_each_kind_is_told() -> None:
    states = [State("requests", 60, 9, 60.0), State("requests", 1000, 8, 3600.0), State("tokens", 500, 400, 1.5)]
    assert dict(limit_headers(states)) == {
        b"x-ratelimit-limit-requests": b"1000",
        b"x-ratelimit-remaining-requests": b"8",
        b"x-ratelimit-reset-requests": b"1h0m0s",
        b"x-ratelimit-limit": b"1000",
        b"x-ratelimit-remaining": b"8",
        b"x-ratelimit-limit-tokens": b"500",
        b"x-ratelimit-remaining-tokens": b"400",
        b"x-ratelimit-reset-tokens": b"2s",
    }
    assert limit_headers([]) == []


@pytest.mark.parametrize(
    ("limit", "code", "message"),
    [
        (
            Limit("key:secret-name", "requests", 60, 60),
            "rate_limit_exceeded",
            "Rate limit reached for this key: 60 requests a minute. Try again in 13 s.",
        ),
        (
            Limit("user:u", "requests", 5, 1, 10),
            "rate_limit_exceeded",
            "Rate limit reached for this user: 5 requests a second, 10 at once. Try again in 13 s.",
        ),
        (
            Limit("organization:o", "tokens", 100, 86400),
            "token_rate_limit_exceeded",
            "Rate limit reached for this organization: 100 tokens a day. This request counts as 70. Try again in 13 s.",
        ),
        (
            Limit("global", "concurrent", 3),
            "concurrent_limit_exceeded",
            "Too many requests at once for all callers together: at most 3.",
        ),
    ],
)
def test_a_refusal_names_scope_and_limit(limit: Limit, code: str, message: str) -> None:
    refusal = refusal_of(limit, 12.5, 70, [State("requests", 60, 0, 12.5)])
    assert (refusal.status, refusal.type, refusal.code) == (429, "rate_limit_error", code)
    assert refusal.message == message
    assert refusal.retry_after_s == 12.5
    assert refusal.should_retry
    assert (b"x-ratelimit-remaining-requests", b"0") in refusal.headers
