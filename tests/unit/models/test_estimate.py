import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.models.estimate import DEFAULT_TOKENS_PER_BYTE, MAX_MODELS, TokenRatios


def test_without_knowledge_four_bytes_are_a_token() -> None:
    assert TokenRatios().estimate("m", 400) == 400 * DEFAULT_TOKENS_PER_BYTE == 100


def test_a_model_is_learnt_and_others_are_not() -> None:
    ratios = TokenRatios()
    ratios.learn("m", 1000, 500)
    assert ratios.estimate("m", 100) == 50
    assert ratios.estimate("other", 100) == 25


def test_one_odd_request_changes_little() -> None:
    ratios = TokenRatios()
    for _ in range(50):
        ratios.learn("m", 1000, 500)
    ratios.learn("m", 1000, 1_000_000)
    ratios.learn("m", 1000, 0)
    ratios.learn("m", 0, 5)
    assert ratios.estimate("m", 1000) < 60_000
    for _ in range(300):
        ratios.learn("m", 1000, 500)
    assert ratios.estimate("m", 1000) == pytest.approx(500, rel=0.05)


def test_a_backend_that_counts_too_much_makes_nobodys_request_unaffordable() -> None:
    ratios = TokenRatios()
    ratios.learn("m", 100, 10**9)
    assert ratios.estimate("m", 1000) == 1000


def test_models_are_bounded() -> None:
    ratios = TokenRatios()
    for n in range(MAX_MODELS + 10):
        ratios.learn(f"m{n}", 100, 100)
    assert ratios.estimate(f"m{MAX_MODELS - 1}", 100) == 100
    assert ratios.estimate(f"m{MAX_MODELS}", 100) == 25


@given(st.lists(st.tuples(st.integers(1, 10**8), st.integers(1, 10**9))), st.integers(0, 10**8))
def test_an_estimate_is_never_negative(seen: list[tuple[int, int]], size_bytes: int) -> None:
    ratios = TokenRatios()
    for body_bytes, tokens in seen:
        ratios.learn("m", body_bytes, tokens)
    assert ratios.estimate("m", size_bytes) >= 0
