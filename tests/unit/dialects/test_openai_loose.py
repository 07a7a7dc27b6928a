"""What vLLM takes for a number or a truth value is read as vLLM reads it: by pydantic, which judges here."""

import json
from typing import Any

import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zuebee.contracts.errors import Refusal
from zuebee.dialects import openai
from zuebee.dialects.json_text import BOM
from zuebee.dialects.openai import Bound, read_request, write_fields
from zuebee.dialects.openai_shapes import MAX_TOKENS, Request


class Options(pydantic.BaseModel):
    include_usage: bool | None = False


class Asked(pydantic.BaseModel):
    """The fields of vLLM's `ChatCompletionRequest` that decide over money."""

    model: str | None = None
    stream: bool | None = False
    stream_options: Options | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = 1


def as_a_server(body: bytes) -> Asked | None:
    try:
        return Asked.model_validate(json.loads(body))
    except (pydantic.ValidationError, ValueError):
        return None


figures = st.one_of(
    st.integers(-2, 300),
    st.integers(-2, 300).map(float),
    st.floats(0, 20, width=16),
    st.integers(0, 300).map(str),
    st.from_regex(r"[ \n]?[-+]?[0-9_]{1,4}(\.[0-9]{0,2})?[ ]?", fullmatch=True),
    st.sampled_from([None, True, False, "", "ten", "1e2", "0x10", "0010", [10], {"n": 1}, 1e2, 1e300]),
)
truths = st.one_of(
    st.sampled_from(["true", "True", "ON", "off", "yes", "no", "y", "N", "t", "f", "1", "0", " true", "", "null"]),
    st.sampled_from([None, True, False, 0, 1, 2, -1, 0.0, 1.0, 0.5, [], {}]),
)
bodies = st.fixed_dictionaries(
    {"messages": st.just([{"role": "user", "content": "Hello"}])},
    optional={
        "model": st.sampled_from(["m", "", None, 5]),
        "stream": truths,
        "stream_options": st.one_of(st.none(), st.fixed_dictionaries({}, optional={"include_usage": truths})),
        "max_tokens": figures,
        "max_completion_tokens": figures,
        "n": figures,
    },
)


@given(bodies, st.booleans(), st.sampled_from([0, openai.SMALL_BYTES]))
@example({"max_tokens": 100.0}, False, 0)
@example({"max_tokens": "10", "stream": 1, "model": None}, True, 0)
@example({"max_completion_tokens": "1_000", "n": "2"}, False, openai.SMALL_BYTES)
@example({"stream": "yes", "stream_options": {"include_usage": 1}}, False, 0)
def test_what_a_server_takes_is_read_as_it_reads_it(fields: dict[str, Any], marked: bool, padding: int) -> None:
    body = (BOM if marked else b"") + json.dumps({**fields, "pad": "x" * padding}).encode()
    served, request = as_a_server(body), read_request(body)
    if served is None:
        assert isinstance(request, Refusal), body
        assert request.status == 400
        return
    bounds = [each for each in (served.max_tokens, served.max_completion_tokens) if each is not None]
    if any(each < -1 or each > MAX_TOKENS for each in bounds) or (served.n is not None and served.n < 1):
        assert isinstance(request, Refusal), body  # of what servers refuse later, the gateway makes no money
        return
    assert isinstance(request, Request), (body, request)
    assert request.model == (served.model or "")
    assert request.stream == (served.stream is True)
    assert request.stream_usage == (served.stream_options is not None and served.stream_options.include_usage is True)
    # To vLLM a `max_completion_tokens` of 0 is none.
    most = max((-1 if each is None else each) for each in (served.max_tokens, served.max_completion_tokens or None))
    assert request.max_output_tokens == (None if most < 0 else most)
    assert request.choices == (served.n or 1)


@given(bodies, st.booleans())
def test_what_the_gateway_writes_a_server_reads(fields: dict[str, Any], marked: bool) -> None:
    body = (BOM if marked else b"") + json.dumps(fields).encode()
    request = read_request(body)
    if isinstance(request, Refusal):
        return
    bound = Bound("max_tokens", 77) if request.max_output_tokens is None else None
    sent = write_fields(body, request.places, usage=not request.stream_usage, bound=bound)
    served = as_a_server(sent)
    assert served is not None
    assert served.stream_options is not None
    assert served.stream_options.include_usage is True
    said = [each for each in (served.max_tokens, served.max_completion_tokens) if each is not None]
    assert max(said) == (77 if bound else request.max_output_tokens)
    others = {"max_tokens", "max_completion_tokens", "stream_options"}
    assert {k: v for k, v in json.loads(sent).items() if k not in others} == {
        k: v for k, v in fields.items() if k not in others
    }


@pytest.mark.parametrize("value", ["100.0", '"10"', "1e2", "true", '" 7 "'])
def test_what_sets_a_bound_passes_as_it_came(value: str) -> None:
    body = f'{{"model": "m", "max_tokens": {value}}}'.encode()
    request = read_request(body)
    assert isinstance(request, Request)
    assert request.max_output_tokens
    assert write_fields(body, request.places, usage=False, bound=None) == body


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b'{"max_tokens":"ten"}', "max_tokens",
         "The field `max_tokens` is not valid: expected `int | null`, got `str`."),
        (b'{"max_tokens":1.5}', "max_tokens",
         "The field `max_tokens` is not valid: expected `int | null`, got `float`."),
        (b'{"max_tokens":"-7"}', "max_tokens", "The field `max_tokens` is not valid: expected `int` >= -1."),
        (b'{"n":0.0}', "n", "The field `n` is not valid: expected `int` >= 1."),
        (b'{"stream":"maybe"}', "stream", "The field `stream` is not valid: expected `bool | null`, got `str`."),
        (b'{"model":["m"]}', "model", "The field `model` is not valid: expected `str`, got `array`."),
        (b'[1]', None, "The request is not valid: Expected `object`, got `array`."),
        (b'{"stream_options":{"include_usage":7}}', "stream_options.include_usage",
         "The field `stream_options.include_usage` is not valid: expected `bool | null`, got `int`."),
        (b'{"stream_options":"all"}', "stream_options",
         "The field `stream_options` is not valid: expected `object | null`, got `str`."),
        (b'{"max_tokens":"10","max_tokens":20}', "max_tokens", "The field `max_tokens` is given more than once."),
        (BOM + b'{"n":1,"n":2}', "n", "The field `n` is given more than once."),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field_and_what_it_takes(body: bytes, param: str | None, message: str) -> None:
    refusal = read_request(body)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.param, refusal.message) == (400, param, message)


@pytest.mark.parametrize("body", [BOM, BOM + BOM + b"{}", BOM + b"{", b"\xff\xfe{\x00}\x00", b"{}" + BOM])
def test_a_mark_makes_no_json_of_what_is_none(body: bytes) -> None:
    refusal = read_request(body)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "invalid_json"
