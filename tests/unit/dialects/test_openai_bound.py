import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.dialects.openai import Bound, BoundField, read_request, write_fields
from zuebee.dialects.openai_shapes import Request

FIELDS: tuple[BoundField, ...] = ("max_tokens", "max_completion_tokens")


def written(body: bytes, bound: Bound | None, *, usage: bool = False) -> bytes:
    request = read_request(body)
    assert isinstance(request, Request), request
    return write_fields(body, request.places, usage=usage, bound=bound)


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("size", [0, 100_000])
@pytest.mark.parametrize(
    "said",
    [
        "",
        '"max_tokens":null,',
        '"max_tokens" : -1 ,',
        '"max_completion_tokens":null,"max_tokens":null,',
        '"max\\u005ftokens":null,',
        '"stream_options":{"include_usage":false},"max_tokens":null,',
        '"max_tokens":null,"stream_options":null,"max_completion_tokens":-1,',
    ],
)
def test_the_bound_is_the_one_that_any_reader_finds(field: BoundField, said: str, usage: bool, size: int) -> None:
    text = "x" * size
    message = '"messages":[{"role":"user","content":"say \\"max_tokens\\": 3' + text + '"}]}'
    body = ('{"model":"m",' + said + message).encode()
    sent = written(body, Bound(field, 77), usage=usage)
    bounded = json.loads(sent)
    others = {name: bounded.pop(name, None) for name in FIELDS}
    assert others.pop(field) == 77
    assert set(others.values()) == {None}
    options = bounded.pop("stream_options", None)
    assert not usage or options["include_usage"] is True
    rest = {key: value for key, value in json.loads(body).items() if key not in (*FIELDS, "stream_options")}
    assert bounded == rest
    request = read_request(sent)
    assert isinstance(request, Request)
    assert (request.max_output_tokens, request.stream_usage) == (77, usage)


def test_every_other_byte_stays_as_it_came() -> None:
    body = b'  { "b": 1.50, "a" :"\\u00e9" ,"messages":[ ]}\n'
    sent = written(body, Bound("max_tokens", 5))
    assert sent == b'  {"max_tokens":5, "b": 1.50, "a" :"\\u00e9" ,"messages":[ ]}\n'
    assert written(body, None) is body


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.integers() | st.none() | st.text(max_size=8), max_size=5))
def test_any_body_stays_valid(fields: dict[str, object]) -> None:
    fields = {f"x{name}": value for name, value in fields.items()}
    body = json.dumps({"model": "m", **fields}).encode()
    assert json.loads(written(body, Bound("max_tokens", 9))) == {"model": "m", **fields, "max_tokens": 9}
