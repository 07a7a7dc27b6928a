import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.json_text import texts, values, written
from zuebee.contracts.errors import Refusal
from zuebee.dialects import json_text, openai
from zuebee.dialects.openai import answer_text_bytes, answer_usage, read_error, read_request, write_fields
from zuebee.dialects.openai_shapes import Request
from zuebee.dialects.openai_usage import TokenCounts

PEEKED = ("model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "best_of", "prompt")


@st.composite
def requests(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """A stream request, and one way to write it."""
    others = draw(st.dictionaries(texts.filter(lambda key: key not in PEEKED), values, max_size=3))
    value: dict[str, Any] = {"model": draw(texts), "stream": True, **others}
    option = draw(st.sampled_from(["absent", None, {}, {"include_usage": False}, {"include_usage": None}, "more"]))
    if option == "more":
        option = draw(st.dictionaries(texts.filter(lambda key: key != "include_usage"), values, max_size=3))
        option = {**option, **draw(st.sampled_from([{}, {"include_usage": False}, {"include_usage": True}]))}
    if option != "absent":
        value["stream_options"] = option
    keys = draw(st.permutations(list(value)))
    value = {key: value[key] for key in keys}
    return value, draw(written(value)).encode()


@pytest.mark.slow
@pytest.mark.requirement("A146", "A297")
@given(requests())
def test_asking_for_usage_changes_nothing_but_the_option(request: tuple[dict[str, Any], bytes]) -> None:
    value, body = request
    asked = asked_for_usage(body)
    wanted = {**value, "stream_options": {**(value.get("stream_options") or {}), "include_usage": True}}
    assert json.loads(asked) == wanted
    assert one_change(body, asked), (body, asked)


def read(body: bytes) -> Request | Refusal:
    """What a request asks for, without the places where that stands, and without its pictures (test_media.py)."""
    request = read_request(body)
    if isinstance(request, Refusal):
        return request
    return msgspec.structs.replace(request, places=None, media=0, media_bytes=0)


def asked_for_usage(body: bytes) -> bytes:
    """As models do it: by what was found when the request was read."""
    request = read_request(body)
    assert isinstance(request, Request), request
    return write_fields(body, request.places, usage=True, bound=None)


def one_change(before: bytes, after: bytes) -> bool:
    """Whether one place was replaced or filled by what the option may be, all bytes around it kept."""
    inserts = (b'"stream_options":{"include_usage":true},', b'"include_usage":true,', b'"include_usage":true')
    if any(after.replace(text, b"", 1) == before for text in inserts if text in after):
        return True
    removed = [b"null", b"false", b"true"]
    for new in (b'{"include_usage":true}', b"true"):
        at = after.find(new)
        while at >= 0:
            if any(after[:at] + old + after[at + len(new) :] == before for old in removed):
                return True
            at = after.find(new, at + 1)
    return False


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (b'{"stream":true}', b'{"stream_options":{"include_usage":true},"stream":true}'),
        (b' { "stream":true}', b' {"stream_options":{"include_usage":true}, "stream":true}'),
        (b'{"stream_options": null }', b'{"stream_options": {"include_usage":true} }'),
        (b'{"stream_options": {} }', b'{"stream_options": {"include_usage":true} }'),
        (b'{"stream_options":{ }}', b'{"stream_options":{"include_usage":true }}'),
        (b'{"stream_options":{"include_usage" : false}}', b'{"stream_options":{"include_usage" : true}}'),
        (b'{"stream_options":{ "a":1}}', b'{"stream_options":{"include_usage":true, "a":1}}'),
        (b'{"stream\\u005foptions":{}}', b'{"stream\\u005foptions":{"include_usage":true}}'),
        (b'{"x":{"stream_options":{}}}', b'{"stream_options":{"include_usage":true},"x":{"stream_options":{}}}'),
        (b'{"x":"\\"stream_options\\":1"}', b'{"stream_options":{"include_usage":true},"x":"\\"stream_options\\":1"}'),
        (
            b'{"stream_options":{"include_usage":true,"include_usage":false}}',
            b'{"stream_options":{"include_usage":true,"include_usage":true}}',
        ),
    ],
)
def test_how_usage_is_asked_for(body: bytes, asked: bytes) -> None:
    assert asked_for_usage(body) == asked


def test_a_deeply_nested_body_can_be_asked_for_usage() -> None:
    deep = b'{"stream_options":{"a":1},"x":' + b"[" * 900 + b"]" * 900 + b"}"
    assert asked_for_usage(deep).startswith(b'{"stream_options":{"include_usage":true,"a":1},"x":[[')


@pytest.mark.slow
@given(requests())
def test_a_request_is_read_however_it_is_written(request: tuple[dict[str, Any], bytes]) -> None:
    value, body = request
    options = value.get("stream_options") or {}
    assert read(body) == Request(value["model"], True, bool(options.get("include_usage")))


@given(
    values.filter(lambda value: isinstance(value, dict)).flatmap(
        lambda value: st.tuples(st.just(value), written(value))
    )
)
def test_the_items_of_an_object_are_where_they_are_said_to_be(pair: tuple[dict[str, Any], str]) -> None:
    value, text = pair
    data = text.encode()
    found = [(key, json.loads(data[start:end])) for key, start, end in json_text.fields(data)]
    assert found == list(value.items())
    assert all(data[start:end] == data[start:end].strip() for _, start, end in json_text.fields(data))


# --- what is refused ---


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"model":"a","model":"b"}', "model"),
        (b'{"model":"a","\\u006dodel":"b"}', "model"),
        (b'{"\\u006D\\u006f\\u0064\\u0065\\u006c":"a","model":"b"}', "model"),
        (b'{"model":"a","x":{"model":1},"model":"a"}', "model"),
        (b'{"stream":true,"stream":false}', "stream"),
        (b'{"stream":true,"strea\\u006d":false}', "stream"),
        (b'{"stream_options":{},"stream_options":null}', "stream_options"),
        (b'{"model":"a","prompt":"b","prompt":["c","d"]}', "prompt"),
        (b'{"stream_options":{},"stream\\u005foptions":{}}', "stream_options"),
    ],
)
def test_a_field_given_twice_is_refused(body: bytes, field: str) -> None:
    refusal = read_request(body)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.param) == (400, field)
    assert "more than once" in refusal.message


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","metadata":{"model":"b","stream":1,"stream":2}}',
        b'{"model":"a","messages":[{"role":"model"},{"role":"\\u006dodel"},{"model":1}]}',
        b'{"x":"{\\"model\\":\\"b\\"}","model":"a"}',
        b'{"model":"a","y":1,"y":2}',
        b'{"model":"a","stream":false,"stream_options":{"stream":1}}',
    ],
)
def test_what_only_looks_like_a_repetition_passes(body: bytes) -> None:
    assert read(body) == Request("a", False, False)


PROMPTS = {b'"a,b"': 1, b'["a"]': 1, b'["a","b", "c"]': 3, b"[1,2,3]": 1, b"[ [1,2],[3]]": 2, b"[]": 1, b"null": 1}


@pytest.mark.parametrize(("prompt", "count"), PROMPTS.items())
def test_a_text_completion_may_have_many_prompts(prompt: bytes, count: int) -> None:
    assert read(b'{"model":"a","prompt":' + prompt + b"}") == Request("a", False, False, prompts=count)


DEEP = 100_000
ATTACKS = {
    "nothing": b"",
    "blank": b" \n",
    "two byte order marks": b'\xef\xbb\xbf\xef\xbb\xbf{"model":"a"}',
    "byte order marks": b"\xef\xbb\xbf" * DEEP,
    "UTF-16": '{"model":"a"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"model":"a"}'.encode("utf-16-le"),
    "UTF-32": '{"model":"a"}'.encode("utf-32"),
    "bytes behind": b'{"model":"a"}x',
    "two values": b'{"model":"a"}{"model":"b"}',
    "not closed": b'{"model":"a"',
    "a comma too many": b'{"model":"a",}',
    "a comment": b'{"model":"a"/**/}',
    "single quotes": b"{'model':'a'}",
    "NaN": b'{"model":"a","temperature":NaN}',
    "infinity": b'{"model":"a","temperature":-Infinity}',
    "half a surrogate pair": b'{"model":"\\ud800"}',
    "the other half": b'{"model":"\\udc00"}',
    "half a pair elsewhere, and no JSON": b'{"model":"a","x":"\\ud800",}',
    "half a pair in a model's name": b'{"model":"a\\ud83d","messages":[]}',
    "a raw surrogate": b'{"model":"a","x":"\xed\xa0\x80"}',
    "no UTF-8": b'{"model":"a","x":"\xff","\\u0061":1}',
    "overlong UTF-8": b'{"model":"a","x":"\xc0\x80"}',
    "a control character": b'{"model":"a","x":"\x01"}',
    "a line break in a text": b'{"model":"a\n"}',
    "an unknown escape": b'{"model":"\\x61"}',
    "half an escape": b'{"model":"\\u00"}',
    "a leading zero": b'{"model":"a","n":01}',
    "deep lists": b'{"model":"a","x":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep lists, not closed": b'{"model":"a","x":' + b"[" * DEEP,
    "deep objects": b'{"model":"a","x":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "deep options": b'{"stream":true,"stream_options":' + b'{"include_usage":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "a list": b"[]",
    "null": b"null",
    "a text": b'"model"',
    "a number": b"1e999",
    "a model that is a number": b'{"model":1}',
    "a stream that is a text": b'{"model":"a","stream":"perhaps"}',
    "a stream that is a number": b'{"model":"a","stream":2}',
    "options that are false": b'{"model":"a","stream":true,"stream_options":false}',
    "options that are a list": b'{"model":"a","stream":true,"stream_options":[]}',
    "an option that is a text": b'{"model":"a","stream":true,"stream_options":{"include_usage":"perhaps"}}',
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_no_request_is_a_bad_request(name: str) -> None:
    refusal = read_request(ATTACKS[name])
    assert isinstance(refusal, Refusal), refusal
    assert refusal.status == 400
    assert len(refusal.message) < 300


@pytest.mark.parametrize("number", [b"1" * 100_000, b"1e999999", b"-0.0e-99999", b"0." + b"3" * 100_000])
def test_huge_numbers_are_nobodys_business(number: bytes) -> None:
    assert read(b'{"model":"a","\\u0061":' + number + b"}") == Request("a", False, False)


def test_a_refusal_names_the_field() -> None:
    refusal = read_request(b'{"model":["a"]}')
    assert isinstance(refusal, Refusal)
    assert refusal.param == "model"


@given(st.binary(max_size=80) | st.text(max_size=60).map(str.encode) | st.sampled_from(list(ATTACKS.values())))
@example(b'{"":0}')
def test_no_body_raises(body: bytes) -> None:
    read_request(body)
    answer_text_bytes(body)
    read_error(body)
    openai.tail_usage(body)


@pytest.mark.parametrize("depth", range(900, 1010, 3))
def test_no_depth_raises(depth: int) -> None:
    read_request(b'{"model":"a","\\u0061":' + b"[" * depth + b"]" * depth + b"}")
    read_error(b"[" * depth + b"]" * depth)


# --- answers ---


def test_an_answer_without_usage_has_none() -> None:
    assert answer_usage(b'{"choices":[]}') is None


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[1]", b'"text"', b"5", b"<html>", b'{"usage":', b'{"a":' + b"[" * 100_000]
)
def test_what_is_not_json_is_told(body: bytes) -> None:
    with pytest.raises(openai.InvalidJsonAnswer):
        answer_usage(body)


def test_usage_in_the_tail_of_a_long_answer() -> None:
    tail = b'..."}],"usage":{"prompt_tokens":1},"usage" : {"prompt_tokens":7,"d":{"x":0},"completion_tokens":5},"z":1}'
    assert openai.tail_usage(tail) == TokenCounts(7, 5, 0)
    assert openai.tail_usage(b'..."usage":{"prompt_tokens":7,') is None
    assert openai.tail_usage(b"") is None


def test_the_text_of_an_answer_is_measured() -> None:
    assert answer_text_bytes(b'{"choices":[{"text":"12345678"}]}') == 10
    assert answer_text_bytes(b'{"choices":[{"message":{"content":"1234"}}]}') > 4
    assert answer_text_bytes(b'{"data":[]}') == 0
    assert answer_text_bytes(b'{"choices":7}') == 0


# --- errors ---


def test_an_error_has_openais_shape() -> None:
    body = json.loads(openai.render_error(Refusal(400, "invalid_request_error", "c", 'say "hi"\n', "model")))
    assert body == {"error": {"message": 'say "hi"\n', "type": "invalid_request_error", "param": "model", "code": "c"}}
    event = openai.render_error_event(Refusal(503, "overloaded_error", "c", "a\n\nb"))
    assert event.startswith(b'data: {"error":')
    assert event.index(b"\n\n") == len(event) - 2


@pytest.mark.parametrize(
    ("error", "read"),
    [
        (b'{"message":"m","type":"t","code":404}', (404, "t", "m")),
        (b'{"message":"m","type":null,"code":"c"}', (0, "c", "m")),
        (b'{"message":"m","code":true}', (0, "True", "m")),
        (b'{"code":200}', (0, "200", "")),
        (b'"broken"', (0, "", "broken")),
        (b"[]", (0, "", "")),
        (b"{", (0, "", "")),
    ],
)
def test_a_backends_error_is_read(error: bytes, read: tuple[int, str, str]) -> None:
    assert read_error(error) == read


def test_a_backends_error_is_cut_to_size() -> None:
    long = b"x" * 1_000_000
    _, code, message = read_error(b'{"type":"' + long + b'","message":"' + long + b'"}')
    assert len(code) < 100
    assert len(message) < 5000
    assert len(read_error(b'"' + long + b'"')[2]) < 5000
