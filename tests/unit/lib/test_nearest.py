import pytest

from zuebee.lib.nearest import did_you_mean, nearest

PERIODS = ("daily", "weekly", "monthly", "never")


@pytest.mark.parametrize(("given", "meant"), [("monthy", "monthly"), ("MONTHLY", "monthly"), ("dayly", "daily")])
def test_the_nearest_word_is_named(given: str, meant: str) -> None:
    assert nearest(given, PERIODS) == meant
    assert did_you_mean(given, PERIODS) == f"; did you mean `{meant}`?"


@pytest.mark.parametrize("given", ["", "yearly!", "x" * 10_000, "monthly" * 1_000])
def test_of_what_is_far_off_nothing_is_said(given: str) -> None:
    assert did_you_mean(given, PERIODS) == ""
