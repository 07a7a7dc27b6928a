import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.usage.outbox import (
    PARKED_AT_S,
    PROBE_WAITS_S,
    SCHEDULE_S,
    ByteRateLimit,
    Delivered,
    Failed,
    Gone,
    ReceiverHealth,
    attempt_wait_s,
    due_after,
    judge,
    masked,
)


def test_the_schedule_is_the_one_of_standard_webhooks() -> None:
    assert SCHEDULE_S == (0, 5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 10 * 3600)
    assert [due_after(rounds, 1000.0, 0.5) - 1000.0 for rounds in range(1, 8)] == [*SCHEDULE_S[1:]]
    assert due_after(8, 1000.0, 0.5) == PARKED_AT_S


@given(st.integers(1, 7), st.floats(0, 1, exclude_max=True))
def test_waits_differ_by_a_tenth_at_most(rounds: int, chance: float) -> None:
    wait_s = due_after(rounds, 0.0, chance)
    assert 0.9 * SCHEDULE_S[rounds] <= wait_s <= 1.1 * SCHEDULE_S[rounds]


@pytest.mark.parametrize(
    ("status", "retry_after", "outcome"),
    [
        (200, None, Delivered()),
        (204, None, Delivered()),
        (299, None, Delivered()),
        (302, None, Failed("status 302")),
        (400, "5", Failed("status 400")),
        (410, None, Gone()),
        (429, "7", Failed("status 429", 7.0)),
        (503, " 30 ", Failed("status 503", 30.0)),
        (503, "Thu, 01 Jan 1970 00:01:50 GMT", Failed("status 503", 10.0)),
        (503, "Thu, 01 Jan 1970 00:00:50 GMT", Failed("status 503", 0.0)),
        (429, "Wed, 21 Oct 2026 07:28:00 GMT", Failed("status 429", 3600.0)),
        (429, "Wed, 99 Oct 2026", Failed("status 429")),
        (429, "", Failed("status 429")),
        (503, "99999999", Failed("status 503", 3600.0)),
        (503, "-1", Failed("status 503")),
    ],
)
def test_what_an_answer_means(status: int, retry_after: str | None, outcome: object) -> None:
    assert judge(status, retry_after, 100.0) == outcome


def test_attempts_of_one_round_are_linear() -> None:
    assert [attempt_wait_s(n) for n in (1, 2, 3)] == pytest.approx([0.1, 0.2, 0.3])


def test_a_receiver_is_down_after_five_failures_in_a_row() -> None:
    health = ReceiverHealth()
    for _ in range(4):
        health.note(Failed("x"), 100.0)
    assert health.state == "up"
    health.note(Delivered(), 100.0)
    for _ in range(4):
        health.note(Failed("x"), 100.0)
    assert health.state == "up"
    health.note(Failed("x"), 100.0)
    assert (health.state, health.wait_s(100.0), health.wait_s(103.0)) == ("down", 5.0, 2.0)


def test_a_receiver_that_is_down_is_asked_less_and_less_often() -> None:
    health, now_s = ReceiverHealth(), 0.0
    for _ in range(100):  # all of one batch count as one
        health.note(Failed("x"), now_s)
    waits = []
    for _ in range(9):
        waits.append(health.wait_s(now_s))
        now_s += waits[-1]
        health.note(Failed("x"), now_s)
    assert waits == [*PROBE_WAITS_S, 300.0, 300.0]
    assert health.note(Delivered(), now_s)
    assert (health.state, health.wait_s(now_s)) == ("up", 0.0)
    assert not health.note(Delivered(), now_s)


def test_a_receiver_may_ask_for_a_rest() -> None:
    health = ReceiverHealth()
    health.note(Failed("status 429", 60.0), 100.0)
    assert (health.state, health.wait_s(100.0)) == ("down", 60.0)


def test_gone_means_gone_until_somebody_says_otherwise() -> None:
    health = ReceiverHealth()
    health.note(Gone(), 1.0)
    assert health.state == "paused"
    for outcome in (Delivered(), Failed("x", 5.0)):
        assert not health.note(outcome, 2.0)
    assert health.state == "paused"
    health.resume()
    assert health.state == "up"


@given(st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 2)), max_size=100))
def test_no_more_bytes_go_out_than_the_pace_allows(sent: list[tuple[int, float]]) -> None:
    pace, now_s, total = ByteRateLimit(1000.0), 0.0, 0
    for size, pause_s in sent:
        now_s += pause_s
        now_s += pace.wait_s(now_s)
        total_before = total
        pace.spend(size, now_s)
        total += size
        assert total_before <= 1000 + 1000 * now_s + 1e-3


def test_a_key_is_masked() -> None:
    assert masked("key_0123456789") == "key_***6789"
    assert (masked("short"), masked("")) == ("***", "")
