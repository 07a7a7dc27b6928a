"""What is looked at in a body costs in proportion to what is wanted of it, and is what a slow reader finds."""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.bodies import SHAPES, by_chance
from tests.support.json_text import values, written
from zuebee.contracts.errors import Refusal
from zuebee.dialects import json_text
from zuebee.dialects.json_text import MAX_FIELDS, NotJson, TooMany
from zuebee.dialects.openai import MAX_MODEL, MAX_PROMPTS, SMALL_BYTES, read_request, write_fields
from zuebee.dialects.openai_shapes import Request, typed

NAMES = ["model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "best_of", "prompt", "x", "é"]
PEEKED = frozenset(NAMES[:8])
PADDING = '"padding":"' + "p" * SMALL_BYTES + '"'


class Twice(Exception):
    """A field that matters is given twice."""


def slowly(body: bytes) -> dict[str, Any]:
    """The fields of a body, by the standard library. Raises Twice or ValueError."""
    depth_first: list[list[tuple[str, Any]]] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        depth_first.append(found)
        return dict(found)

    whole = json.loads(body, object_pairs_hook=pairs)
    assert isinstance(whole, dict)
    names = [name for name, _ in depth_first[-1] if name in PEEKED]
    if len(names) > len(set(names)):
        raise Twice
    return whole


fitting = st.fixed_dictionaries(
    {},
    optional={
        "model": st.text(max_size=5),
        "stream": st.none() | st.booleans(),
        "stream_options": st.none() | st.dictionaries(st.sampled_from(["include_usage", "x"]), st.booleans()),
        "max_tokens": st.none() | st.integers(-1, 100),
        "max_completion_tokens": st.none() | st.integers(-1, 100),
        "n": st.none() | st.integers(1, 5),
        "prompt": st.lists(st.text(max_size=3), max_size=4) | st.lists(st.integers(), max_size=4) | st.text(max_size=3),
        "x": values,
    },
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A body that is small, or made large by a field more; with a field twice, now and then."""
    fields = list(draw(fitting).items())
    if draw(st.integers(0, 4)) == 0:
        fields.append((draw(st.sampled_from(NAMES)), draw(values)))
    fields = draw(st.permutations(fields))
    items = [f"{draw(written(name))} :{draw(written(value))}" for name, value in fields]
    if draw(st.booleans()):
        items.insert(draw(st.integers(0, len(items))), PADDING)
    return ("{" + ",".join(items) + "}").encode("utf-8", "surrogatepass")


@pytest.mark.slow
@given(bodies())
def test_what_is_found_is_what_a_slow_reader_finds(body: bytes) -> None:
    found = read_request(body)
    try:
        wanted = slowly(body)
    except Twice:
        assert isinstance(found, Refusal), body
        return
    if isinstance(found, Refusal):
        # Of what is JSON, only values that do not fit are refused.
        assert found.code == "invalid_request", found
        return
    # Which values count as which is tested in test_openai_loose.py.
    read = {name: json.loads(typed(name, json.dumps(value).encode())) for name, value in wanted.items()}
    options = wanted.get("stream_options") or {}
    prompt = wanted.get("prompt")
    many = isinstance(prompt, list) and len(prompt) > 0 and isinstance(prompt[0], str | list)
    assert found.model == read.get("model", "")
    assert found.stream is (read.get("stream") is True)
    assert found.stream_usage is ((read.get("stream_options") or {}).get("include_usage") is True)
    assert found.choices == max(read.get("n") or 1, read.get("best_of") or 1)
    assert found.prompts == (len(prompt) if many and prompt is not None else 1)
    for name, (start, end) in (found.places or {}).items():
        assert json.loads(body[start:end]) == wanted[name]
    if found.stream and not found.stream_usage:
        asked = json.loads(write_fields(body, found.places, usage=True, bound=None))
        assert asked == {**wanted, "stream_options": {**options, "include_usage": True}}


@given(st.binary(max_size=60) | st.text('[]{}",:\\ \n1ae', max_size=30).map(str.encode))
def test_no_text_is_walked_through_that_is_no_object(text: bytes) -> None:
    try:
        found = json_text.fields(text)
    except (NotJson, UnicodeDecodeError):
        return
    json_text.check_utf8(text) if text.isascii() else None
    for _, start, end in found:
        assert text[start:end]
    assert isinstance(json.loads(text.decode("utf-8", "replace"), strict=True), dict)


@given(st.lists(values, max_size=8), st.integers(0, 10))
def test_elements_are_where_they_are_said_to_be(items: list[Any], most: int) -> None:
    data = b" " + json.dumps(items, indent=1).encode() + b" ,"
    found = [json.loads(data[start:end]) for start, end in json_text.elements(data, 0, most)]
    assert found == items[: most + 1]


def told(read: Callable[[bytes], object], data: bytes) -> str:
    """What the reader complains of."""
    try:
        read(data)
    except UnicodeDecodeError as error:
        return str(error)
    return ""


@given(st.text(max_size=50).map(str.encode) | st.binary(max_size=50), st.integers(0, 3))
def test_utf8_is_what_python_takes_for_it(data: bytes, before: int) -> None:
    data = b"a" * (json_text.PIECE_BYTES - before) + data if before else data
    assert told(json_text.check_utf8, data) == told(bytes.decode, data)


# --- what it costs ---

SIZE = 4 << 20


def peak_bytes(body: bytes) -> int:
    """How much more memory is taken while a request is read."""
    tracemalloc.start()
    try:
        read_request(body)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", SHAPES)
def test_no_shape_takes_memory(shape: str) -> None:
    assert peak_bytes(SHAPES[shape](SIZE)) < 2 << 20


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_nothing_by_chance_takes_memory(seed: int) -> None:
    assert peak_bytes(by_chance(seed, SIZE)) < 2 << 20


# --- what is still taken, and what is not ---


def body_of(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


@pytest.mark.parametrize(
    ("body", "prompts"),
    [
        (body_of(input=["text"] * 2048), 1),
        (body_of(messages=[{"role": "user", "content": "hello"}] * 20_000), 1),
        (body_of(prompt=[123_456] * 1_000_000), 1),
        (body_of(prompt=[[1, 2, 3]] * MAX_PROMPTS), MAX_PROMPTS),
        (body_of(prompt="a" * 10_000, tools=[{"properties": {"model": {}, "n": {}, "prompt": {}}}] * 300), 1),
        (body_of(**{f"field{number}": number for number in range(MAX_FIELDS - 1)}), 1),
    ],
    ids=["inputs", "messages", "tokens", "prompts", "tools", "fields"],
)
def test_what_people_send_is_taken(body: bytes, prompts: int) -> None:
    found = read_request(body)
    assert isinstance(found, Request), found
    assert (found.model, found.prompts) == ("m", prompts)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (body_of(prompt=["a"] * (MAX_PROMPTS + 1)), "prompt", "invalid_request"),
        (body_of(prompt=[[1]] * (MAX_PROMPTS + 1)), "prompt", "invalid_request"),
        (body_of(**{f"f{number}": 1 for number in range(MAX_FIELDS)}), None, "too_many_fields"),
        (body_of(model="m" * (MAX_MODEL + 1)), "model", "invalid_request"),
        (body_of(model="m" * 100_000), "model", "invalid_request"),
        (body_of(stream=True, stream_options={"x": "y" * 10_000}), "stream_options", "invalid_request"),
    ],
)
def test_what_nobody_needs_is_refused_by_name(body: bytes, param: str | None, code: str) -> None:
    refusal = read_request(body)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.param, refusal.code) == (400, param, code)


def test_fields_are_counted() -> None:
    with pytest.raises(TooMany):
        json_text.fields(b"{" + b",".join([b'"":1'] * (MAX_FIELDS + 1)) + b"}")
