from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fakes import head
from zuebee.config import RetrySettings
from zuebee.contracts.inference import End, FailureCause, Head
from zuebee.dispatch.retry import (
    MAX_RETRY_AFTER_S,
    RetryBudget,
    backoff_s,
    is_failure,
    retry_after_s,
    worth_a_retry,
)

ALL = RetrySettings()
NOW_S = 1_800_000_000.0


@pytest.mark.parametrize(
    ("status", "failed", "worth"),
    [
        (200, False, False),
        (400, False, False),
        (404, False, False),
        (429, True, True),
        (500, True, True),
        (503, True, True),
    ],
)
def test_statuses(status: int, failed: bool, worth: bool) -> None:
    assert is_failure(head(status)) is failed
    assert worth_a_retry(head(status), ALL) is worth


@pytest.mark.parametrize(
    ("cause", "failed"),
    [("none", False), ("connect_failure", True), ("timeout", True), ("broken", True), ("overload", True)],
)
def test_causes(cause: FailureCause, failed: bool) -> None:
    assert is_failure(End(cause=cause)) is failed
    assert worth_a_retry(End(cause=cause), ALL) is failed


@pytest.mark.requirement("A269")
@pytest.mark.parametrize(
    ("allowed", "first"),
    [
        ("5xx", head(502)),
        ("5xx", End(cause="overload")),
        ("429", head(429)),
        ("timeout", End(cause="timeout")),
        ("connect_failure", End(cause="connect_failure")),
        ("connect_failure", End(cause="broken")),
    ],
)
def test_retry_on_allows_and_forbids(allowed: str, first: Head | End) -> None:
    every = ALL.retry_on
    assert worth_a_retry(first, RetrySettings(retry_on=tuple(word for word in every if word == allowed)))
    assert not worth_a_retry(first, RetrySettings(retry_on=tuple(word for word in every if word != allowed)))


@pytest.mark.requirement("A143", "A269")
@given(st.integers(1, 10), st.floats(0, 1))
def test_waits_are_jittered_fully_below_a_growing_bound(retry: int, draw: float) -> None:
    wait_s = backoff_s(retry, ALL, draw)
    assert 0 <= wait_s <= min(2 ** (retry - 1), 10)
    assert backoff_s(retry, ALL, 0.0) == 0.0


def test_the_bounds_are_one_two_four_seconds() -> None:
    assert [backoff_s(retry, ALL, 1.0) for retry in range(1, 6)] == [1, 2, 4, 8, 10]


@pytest.mark.requirement("A143")
@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        (b"retry-after", b"7", 7.0),
        (b"retry-after", b" 7 ", 7.0),
        (b"retry-after", b"0.5", 0.5),
        (b"retry-after", b"0", 0.0),
        (b"retry-after", b"-5", 0.0),
        (b"retry-after", b"1e400", MAX_RETRY_AFTER_S),
        (b"retry-after", b"99999999999999999999", MAX_RETRY_AFTER_S),
        (b"retry-after", b"nan", None),
        (b"retry-after", b"soon", None),
        (b"retry-after", b"", None),
        (b"retry-after", b"\xff\xfe", None),
        (b"retry-after", formatdate(NOW_S + 30, usegmt=True).encode(), 30.0),
        (b"retry-after", formatdate(NOW_S - 30, usegmt=True).encode(), 0.0),
        (b"retry-after", b"Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER_S),
        (b"retry-after", b"Mon, 01 Jan 0001 00:00:00 +2359", 0.0),
        (b"retry-after-ms", b"1500", 1.5),
        (b"retry-after-ms", b"-1", 0.0),
        (b"retry-after-ms", b"1e300", MAX_RETRY_AFTER_S),
        (b"retry-after-ms", b"x", None),
        (b"x-other", b"7", None),
    ],
)
def test_what_a_server_asks_for(name: bytes, value: bytes, seconds: float | None) -> None:
    assert retry_after_s([(b"server", b"s"), (name, value)], NOW_S) == seconds


def test_milliseconds_are_more_exact() -> None:
    assert retry_after_s([(b"retry-after", b"2"), (b"retry-after-ms", b"1200")], NOW_S) == 1.2
    assert retry_after_s([(b"retry-after-ms", b"?"), (b"retry-after", b"2")], NOW_S) == 2.0


numbers = st.integers(0, 99999)
dates = st.builds(
    "{} {} {} {}:{}:{} {}{}".format,
    numbers,
    st.sampled_from(["Jan", "Feb", "x"]),
    numbers,
    numbers,
    numbers,
    numbers,
    st.sampled_from(["+", "-", ""]),
    numbers,
)


@given(st.binary(max_size=40) | dates.map(str.encode))
def test_no_value_raises_or_leaves_the_bounds(value: bytes) -> None:
    wait_s = retry_after_s([(b"retry-after", value)], NOW_S)
    assert wait_s is None or 0 <= wait_s <= MAX_RETRY_AFTER_S


@pytest.mark.parametrize(
    ("running", "percent", "most"), [(0, 20, 3), (10, 20, 3), (100, 20, 20), (100, 0, 3), (50, 100, 50)]
)
def test_retries_are_a_share_of_the_running_requests(running: int, percent: int, most: int) -> None:
    budget = RetryBudget(percent)
    budget.running = running
    while budget.allows():
        budget.retrying += 1
    assert budget.retrying == most
