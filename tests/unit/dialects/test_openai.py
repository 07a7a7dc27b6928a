import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zuebee.contracts.errors import Refusal
from zuebee.dialects import openai
from zuebee.dialects.openai import answer_text_bytes, answer_usage, ask_for_usage, read_error, read_request
from zuebee.dialects.openai_shapes import Request

# --- writing JSON oddly, so that nothing depends on how it is spelled ---

blanks = st.text(" \t\r\n", max_size=3)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["model", '"model"', "{", "}]", ",", ":", "\\", '\\"', "stream_options", "é", "😀", "\u2028"]
)
values = st.recursive(
    scalars | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)
PEEKED = ("model", "stream", "stream_options")


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """A value as JSON with blanks and escapes where JSON allows them."""
    if isinstance(value, str):
        return "".join(['"', *(draw(written_character(character)) for character in value), '"'])
    before, after = draw(blanks), draw(blanks)
    if isinstance(value, list):
        return before + "[" + ",".join(draw(written(item)) + draw(blanks) for item in value) + "]" + after
    if isinstance(value, dict):
        items = (draw(blanks) + draw(written(k)) + draw(blanks) + ":" + draw(written(v)) for k, v in value.items())
        return before + "{" + ",".join(items) + draw(blanks) + "}" + after
    return before + json.dumps(value) + after


def written_character(character: str) -> st.SearchStrategy[str]:
    plain = json.dumps(character, ensure_ascii=False)[1:-1]
    escaped = "".join(f"\\u{unit:04x}" for unit in _utf16_units(character))
    return st.sampled_from([plain, plain, plain, escaped, escaped.upper().replace("\\U", "\\u")])


def _utf16_units(character: str) -> list[int]:
    data = character.encode("utf-16-be")
    return [int.from_bytes(data[n : n + 2]) for n in range(0, len(data), 2)]


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


@pytest.mark.requirement("A146", "A297")
@given(requests())
def test_asking_for_usage_changes_nothing_but_the_option(request: tuple[dict[str, Any], bytes]) -> None:
    value, body = request
    asked = ask_for_usage(body)
    wanted = {**value, "stream_options": {**(value.get("stream_options") or {}), "include_usage": True}}
    assert json.loads(asked) == wanted
    assert one_change(body, asked), (body, asked)


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
    assert ask_for_usage(body) == asked


def test_a_deeply_nested_body_can_be_asked_for_usage() -> None:
    deep = b'{"stream_options":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    assert ask_for_usage(deep).startswith(b'{"stream_options":{"include_usage":true,"x":[[')


@given(requests())
def test_a_request_is_read_however_it_is_written(request: tuple[dict[str, Any], bytes]) -> None:
    value, body = request
    options = value.get("stream_options") or {}
    assert read_request(body) == Request(value["model"], True, bool(options.get("include_usage")))


@given(
    values.filter(lambda value: isinstance(value, dict)).flatmap(
        lambda value: st.tuples(st.just(value), written(value))
    )
)
def test_the_items_of_an_object_are_where_they_are_said_to_be(pair: tuple[dict[str, Any], str]) -> None:
    value, text = pair
    data = text.encode()
    found = [(key, json.loads(data[start:end])) for key, start, end in openai.top_level_items(data)]
    assert found == list(value.items())
    assert all(data[start:end] == data[start:end].strip() for _, start, end in openai.top_level_items(data))


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
    assert read_request(body) == Request("a", False, False)


PROMPTS = {b'"a,b"': 1, b'["a"]': 1, b'["a","b", "c"]': 3, b"[1,2,3]": 1, b"[ [1,2],[3]]": 2, b"[]": 1, b"null": 1}


@pytest.mark.parametrize(("prompt", "count"), PROMPTS.items())
def test_a_text_completion_may_have_many_prompts(prompt: bytes, count: int) -> None:
    assert read_request(b'{"model":"a","prompt":' + prompt + b"}") == Request("a", False, False, prompts=count)


DEEP = 100_000
ATTACKS = {
    "nothing": b"",
    "blank": b" \n",
    "a byte order mark": b'\xef\xbb\xbf{"model":"a"}',
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
    "half a pair elsewhere": b'{"model":"a","x":"\\ud800","\\u0061":1}',
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
    "a model that is null": b'{"model":null}',
    "a stream that is a text": b'{"model":"a","stream":"true"}',
    "a stream that is a number": b'{"model":"a","stream":1}',
    "options that are false": b'{"model":"a","stream":true,"stream_options":false}',
    "options that are a list": b'{"model":"a","stream":true,"stream_options":[]}',
    "an option that is a text": b'{"model":"a","stream":true,"stream_options":{"include_usage":"yes"}}',
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_no_request_is_a_bad_request(name: str) -> None:
    refusal = read_request(ATTACKS[name])
    assert isinstance(refusal, Refusal), refusal
    assert refusal.status == 400
    assert len(refusal.message) < 300


@pytest.mark.parametrize("number", [b"1" * 100_000, b"1e999999", b"-0.0e-99999", b"0." + b"3" * 100_000])
def test_huge_numbers_are_nobodys_business(number: bytes) -> None:
    assert read_request(b'{"model":"a","\\u0061":' + number + b"}") == Request("a", False, False)


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
    openai.usage_figures(body)
    openai.tail_usage(body)


@pytest.mark.parametrize("depth", range(900, 1010, 3))
def test_no_depth_raises(depth: int) -> None:
    read_request(b'{"model":"a","\\u0061":' + b"[" * depth + b"]" * depth + b"}")
    read_error(b"[" * depth + b"]" * depth)
    openai.usage_figures(b'{"prompt_tokens":' + b"[" * depth + b"]" * depth + b"}")


# --- answers ---

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
    (b'{"prompt_tokens":7,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":4.0}}', (7, 0, 0)),
    (b'{"prompt_tokens":7,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":true}}', (7, 0, 0)),
    (b'{"prompt_tokens":7,"total_tokens":7,"prompt_tokens_details":{"cached_tokens":"4"}}', (7, 0, 0)),
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
    (b'{"prompt_tokens":7.0,"completion_tokens":1}', None),
    (b'{"prompt_tokens":"7","completion_tokens":1}', None),
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
    assert openai.usage_figures(usage) == figures
    if b"NaN" in usage or b"Infinity" in usage:
        with pytest.raises(openai.NotJson):
            answer_usage(b'{"choices":[],"usage": ' + usage + b"}")
        return
    assert answer_usage(b'{"choices":[],"usage": ' + usage + b"}") == figures


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
    figures = openai.usage_figures(json.dumps(usage).encode())
    assert figures is None or (
        0 <= figures.cached <= figures.prompt <= openai.MAX_TOKENS and 0 <= figures.completion <= openai.MAX_TOKENS
    )


def test_an_answer_without_usage_has_none() -> None:
    assert answer_usage(b'{"choices":[]}') is None
    assert answer_usage(b"[1]") is None


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"usage":', b'{"a":' + b"[" * 100_000])
def test_what_is_not_json_is_told(body: bytes) -> None:
    with pytest.raises(openai.NotJson):
        answer_usage(body)


def test_usage_in_the_tail_of_a_long_answer() -> None:
    tail = b'..."}],"usage":{"prompt_tokens":1},"usage" : {"prompt_tokens":7,"d":{"x":0},"completion_tokens":5},"z":1}'
    assert openai.tail_usage(tail) == (7, 5, 0)
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
