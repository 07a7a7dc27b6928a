import pytest

from zuebee.config.settings_base import LimitSettings
from zuebee.contracts.admission import Limit
from zuebee.contracts.limits import limits_of


@pytest.mark.requirement("A090", "A255")
def test_only_what_is_written_limits() -> None:
    seed = LimitSettings(requests_per_minute=60, max_concurrent=3)
    assert limits_of("key:k", seed) == (Limit("key:k", "concurrent", 3), Limit("key:k", "requests", 60, 60))
    assert limits_of("key:k", LimitSettings()) == ()


def test_every_number_has_its_window() -> None:
    rates = LimitSettings(
        requests_per_second=1,
        requests_per_minute=2,
        requests_per_hour=3,
        requests_per_day=4,
        tokens_per_minute=5,
        tokens_per_hour=6,
        tokens_per_day=7,
        max_concurrent=8,
        on_store_down="closed",
    )
    found = limits_of("s", rates)
    assert {(each.kind, each.window_s): each.amount for each in found} == {
        ("requests", 1): 1,
        ("requests", 60): 2,
        ("requests", 3600): 3,
        ("requests", 86400): 4,
        ("tokens", 60): 5,
        ("tokens", 3600): 6,
        ("tokens", 86400): 7,
        ("concurrent", 0): 8,
    }
    assert {each.on_store_down for each in found} == {"closed"}
    assert [each.burst for each in found if each.burst] == [2]
    assert limits_of("s", LimitSettings(requests_per_second=5, burst_size=7))[0].burst == 7


def test_a_whole_section_says_also_what_it_does_not_limit() -> None:
    found = limits_of("s", LimitSettings(max_concurrent=1), whole=True)
    assert len(found) == 8
    assert [each.amount for each in found if each.amount] == [1]
