from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fakes import head
from zuebee.config.settings import Restartable, RetrySettings
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import End, FailureCause, Head
from zuebee.dispatch.balancer import (
    MAX_RETRY_AFTER_S,
    RetryBudget,
    backoff_s,
    is_failure,
    retry_after_s,
    weight,
    where_again,
)

ALL = RetrySettings()
NOW_S = 1_800_000_000.0


EVERY: tuple[Restartable, ...] = ("timeout", "broken", "5xx")


def ended(cause: FailureCause, *, sent: bool = True, status: int = 502) -> End:
    return End(cause=cause, sent=sent, refusal=Refusal(status, "api_error", "x", "x"))


@pytest.mark.parametrize(
    ("status", "failed", "where"),
    [
        (200, False, "nowhere"),
        (400, False, "nowhere"),
        (404, False, "nowhere"),
        (408, False, "nowhere"),
        (409, False, "nowhere"),
        (429, True, "anywhere"),
        (500, True, "nowhere"),
        (501, True, "nowhere"),
        (502, True, "nowhere"),
        (503, True, "anywhere"),
        (504, True, "nowhere"),
        (520, True, "nowhere"),
        (529, True, "anywhere"),
    ],
)
def test_only_statuses_of_those_who_have_not_begun_are_tried_again(status: int, failed: bool, where: str) -> None:
    assert is_failure(head(status)) is failed
    assert where_again(head(status), ALL, (), 0) == where
    assert where_again(head(status), ALL, ("timeout", "broken"), 0) == where
    assert where_again(head(status), ALL, ("5xx",), 0) == ("anywhere" if status >= 500 else where)


@pytest.mark.parametrize("value", [b"false", b"False", b" FALSE "])
@pytest.mark.parametrize("status", [429, 503, 529, 500])
def test_a_backend_that_says_no_is_obeyed(status: int, value: bytes) -> None:
    assert where_again(head(status, [(b"x-should-retry", value)]), ALL, EVERY, 0) == "nowhere"
    assert where_again(head(status, [(b"x-should-retry", b"true")]), ALL, EVERY, 0) == "anywhere"
    assert where_again(head(500, [(b"x-should-retry", b"true")]), ALL, (), 0) == "nowhere"


@pytest.mark.parametrize(
    ("first", "doubts", "where"),
    [
        (ended("none"), 0, "nowhere"),
        (ended("connect_failure", sent=False), 0, "anywhere"),
        (ended("gone"), 2, "nowhere"),
        (ended("gone"), 1, "anywhere"),  # lost a kept connection, got no other: sent once so far
        (ended("died"), 1, "elsewhere"),
        (ended("died"), 2, "nowhere"),
        (ended("broken"), 0, "nowhere"),
        (ended("timeout"), 0, "nowhere"),
        (ended("unwelcome"), 0, "elsewhere"),
        (ended("overload", sent=False, status=503), 0, "anywhere"),  # no connection was free
        (ended("overload", status=502), 0, "nowhere"),  # an error inside of an answer
        (ended("overload", status=503), 0, "anywhere"),
        (ended("overload", status=529), 0, "anywhere"),
    ],
    ids=lambda value: f"{value.cause}-{value.sent}" if isinstance(value, End) else str(value),
)
def test_what_may_have_been_begun_is_not_repeated(first: End, doubts: int, where: str) -> None:
    assert is_failure(first) is (first.cause != "none")
    assert where_again(first, ALL, (), doubts) == where


@pytest.mark.parametrize(
    ("word", "first"),
    [
        ("timeout", ended("timeout")),
        ("broken", ended("broken")),
        ("broken", ended("died")),
        ("5xx", ended("overload")),
        ("5xx", head(500)),
    ],
)
def test_an_operator_can_choose_otherwise(word: Restartable, first: Head | End) -> None:
    others: tuple[Restartable, ...] = tuple(each for each in EVERY if each != word)
    assert where_again(first, ALL, (word,), 9) == "anywhere"
    assert where_again(first, ALL, others, 9) == "nowhere"


@pytest.mark.requirement("A269")
@pytest.mark.parametrize(
    ("allowed", "first"),
    [
        ("5xx", head(502)),
        ("5xx", head(503)),
        ("5xx", ended("overload")),
        ("429", head(429)),
        ("timeout", ended("timeout")),
        ("connect_failure", ended("connect_failure", sent=False)),
        ("connect_failure", ended("died")),
        ("connect_failure", ended("broken")),
        ("connect_failure", ended("unwelcome")),
    ],
)
def test_retry_on_allows_and_forbids(allowed: str, first: Head | End) -> None:
    only = RetrySettings(retry_on=tuple(word for word in ALL.retry_on if word == allowed))
    others = RetrySettings(retry_on=tuple(word for word in ALL.retry_on if word != allowed))
    assert where_again(first, only, EVERY, 0) != "nowhere"
    assert where_again(first, others, EVERY, 0) == "nowhere"


def test_what_may_have_begun_is_told_before_answers_and_these_before_silence() -> None:
    begun = [ended("died"), ended("gone"), ended("broken"), ended("timeout")]
    answers = [head(429), head(500), ended("overload"), ended("unwelcome")]
    nothing = [ended("connect_failure", sent=False), ended("overload", sent=False), ended("none", sent=False)]
    assert {weight(first) for first in begun} == {2}
    assert {weight(first) for first in answers} == {1}
    assert {weight(first) for first in nothing} == {0}


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
