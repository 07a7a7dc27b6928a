import pytest

from zuebee.telemetry.series import Burn, Burns


def test_a_constant_rate_shows_after_a_while_and_fades_afterwards() -> None:
    burn = Burn()
    for second in range(300):
        burn.add(10, 1_000_000_000, float(second))
    tokens, cost = burn.rates(300.0)
    assert tokens == pytest.approx(600, rel=0.02)
    assert cost == pytest.approx(3600, rel=0.02)
    assert burn.rates(600.0)[0] < 6


def test_time_that_goes_back_adds_nothing() -> None:
    burn = Burn()
    burn.add(10, 0, 100.0)
    burn.add(10, 0, 50.0)
    assert burn.rates(100.0)[0] == pytest.approx(20.0, rel=1.0)


def test_pairs_are_bounded_and_add_up() -> None:
    burns = Burns(2)
    for n in range(10):
        burns.add(f"o{n}", "p", 6, 0, 0.0)
    rates = burns.rates(0.0)
    assert [pair for pair, _, _ in rates] == [("o0", "p"), ("o1", "p"), ("other", "other")]
    assert sum(tokens for _, tokens, _ in rates) == pytest.approx(60)
