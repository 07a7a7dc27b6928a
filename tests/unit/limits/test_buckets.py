from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.limits.buckets import MAX_TIMES, WINDOW_S, SlidingWindow, period_start_s


@pytest.mark.requirement("A090")
def test_sixty_fit_and_the_next_does_not() -> None:
    window = SlidingWindow()
    assert [window.take(60, float(n) / 2) for n in range(60)] == [0.0] * 60
    assert window.take(60, 30.0) == 30.0
    assert window.take(60, 59.0) == 1.0
    assert window.take(60, 60.0) == 0.0
    assert window.take(60, 60.0) == 0.5


# Times in 1/64 s are exact as floats.
@given(limit=st.integers(1, 8), gaps=st.lists(st.integers(0, 64 * 40), max_size=80))
def test_the_window_against_a_model(limit: int, gaps: list[int]) -> None:
    window = SlidingWindow()
    taken: list[float] = []
    now_s = 0.0
    for gap in gaps:
        now_s += gap / 64
        inside = [at_s for at_s in taken if at_s > now_s - WINDOW_S]
        wait_s = window.take(limit, now_s)
        assert (wait_s == 0) is (len(inside) < limit)
        if wait_s == 0:
            taken.append(now_s)
            continue
        # The wait is honest: a moment less is too little, exactly as long is enough.
        assert 0 < wait_s <= WINDOW_S
        assert window.take(limit, now_s + wait_s - 1 / 64) > 0
        now_s += wait_s
        assert window.take(limit, now_s) == 0
        taken.append(now_s)
    for start_s in taken:
        assert sum(start_s <= at_s < start_s + WINDOW_S for at_s in taken) <= limit


@pytest.mark.parametrize("limit", [MAX_TIMES + 1, 3 * MAX_TIMES, 10**8])
def test_a_large_limit_takes_bounded_memory_and_is_never_exceeded(limit: int) -> None:
    window = SlidingWindow()
    step_s = 50.0 / limit if limit < 10**6 else 0.001
    count = min(limit, 40_000)
    assert not any(window.take(limit, n * step_s) for n in range(count))
    assert len(window._times) <= MAX_TIMES
    if count == limit:
        wait_s = window.take(limit, 50.0)
        assert 0 < wait_s <= WINDOW_S
        assert window.take(limit, 50.0 + wait_s + 1e-6) == 0


def test_a_lower_limit_holds_from_the_next_request_on() -> None:
    window = SlidingWindow()
    for second in range(10):
        window.take(10, float(second))
    assert window.take(2, 10.0) == 8.0 + WINDOW_S - 10.0


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("period", "now", "start"),
    [
        ("daily", "2026-11-21T08:31:00", "2026-11-21"),
        ("daily", "2026-11-21T00:00:00", "2026-11-21"),
        ("daily", "2026-11-20T23:59:59.999", "2026-11-20"),
        ("weekly", "2026-11-21T08:31:00", "2026-11-16"),
        ("weekly", "2026-11-16T00:00:00", "2026-11-16"),
        ("weekly", "2026-11-22T23:59:59", "2026-11-16"),
        ("weekly", "2027-01-01T12:00:00", "2026-12-28"),
        ("monthly", "2026-11-21T08:31:00", "2026-11-01"),
        ("monthly", "2028-02-29T23:00:00", "2028-02-01"),
        ("monthly", "2027-01-01T00:00:00", "2027-01-01"),
        ("never", "2026-11-21T08:31:00", "1970-01-01"),
    ],
)
def test_when_a_period_began(period: str, now: str, start: str) -> None:
    assert period_start_s(period, seconds(now)) == seconds(start)
