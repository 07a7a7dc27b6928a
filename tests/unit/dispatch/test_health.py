import pytest

from zuebee.dispatch.balancer import CONSECUTIVE_FAILURES, EJECTION_S, MAX_EJECTION_S, Health


def make(unhealthy: int = 3, healthy: int = 2) -> Health:
    return Health(unhealthy_threshold=unhealthy, healthy_threshold=healthy)


def fail(health: Health, now_s: float, times: int = CONSECUTIVE_FAILURES) -> list[bool]:
    return [health.request_failed(now_s) for _ in range(times)]


@pytest.mark.requirement("A144")
def test_probes_take_out_and_bring_back_at_their_thresholds() -> None:
    health = make()
    assert health.fit(0)
    assert not health.probe_passed()
    assert [health.probe_failed(1.0) for _ in range(4)] == [False, False, True, False]
    assert not health.fit(0)
    assert [health.probe_passed() for _ in range(3)] == [False, True, False]
    assert health.fit(0)


def test_a_passed_probe_begins_the_count_anew() -> None:
    health = make()
    health.probe_passed()
    for _ in range(10):
        assert not health.probe_failed(1.0)
        assert not health.probe_failed(1.0)
        assert not health.probe_passed()
    assert health.fit(0)


def test_a_failed_probe_begins_the_way_back_anew() -> None:
    health = make()
    assert health.probe_failed(1.0)
    for _ in range(10):
        assert not health.probe_passed()
        assert not health.probe_failed(1.0)
    assert not health.fit(0)


def test_the_first_probe_decides_alone() -> None:
    health = make()
    assert health.probe_failed(1.0)
    assert not health.fit(0)


def test_five_failures_in_a_row_eject_for_thirty_seconds() -> None:
    health = make()
    assert fail(health, 100.0) == [False, False, False, False, True]
    assert not health.fit(100.0 + EJECTION_S - 0.001)
    assert health.fit(100.0 + EJECTION_S)


def test_a_success_between_them_forgives() -> None:
    health = make()
    for _ in range(10):
        assert not any(fail(health, 0.0, CONSECUTIVE_FAILURES - 1))
        health.request_succeeded(0.0)
    assert health.fit(0.0)


def test_each_ejection_is_longer_up_to_a_limit() -> None:
    health = make()
    now_s = 0.0
    lengths = []
    for _ in range(15):
        fail(health, now_s)
        lengths.append(health.ejected_until_s - now_s)
        now_s = health.ejected_until_s
    assert lengths[:4] == [30, 60, 90, 120]
    assert lengths[-1] == MAX_EJECTION_S == max(lengths)


def test_failures_while_ejected_do_not_lengthen_it() -> None:
    health = make()
    fail(health, 0.0)
    assert not any(fail(health, 1.0, 50))
    assert health.ejected_until_s == EJECTION_S


def test_long_good_conduct_clears_the_record() -> None:
    health = make()
    fail(health, 0.0)
    health.request_succeeded(EJECTION_S + MAX_EJECTION_S + 1)
    fail(health, 1000.0)
    assert health.ejected_until_s == 1000.0 + EJECTION_S


def test_enough_probes_after_an_ejection_end_it() -> None:
    health = make()
    for _ in range(10):
        health.probe_passed()  # from before it: they say nothing of the failures
    fail(health, 0.0)
    health.probe_passed()
    assert not health.fit(1.0)
    health.probe_passed()
    assert health.fit(1.0)


def test_probes_and_ejections_both_count() -> None:
    health = make()
    health.probe_failed(1.0)
    fail(health, 0.0)
    assert not health.fit(EJECTION_S + 1)


def test_an_answer_brings_back_what_its_probes_took_out() -> None:
    health = make()
    assert health.probe_failed(1.0)
    assert health.request_succeeded(2.0)
    assert health.fit(2.0)
    assert not health.request_succeeded(3.0)
    assert [health.probe_failed(4.0) for _ in range(3)] == [False, False, True], "and the count begins anew"


def test_an_answer_ends_an_ejection() -> None:
    health = make()
    assert fail(health, 100.0)[-1]
    assert not health.fit(101.0)
    assert health.request_succeeded(101.0)
    assert health.fit(101.0)


def test_an_excused_probe_says_nothing_while_there_are_answers() -> None:
    health = make()
    health.probe_passed()
    health.request_succeeded(10.0)
    assert not any(health.probe_failed(10.0 + n, excused=True) for n in range(50))
    assert [health.probe_failed(80.0, excused=True) for _ in range(3)] == [False, False, True]
    health.request_succeeded(90.0)
    assert [health.probe_failed(91.0) for _ in range(3)] == [False, False, True], "one without excuse counts"


def test_without_others_nobody_is_ejected_until_there_are_some() -> None:
    health = make()
    assert not any(health.request_failed(1.0, others=False) for _ in range(20))
    assert health.request_failed(1.0, others=True)
