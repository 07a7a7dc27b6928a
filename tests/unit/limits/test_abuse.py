import pytest

from zuebee.config.settings_base import AbuseSettings
from zuebee.lib.units import Timeout
from zuebee.limits.abuse import MAX_ADDRESSES, AbuseGuard

SETTINGS = AbuseSettings(max_failures=3, window_s=Timeout(60), cool_down_s=Timeout(20))


@pytest.mark.requirement("A087")
def test_an_offender_is_left_standing_and_taken_back() -> None:
    guard = AbuseGuard(SETTINGS)
    for second in range(2):
        guard.failed("10.0.0.1", second)
        assert guard.blocked("10.0.0.1", second) is None
    guard.failed("10.0.0.1", 2)
    refusal = guard.blocked("10.0.0.1", 7)
    assert refusal is not None
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (429, "too_many_failures", 15)
    assert guard.blocked_count(7) == 1
    assert guard.blocked("10.0.0.2", 7) is None, "others are served"
    assert guard.blocked("10.0.0.1", 22) is None
    assert guard.blocked_count(22) == 0
    guard.failed("10.0.0.1", 23)
    assert guard.blocked("10.0.0.1", 23) is None, "it begins anew"


def test_old_failures_are_forgotten() -> None:
    guard = AbuseGuard(SETTINGS)
    for minute in range(10):
        guard.failed("a", minute * 60)
        guard.failed("a", minute * 60 + 1)
        assert guard.blocked("a", minute * 60 + 1) is None


def test_all_addresses_of_a_network_count_together() -> None:
    guard = AbuseGuard(SETTINGS)
    for host in range(3):
        guard.failed(f"2001:db8::{host}", 0)
    assert guard.blocked("2001:db8::ffff", 1) is not None
    assert guard.blocked("2001:db8:0:1::1", 1) is None


def test_off() -> None:
    guard = AbuseGuard(AbuseSettings(enabled=False, max_failures=1))
    guard.failed("a", 0)
    assert guard.blocked("a", 0) is None


def test_a_flood_of_addresses_takes_bounded_memory() -> None:
    guard = AbuseGuard(AbuseSettings(max_failures=2))
    guard.failed("203.0.113.9", 0)
    for number in range(2 * MAX_ADDRESSES):
        address = f"{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}.1"
        guard.failed(address, 0)
        if number % 2:
            guard.failed(address, 0)
    assert guard.blocked_count(0) <= MAX_ADDRESSES
    guard.failed("203.0.113.9", 0)
    assert guard.blocked("203.0.113.9", 0) is None, "its first failure was forgotten for those of others"
