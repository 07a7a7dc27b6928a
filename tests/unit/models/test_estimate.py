import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fakes import make_job
from zuebee.contracts.admission import Principal
from zuebee.contracts.inference import Job
from zuebee.models.estimate import (
    DEFAULT_MEDIA_TOKENS,
    DEFAULT_TOKENS_PER_BYTE,
    MAX_KEYS,
    MAX_MEDIA_TOKENS,
    MAX_MODELS,
    MIN_TOKENS_PER_BYTE,
    TEMPLATE_TOKENS,
    PromptSizes,
)


def job(size: int = 1000, key: str = "k", model: str = "m", media: int = 0, media_bytes: int = 0) -> Job:
    return make_job(body=b"x" * size, model=model, media=media, media_bytes=media_bytes, sender=Principal(key_id=key))


def test_what_nobody_has_counted_has_a_token_for_four_bytes_and_at_most_one_for_each() -> None:
    assert PromptSizes().sizes("k", job(400)) == (400 * DEFAULT_TOKENS_PER_BYTE, 400 + TEMPLATE_TOKENS)


def test_text_is_learned_for_each_key_and_model() -> None:
    sizes = PromptSizes()
    for _ in range(200):
        sizes.learn(job(1000), 500)
    assert sizes.sizes("k", job(1000))[0] == pytest.approx(500, rel=0.01)
    assert sizes.sizes("k", job(1000, model="other"))[0] == 250
    assert sizes.sizes("other", job(1000))[0] == 250, "what one caller sends moves nobody else's figures"


@pytest.mark.parametrize("prompt_tokens", [1, 10**9])
def test_no_caller_moves_its_own_figures_out_of_what_text_can_have(prompt_tokens: int) -> None:
    sizes = PromptSizes()
    for _ in range(1000):
        sizes.learn(job(1000), prompt_tokens)
    probably, most = sizes.sizes("k", job(1000))
    assert 1000 * MIN_TOKENS_PER_BYTE <= probably <= most


def test_pictures_count_apart_and_teach_nothing_of_text() -> None:
    sizes = PromptSizes()
    picture = job(1_000_000, media=1, media_bytes=999_000)
    assert sizes.sizes("k", picture) == (250 + DEFAULT_MEDIA_TOKENS, 1000 + TEMPLATE_TOKENS + 999_000 // 16)
    for _ in range(300):
        sizes.learn(picture, 250 + 85)
    assert sizes.sizes("k", job(1000))[0] == 250, "a caller with pictures does not bring its text near nothing"
    assert sizes.sizes("k", picture)[0] == pytest.approx(250 + 85, rel=0.02)


def test_a_picture_behind_an_address_has_no_bytes_and_may_be_large() -> None:
    assert PromptSizes().sizes("k", job(400, media=2))[1] == 400 + TEMPLATE_TOKENS + 2 * MAX_MEDIA_TOKENS


def test_a_server_that_adds_more_than_templates_have_is_found_out_and_forgotten_slowly() -> None:
    sizes = PromptSizes()
    sizes.learn(job(100), 5_000)
    probably, most = sizes.sizes("k", job(100))
    assert most == 5_000
    assert probably >= 4_300
    for _ in range(1000):
        sizes.learn(job(100), 25)
    assert sizes.sizes("k", job(100))[1] == 100 + TEMPLATE_TOKENS


def test_keys_and_models_are_bounded_and_a_key_with_many_models_forgets_its_own() -> None:
    sizes = PromptSizes()
    sizes.learn(job(1000, key="quiet"), 900)
    for number in range(3 * MAX_MODELS):
        sizes.learn(job(1000, key="loud", model=f"m{number}"), 900)
    assert sizes.sizes("quiet", job(1000))[0] > 250
    assert sizes.sizes("loud", job(1000, model="m0"))[0] == 250
    for number in range(MAX_KEYS):
        sizes.learn(job(1000, key=f"k{number}"), 900)
    assert sizes.sizes("quiet", job(1000))[0] == 250


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.integers(0, 3), st.integers(0, 10**9)), max_size=30),
    st.integers(0, 10**6),
)
def test_an_estimate_is_never_more_than_there_can_be(seen: list[tuple[int, int, int]], size: int) -> None:
    sizes = PromptSizes()
    for size_bytes, media, tokens in seen:
        sizes.learn(job(size_bytes, media=media, media_bytes=size_bytes // 2 if media else 0), tokens)
    probably, most = sizes.sizes("k", job(size))
    assert 0 <= probably <= most
    assert most >= size
