from zuebee.telemetry.series import Histogram


def test_a_bound_belongs_to_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.5):
        histogram.observe(value)
    assert (histogram.counts, histogram.sum) == ([2, 1, 1], 5.5)


def test_two_become_one() -> None:
    first, second = Histogram((1.0,)), Histogram((1.0,))
    first.observe(0.5)
    second.observe(3.0)
    first.merge(second)
    assert (first.counts, first.sum) == ([1, 1], 3.5)
