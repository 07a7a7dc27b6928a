"""Each counter against a brute-force model, in virtual time."""

import copy
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.memory import alive
from zuebee.limits.buckets import MAX_TIMES, SLOTS, Slot, SlotWindow, TimesWindow, TokenBucket

WINDOW_S = 60.0
GAPS = st.lists(st.integers(0, 64 * 40), max_size=80)  # times in 1/64 s are exact as floats


def most_in_any_window(taken: list[tuple[float, int]], window_s: float) -> int:
    """The brute force: the largest sum over windows that begin with an event (none holds more)."""
    return max((sum(n for at, n in taken if start <= at < start + window_s) for start, _ in taken), default=0)


@pytest.mark.requirement("A090")
def test_sixty_fit_and_the_next_does_not() -> None:
    window = TimesWindow(60)
    assert [window.take(60, float(n) / 2) for n in range(60)] == [0.0] * 60
    assert window.take(60, 30.0) == 30.0
    assert window.take(60, 59.0) == 1.0
    assert window.take(60, 60.0) == 0.0
    assert window.take(60, 60.0) == 0.5


@given(limit=st.integers(1, 8), gaps=GAPS)
def test_the_exact_window_against_a_model(limit: int, gaps: list[int]) -> None:
    window = TimesWindow(WINDOW_S)
    taken: list[float] = []
    now_s = 0.0
    for gap in gaps:
        now_s += gap / 64
        inside = [at_s for at_s in taken if at_s > now_s - WINDOW_S]
        assert window.used(now_s) == len(inside)
        wait_s = window.take(limit, now_s)
        assert (wait_s == 0) is (len(inside) < limit)
        if wait_s == 0:
            taken.append(now_s)
            continue
        # The wait is honest: a moment less is too little, exactly as long is enough.
        assert window.wait_s(limit, now_s) == wait_s
        assert 0 < wait_s <= WINDOW_S
        assert window.take(limit, now_s + wait_s - 1 / 64) > 0
        now_s += wait_s
        assert window.take(limit, now_s) == 0
        taken.append(now_s)
    assert most_in_any_window([(at_s, 1) for at_s in taken], WINDOW_S) <= limit


def slotted(limit: int, amounts: list[tuple[int, int]], window: SlotWindow) -> list[tuple[float, int]]:
    """Take amounts after gaps (1/64 s); what was let through, with each answer compared with the model."""
    taken: list[tuple[float, int]] = []
    now_s = 0.0
    for gap, amount in amounts:
        now_s += gap / 64
        counts = min(amount, limit)
        wait_s = window.take(amount, limit, now_s)
        if wait_s == 0:
            taken.append((now_s, counts))
            continue
        # Refused only for what is less than a slot older than the window.
        inside = sum(n for at, n in taken if at > now_s - WINDOW_S * (1 + 1 / SLOTS))
        assert inside + counts > limit
        assert 0 < wait_s <= WINDOW_S * (1 + 1 / SLOTS)
        later = copy.deepcopy(window)  # asking about a later time forgets what is too old by then
        assert later.wait_s(amount, limit, now_s + wait_s + 1e-6) == 0, "the wait is enough"
    return taken


@given(limit=st.integers(1, 50), amounts=st.lists(st.tuples(st.integers(0, 64 * 20), st.integers(0, 60)), max_size=80))
@pytest.mark.plain
def test_the_window_of_slots_against_a_model(limit: int, amounts: list[tuple[int, int]]) -> None:
    taken = slotted(limit, amounts, SlotWindow(WINDOW_S))
    assert most_in_any_window(taken, WINDOW_S) <= limit


class ForgetsTooEarly(SlotWindow):
    """The control: slots are let go of as soon as they begin to be too old."""

    __slots__ = ()

    def take(self, amount: int, limit: int, now_s: float) -> float:
        return super().take(amount, limit, now_s + WINDOW_S / SLOTS * (now_s > 30))


@pytest.mark.plain
def test_a_window_that_forgets_too_early_is_seen() -> None:
    taken = []
    window = ForgetsTooEarly(WINDOW_S)
    for at_s in (0.9, 60.1):
        if window.take(10, 10, at_s) == 0:
            taken.append((at_s, 10))
    assert most_in_any_window(taken, WINDOW_S) > 10
    right = SlotWindow(WINDOW_S)
    assert right.take(10, 10, 0.9) == 0
    assert right.take(10, 10, 60.1) == pytest.approx(0.9)


@pytest.mark.parametrize("window_s", [60.0, 3600.0, 86400.0])
def test_a_place_comes_free_at_most_a_sixtieth_late(window_s: float) -> None:
    window = SlotWindow(window_s)
    assert window.take(1, 1, 0.5) == 0
    assert window.take(1, 1, window_s + 0.4) > 0
    assert window.take(1, 1, window_s + 0.5 + window_s / 60) == 0


@given(
    limit=st.integers(1, 100),
    steps=st.lists(st.tuples(st.integers(0, 64 * 10), st.integers(0, 120), st.integers(0, 200)), max_size=60),
)
def test_corrections_never_go_below_zero_and_stop_what_comes_next(
    limit: int, steps: list[tuple[int, int, int]]
) -> None:
    """Each request is charged an estimate and corrected at once; the model keeps what was really used."""
    window = SlotWindow(WINDOW_S)
    used: list[tuple[float, int]] = []
    now_s = 0.0
    for gap, estimate, real in steps:
        now_s += gap / 64
        inside = sum(n for at, n in used if at > now_s - WINDOW_S)
        if window.take(estimate, limit, now_s) > 0:
            continue
        assert inside + min(estimate, limit) <= limit
        delta = real - min(estimate, limit)
        if delta < 0:
            window.correct(window.last, delta)
        else:
            window.add(delta, now_s)
        used.append((now_s, real))
        assert window.used(now_s) >= sum(n for at, n in used if at > now_s - WINDOW_S) >= 0
    assert window.used(now_s + 2 * WINDOW_S) == 0


def test_a_correction_after_the_window_changes_nothing() -> None:
    window = SlotWindow(WINDOW_S)
    window.take(100, 100, 0.0)
    slot = window.last
    assert window.take(80, 100, 70.0) == 0
    window.correct(slot, -100)
    assert window.used(70.0) == 80


def test_more_than_the_whole_limit_fits_when_nothing_else_is_there() -> None:
    window = SlotWindow(WINDOW_S)
    assert window.take(1_000_000, 100, 0.0) == 0
    assert window.used(0.0) == 100
    assert window.take(1, 100, 1.0) > 0
    assert window.take(1_000_000, 100, 62.0) == 0


def test_memory_is_bounded() -> None:
    before, window = alive(Slot), SlotWindow(WINDOW_S)
    for step in range(100_000):
        window.take(1, 10**12, step / 500)
    assert alive(Slot) - before <= SLOTS + 2
    exact = TimesWindow(WINDOW_S)
    for step in range(20_000):
        exact.take(MAX_TIMES, step / 10_000)
    assert exact.used(2.0) == MAX_TIMES


def test_counts_stay_when_a_limit_grows_beyond_what_is_remembered_one_by_one() -> None:
    exact = TimesWindow(WINDOW_S)
    for second in range(30):
        exact.take(100, float(second))
    window = exact.into_slots()
    assert window.used(30.0) == 30
    assert window.used(61.5) == 30 - 1


def test_a_lower_limit_holds_from_the_next_request_on() -> None:
    window = TimesWindow(60)
    for second in range(10):
        window.take(10, float(second))
    assert window.take(2, 10.0) == 8.0 + WINDOW_S - 10.0


@given(limit=st.integers(1, 20), burst=st.integers(1, 40), gaps=st.lists(st.integers(0, 128), max_size=80))
def test_the_bucket_against_a_model(limit: int, burst: int, gaps: list[int]) -> None:
    bucket = TokenBucket(1.0)
    level, now_s = float(burst), 0.0
    taken: list[float] = []
    for gap in gaps:
        now_s += gap / 64
        level = min(burst, level + gap / 64 * limit)
        wait_s = bucket.take(1, limit, burst, now_s)
        if wait_s == 0:
            assert level >= 1 - 1e-6
            level -= 1
            taken.append(now_s)
        else:
            assert level < 1 + 1e-6
            assert bucket.wait_s(1, limit, burst, now_s + wait_s) == 0
            assert bucket.wait_s(1, limit, burst, now_s + wait_s * 0.9) > 0
    for start_s in taken:
        for length_s in (0.5, 1.0, 3.0):
            inside = sum(start_s <= at_s < start_s + length_s for at_s in taken)
            assert inside <= burst + limit * length_s + 1e-6


def test_a_bucket_fills_up_again_and_no_further() -> None:
    bucket = TokenBucket(1.0)
    assert [bucket.take(1, 2, 3, 0.0) for _ in range(3)] == [0.0] * 3
    assert bucket.take(1, 2, 3, 0.0) == pytest.approx(0.5)
    assert bucket.used(2, 0.0) == 3
    assert bucket.standing(1, 0.0)[1] == pytest.approx(1.5)
    assert [bucket.take(1, 2, 3, 100.0) for _ in range(4)][:3] == [0.0] * 3
    bucket.correct(-3, 2)
    assert bucket.used(2, 100.0) == 0


@pytest.mark.parametrize("make", [TimesWindow, SlotWindow])
def test_when_nothing_is_counted_any_more(make: Callable[[float], TimesWindow | SlotWindow]) -> None:
    window = make(60.0)
    assert window.standing(5.0)[1] == 0
    if isinstance(window, TimesWindow):
        window.take(5, 10.0)
    else:
        window.take(1, 5, 10.0)
    reset_s = window.standing(20.0)[1]
    assert 50 <= reset_s <= 51
    assert window.used(20.0 + reset_s) == 0
