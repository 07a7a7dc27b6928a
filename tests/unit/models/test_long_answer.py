import pytest

from tests.support.fakes import make_job
from zuebee.contracts.inference import Usage
from zuebee.models.answer import TAIL_BYTES, LongAnswer

USAGE = b'"usage":{"prompt_tokens":7,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":3}}'
BEGUN = b'{"choices":[{"message":{"content":"'
TEXT = b"x" * TAIL_BYTES


def answer(*pieces: bytes, **job: object) -> LongAnswer:
    passing = LongAnswer(make_job(prompt_tokens=30, **job), pieces[0])
    for piece in pieces:
        passing.passes(piece)
    return passing


@pytest.mark.parametrize(
    "pieces",
    [
        (BEGUN, TEXT, b'"}}],' + USAGE + b"}"),
        (BEGUN, TEXT, b'"}}],' + USAGE[:30], USAGE[30:] + b"}"),
        (b"{" + USAGE + b"," + BEGUN[1:], TEXT, TEXT, b'"}}]}'),
    ],
    ids=["at the end", "cut by the network", "at the beginning"],
)
def test_its_own_figures_count_wherever_they_stand(pieces: tuple[bytes, ...]) -> None:
    assert answer(*pieces).usage(whole=True) == Usage(7, 5, "provider", 3)
    assert answer(*pieces).usage(whole=False) == Usage(7, 5, "partial", 3)


def test_what_says_nothing_of_its_usage_costs_what_passed() -> None:
    assert answer(BEGUN, TEXT).usage(whole=False) == Usage(30, (len(BEGUN) + TAIL_BYTES) // 4, "partial")
    assert answer(BEGUN, TEXT).usage(whole=True).source == "estimate"


def test_an_estimate_is_no_more_than_was_asked_for() -> None:
    bounded = answer(BEGUN, TEXT, operation="completions", max_output_tokens=10, choices=2, prompts=3)
    assert bounded.usage(whole=True) == Usage(30, 60, "estimate")


def test_log_probabilities_are_no_text() -> None:
    verbose = answer(BEGUN, TEXT, body=b'{"model":"m","logprobs":true}')
    assert verbose.usage(whole=False).completion_tokens == (len(BEGUN) + TAIL_BYTES) // 100


def test_vectors_are_no_tokens() -> None:
    assert answer(b'{"data":[', TEXT, operation="embeddings").usage(whole=False) == Usage(30, 0, "partial")
