"""What servers say of tokens, each in its own words: billed as it was meant, and carefully where that is not sure."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.dialects.openai import answer_usage
from zuebee.dialects.openai_shapes import MAX_TOKENS
from zuebee.dialects.openai_stream import StreamMeter
from zuebee.dialects.openai_usage import TokenCounts, usage_figures


def told(figures: TokenCounts | None) -> tuple[int, int, int] | None:
    return None if figures is None else figures.all[:3]


FIGURES: list[tuple[bytes, tuple[int, int, int] | None]] = [
    (b'{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}', (7, 5, 0)),
    (b'{"prompt_tokens":7,"completion_tokens":null}', None),
    (b'{"prompt_tokens":7,"total_tokens":7}', (7, 0, 0)),
    (b'{"prompt_tokens":7,"completion_tokens":null,"total_tokens":12}', (7, 5, 0)),
    (b'{"prompt_tokens":7,"total_tokens":5}', (7, 0, 0)),
    (b'{"prompt_tokens":0,"completion_tokens":5}', (0, 5, 0)),
    (b'{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}', None),
    (b'{"prompt_tokens":7,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":4,"audio_tokens":0}}', (7, 0, 4)),
    (b'{"prompt_tokens":7,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":7}}', (7, 0, 7)),
    (b'{"prompt_tokens":7,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":8}}', (7, 0, 7)),
    (b'{"prompt_tokens":7,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":9223372036854775808}}', (7, 0, 0)),
    (b'{"prompt_tokens":7,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":-4}}', (7, 0, 0)),
    (b'{"prompt_tokens":7,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":4.0}}', (7, 0, 4)),
    (b'{"prompt_tokens":7,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":true}}', (7, 0, 0)),
    (b'{"prompt_tokens":7,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":"4"}}', (7, 0, 4)),
    (b'{"prompt_tokens":7,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":{}}}', (7, 0, 0)),
    (b'{"prompt_tokens":7,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":null}}', (7, 0, 0)),
    (b'{"prompt_tokens":7,"total_tokens":7,"prompt_tokens_details":null}', (7, 0, 0)),
    (b'{"prompt_tokens":7,"total_tokens":7,"prompt_tokens_details":[4]}', (7, 0, 0)),
    (b'{"prompt_tokens":NaN,"completion_tokens":1}', None),
    (b'{"prompt_tokens":Infinity,"completion_tokens":1}', None),
    (b'{"prompt_tokens":7,"completion_tokens":-Infinity}', None),
    (b'{"prompt_tokens":7,"completion_tokens":-1}', None),
    (b'{"prompt_tokens":-7,"completion_tokens":1}', None),
    (b'{"prompt_tokens":9223372036854775808,"completion_tokens":1}', None),
    (b'{"prompt_tokens":1000000001,"completion_tokens":1}', None),
    (b'{"prompt_tokens":1e308,"completion_tokens":1}', None),
    (b'{"prompt_tokens":7.0,"completion_tokens":1}', (7, 1, 0)),
    (b'{"prompt_tokens":7.5,"completion_tokens":1}', None),
    (b'{"prompt_tokens":"7","completion_tokens":1}', (7, 1, 0)),
    (b'{"prompt_tokens":"seven","completion_tokens":1}', None),
    (b'{"prompt_tokens":true,"completion_tokens":1}', None),
    (b'{"prompt_tokens":7,"completion_tokens":[]}', None),
    (b'{"prompt_tokens":null,"completion_tokens":1}', None),
    (b'{"completion_tokens":1}', None),
    (b'{"prompt_tokens":' + b"9" * 5000 + b"}", None),
    (b"{}", None),
    (b"null", None),
    (b"[]", None),
    (b'"many"', None),
    (b"7", None),
]


@pytest.mark.parametrize(("usage", "figures"), FIGURES, ids=lambda value: str(value)[:50])
def test_usage_is_believed_only_if_it_can_be_true(usage: bytes, figures: tuple[int, int, int] | None) -> None:
    assert told(usage_figures(usage)) == figures
    assert told(answer_usage(b'{"choices":[],"usage": ' + usage + b"}")) == figures


_LEAVES = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=5), st.just(2**63))
_ANY = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "prompt_tokens": _ANY,
            "completion_tokens": _ANY,
            "prompt_tokens_details": _ANY | st.fixed_dictionaries({"cached_tokens": _ANY}),
        },
    )
)
def test_no_usage_is_ever_a_credit(usage: dict[str, Any]) -> None:
    figures = usage_figures(json.dumps(usage).encode())
    assert figures is None or (
        0 <= figures.cached <= figures.prompt <= MAX_TOKENS and 0 <= figures.completion <= MAX_TOKENS
    )


@pytest.mark.parametrize("depth", range(900, 1010, 5))
def test_no_depth_raises(depth: int) -> None:
    usage_figures(b'{"prompt_tokens":' + b"[" * depth + b"]" * depth + b"}")


@given(st.binary(max_size=80))
def test_no_bytes_raise(data: bytes) -> None:
    usage_figures(data)


def test_a_usage_of_a_megabyte_is_none() -> None:
    assert usage_figures(b'{"prompt_tokens":1,"completion_tokens":1,"x":[' + b"[]," * 300_000 + b"1]}") is None


# --- the words of each ---

SPELLINGS: dict[str, tuple[dict[str, Any], TokenCounts]] = {
    "OpenAI, thoughts inside": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 30,
            "total_tokens": 40,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        TokenCounts(10, 30, 4, 0, 20),
    ),
    "xAI, thoughts beside": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 35,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        TokenCounts(10, 25, 0, 0, 20),
    ),
    "thoughts beside without a total": (
        {"prompt_tokens": 10, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 20}},
        TokenCounts(10, 25, 0, 0, 20),
    ),
    "Gemini, thoughts in the total alone": (
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115},
        TokenCounts(10, 105, 0, 0, 100),
    ),
    "DeepSeek": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "prompt_cache_hit_tokens": 8,
            "prompt_cache_miss_tokens": 2,
        },
        TokenCounts(10, 5, 8),
    ),
    "Moonshot": (
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cached_tokens": 6},
        TokenCounts(10, 5, 6),
    ),
    "vLLM": (
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "prompt_tokens_details": None},
        TokenCounts(10, 5),
    ),
    "OpenRouter": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "cost": 0.1,
            "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
        TokenCounts(10, 5, 3, 4, 2),
    ),
    "Anthropic's names, all inside": (
        {
            "prompt_tokens": 110,
            "completion_tokens": 5,
            "total_tokens": 115,
            "cache_read_input_tokens": 60,
            "cache_creation_input_tokens": 40,
        },
        TokenCounts(110, 5, 60, 40),
    ),
    "Anthropic's names, beside": (
        {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 40},
        TokenCounts(110, 5, 60, 40),
    ),
    "Anthropic's names, beside, a total of all": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 115,
            "cache_read_input_tokens": 60,
            "cache_creation_input_tokens": 40,
        },
        TokenCounts(110, 5, 60, 40),
    ),
    "Anthropic's names, beside, a total without them": (
        {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "cache_read_input_tokens": 60},
        TokenCounts(70, 5, 60),
    ),
    "OpenAI's responses": (
        {
            "input_tokens": 10,
            "output_tokens": 5,
            "total_tokens": 15,
            "input_tokens_details": {"cached_tokens": 3},
            "output_tokens_details": {"reasoning_tokens": 2},
        },
        TokenCounts(10, 5, 3, 0, 2),
    ),
    "texts": ({"prompt_tokens": "10", "completion_tokens": "5", "total_tokens": "15"}, TokenCounts(10, 5)),
    "floats": ({"prompt_tokens": 10.0, "completion_tokens": 5.0, "total_tokens": 15.0}, TokenCounts(10, 5)),
    "a total that is too small": (
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 9},
        TokenCounts(10, 5, odd=True),
    ),
    "a total that cannot be": (
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 500_000_000},
        TokenCounts(10, 5, odd=True),
    ),
    "a total that does not fit the thoughts": (
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 45, "reasoning_tokens": 20},
        TokenCounts(10, 35, 0, 0, 30, odd=True),
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_each_spelling_is_read_as_it_is_meant(name: str) -> None:
    usage, figures = SPELLINGS[name]
    assert usage_figures(json.dumps(usage).encode()) == figures
    assert answer_usage(json.dumps({"choices": [], "usage": usage}).encode()) == figures


_FEW = st.integers(0, 1000)


@given(_FEW, _FEW, _FEW, _FEW, _FEW, st.sampled_from(["inside", "beside"]), st.booleans())
def test_no_spelling_is_billed_for_less_than_was_counted(
    prompt: int, text: int, thoughts: int, cached: int, written: int, place: str, says_total: bool
) -> None:
    """A server that means what it says, in one way or the other: the sum is all of it."""
    usage: dict[str, Any] = {"completion_tokens_details": {"reasoning_tokens": thoughts}}
    if place == "inside":
        prompt += cached + written
        usage |= {"prompt_tokens": prompt, "completion_tokens": text + thoughts}
        wanted = prompt + text + thoughts
        usage["prompt_tokens_details"] = {"cached_tokens": cached, "cache_write_tokens": written}
    else:
        usage |= {"prompt_tokens": prompt, "completion_tokens": text}
        wanted = prompt + text + thoughts
        says_total = True
    if says_total:
        usage["total_tokens"] = wanted
    figures = usage_figures(json.dumps(usage).encode())
    if not wanted:
        assert figures is None
        return
    assert figures is not None
    assert (figures.prompt + figures.completion, figures.reasoning) == (wanted, thoughts)
    assert not figures.odd
    if place == "inside":
        assert (figures.cached, figures.written) == (cached, written)


# --- in streams ---

USAGE = '{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}'


def metered(*events: str) -> StreamMeter:
    meter = StreamMeter(hide_usage=True)
    for event in events:
        meter.feed(f"data: {event}\n\n".encode())
    return meter


@pytest.mark.parametrize(
    "last",
    [
        '{"choices":[{"index":0,"delta":{},"finish_reason":"stop","usage":' + USAGE + "}]}",
        '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"x_groq":{"id":"a","usage":' + USAGE + "}}",
        '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":' + USAGE + "}",
        '{"choices":[],"usage":' + USAGE + "}",
    ],
    ids=["in the choice", "Groq", "beside the choice", "by itself"],
)
@pytest.mark.parametrize("done", [True, False])
def test_usage_is_found_wherever_a_stream_has_it(last: str, done: bool) -> None:
    first = '{"choices":[{"index":0,"delta":{"content":"a"}}],"x_groq":{"id":"a"}}'
    meter = metered(first, last, *(["[DONE]"] if done else []))
    assert told(meter.figures) == (7, 5, 0)


@pytest.mark.parametrize("said", ["1", "null", "[]", '{"usage":1}', '{"usage":[[]]}'])
def test_what_is_said_beside_breaks_nothing(said: str) -> None:
    meter = metered('{"choices":[{"finish_reason":"stop","usage":' + said + '}],"x_groq":' + said + "}", "[DONE]")
    assert meter.figures is None
    assert meter.done
