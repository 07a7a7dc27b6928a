"""Where both sides speak Anthropic's dialect: what is looked at of bodies that pass as they came."""

import json
from typing import Any

import pytest

from zuebee.contracts.errors import Refusal
from zuebee.dialects.anthropic.answers import answer_error, answer_text_bytes, answer_usage
from zuebee.dialects.anthropic.errors import PING, is_error, read_error, render_error, render_error_event
from zuebee.dialects.anthropic.request import read_request
from zuebee.dialects.anthropic.wire import render_models
from zuebee.dialects.openai import InvalidJsonAnswer
from zuebee.dialects.openai_shapes import Request
from zuebee.dialects.openai_usage import TokenCounts

BOM = b"\xef\xbb\xbf"
BODY = b'{"model": "claude-x", "max_tokens":64000,"messages":[{"role":"user","content":"hi"}],"stream":true}'


def asked(body: bytes) -> Request:
    request = read_request(body)
    assert isinstance(request, Request), request
    return request


def refused(body: bytes) -> Refusal:
    request = read_request(body)
    assert isinstance(request, Refusal), request
    return request


@pytest.mark.parametrize("mark", [b"", BOM])
def test_what_decides_over_a_request_is_read_and_found_again(mark: bytes) -> None:
    body = mark + BODY
    request = asked(body)
    assert (request.model, request.stream, request.stream_usage) == ("claude-x", True, True)
    assert (request.max_output_tokens, request.choices, request.prompts) == (64000, 1, 1)
    assert request.places is not None
    cut = {name: body[start:end] for name, (start, end) in request.places.items()}
    assert cut == {"model": b'"claude-x"', "max_tokens": b"64000"}


def test_what_is_missing_is_not_made_up() -> None:
    request = asked(b'{"messages":[]}')
    assert (request.model, request.stream, request.max_output_tokens, request.places) == ("", False, None, {})
    assert request.stream_usage, "each stream of this dialect tells of usage"


@pytest.mark.parametrize(("spelled", "tokens"), [(b"100.0", 100), (b'"100"', 100), (b"null", None), (b"-1", None)])
def test_a_bound_counts_as_servers_read_it(spelled: bytes, tokens: int | None) -> None:
    assert asked(b'{"model":"m","max_tokens":%b}' % spelled).max_output_tokens == tokens


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"model":"a","model":"b"}', "model"),
        (b'{"model":"a","mod\\u0065l":"b"}', "model"),
        (b'{"max_tokens":1,"x":2,"max_tokens":9}', "max_tokens"),
        (b'{"stream":true,"stream":false}', "stream"),
        (b'{"model":5}', "model"),
        (b'{"model":"%b"}' % (b"a" * 1025), "model"),
        (b'{"model":"%b"}' % (b"a" * 10_000), "model"),
        (b'{"model":"a\\ud800"}', "model"),
        (b'{"model":"a","max_tokens":"many"}', "max_tokens"),
        (b'{"model":"a","max_tokens":1.5}', "max_tokens"),
        (b'{"model":"a","stream":{}}', "stream"),
    ],
)
def test_a_refusal_names_the_field(body: bytes, field: str) -> None:
    refusal = refused(body)
    assert (refusal.status, refusal.param) == (400, field)
    assert f"`{field}`" in refusal.message


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nonsense", b'{"model":"\xff"}', b'{"a":' + b"[" * 100_000, BOM * 2 + BODY]
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    assert refused(body).code == "invalid_json"


def test_a_list_and_a_body_of_very_many_fields_are_refused() -> None:
    assert refused(b"[]").status == 400
    assert refused(json.dumps({f"f{index}": 0 for index in range(1001)}).encode()).code == "too_many_fields"


def test_half_a_character_in_a_message_passes() -> None:
    body = b'{"messages":[{"role":"user","content":"\\ud83d"}],"model":"m"}'
    request = asked(body)
    assert request.places is not None
    start, end = request.places["model"]
    assert body[start:end] == b'"m"'


def source(kind: str, data: str, media_type: str = "image/png") -> dict[str, Any]:
    return {"type": kind, "media_type": media_type, "data": data}


@pytest.mark.parametrize(
    ("block", "inline_bytes"),
    [
        ({"type": "image", "source": source("base64", "iVBOR" * 1000)}, 5000),
        ({"type": "document", "source": source("base64", "JVBERi+/" * 1000, "application/pdf")}, 8000),
        ({"type": "image", "source": {"type": "url", "url": "https://example.com/cat.png"}}, 0),
        ({"type": "document", "source": source("text", "a long report, " * 1000, "text/plain")}, 0),
        ({"type": "tool_result", "tool_use_id": "t", "content": [
            {"type": "image", "source": source("base64", "iVBOR" * 1000)}]}, 5000),
    ],
)  # fmt: skip
def test_pictures_and_documents_are_found_and_texts_stay_texts(block: dict[str, Any], inline_bytes: int) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "see"}, block]}
    request = asked(json.dumps({"model": "m", "messages": [message]}).encode())
    assert (request.media, request.media_bytes) == (1, inline_bytes)


def answer(**usage: Any) -> bytes:
    content = [
        {"type": "thinking", "thinking": "hmm", "signature": "s" * 1000},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    ]
    return json.dumps({"type": "message", "content": content, "usage": usage}).encode()


def test_tokens_from_and_into_the_cache_are_a_part_of_the_prompt() -> None:
    told = answer(input_tokens=10, output_tokens=7, cache_read_input_tokens=100, cache_creation_input_tokens=20)
    assert answer_usage(told) == TokenCounts(130, 7, 100, 20)


def test_usage_is_believed_only_where_there_is_some() -> None:
    assert answer_usage(answer(input_tokens=10, output_tokens=7)) == TokenCounts(10, 7)
    assert answer_usage(answer(input_tokens=0, output_tokens=0)) is None
    assert answer_usage(b'{"usage":null}') is answer_usage(b'{"usage":"many"}') is answer_usage(b"{}") is None
    odd = b'{"content":[{"text":"\\ud800"}],"usage":{"input_tokens":3,"output_tokens":2}}'
    assert answer_usage(odd) == TokenCounts(3, 2)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"5", answer(input_tokens=1)[:-1]])
def test_an_answer_that_is_no_object_is_no_answer(body: bytes) -> None:
    with pytest.raises(InvalidJsonAnswer):
        answer_usage(body)


def test_what_the_model_wrote_is_measured_and_its_seal_is_not() -> None:
    assert answer_text_bytes(answer()) == len('"hmm"') + len('"Hello"') + len('{"a": 1}')
    assert answer_text_bytes(b'{"content":5}') == len(b'{"content":5}'), "all of it, where nobody can tell"
    assert answer_text_bytes(b"nothing") == 0


def test_an_error_in_a_good_answer_is_seen() -> None:
    told = answer_error(b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}')
    assert told is not None
    assert (told.status, told.code, told.message) == (529, "overloaded_error", "Overloaded")
    assert answer_error(b'{"error":{"message":"no"}}') is not None
    assert answer_error(answer()) is answer_error(b"no json") is answer_error(b'{"error":null}') is None


# --- errors ---


def test_an_error_names_the_request_beside_itself() -> None:
    refusal = Refusal(429, "rate_limit_error", "rate_limited", "Slow down.")
    assert json.loads(render_error(refusal, "req_1")) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "Slow down."},
        "request_id": "req_1",
    }
    assert json.loads(render_error(refusal))["request_id"] is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (402, "billing_error"), (403, "permission_error"),
     (404, "not_found_error"), (409, "invalid_request_error"), (413, "request_too_large"), (429, "rate_limit_error"),
     (500, "api_error"), (502, "api_error"), (503, "overloaded_error"), (504, "timeout_error"),
     (529, "overloaded_error")],
)  # fmt: skip
def test_the_type_goes_with_the_status_as_clients_expect(status: int, kind: str) -> None:
    assert json.loads(render_error(Refusal(status, "api_error", "x", "m")))["error"]["type"] == kind


def test_a_failure_in_a_stream_is_an_event_that_clients_raise() -> None:
    event = render_error_event(Refusal(503, "overloaded_error", "backend_busy", "Busy."))
    assert event.startswith(b"event: error\ndata: {")
    assert event.endswith(b"}\n\n")
    assert json.loads(event.partition(b"data: ")[2])["error"] == {"type": "overloaded_error", "message": "Busy."}
    assert json.loads(PING.partition(b"data: ")[2]) == {"type": "ping"}


def test_claude_code_learns_that_its_conversation_is_too_long_whoever_says_so() -> None:
    body = b'{"error":{"message":"This model\'s maximum context length is 8 tokens.","code":"context_length_exceeded"}}'
    refusal = read_error(400, body)
    assert refusal.code == "context_length_exceeded"
    assert json.loads(render_error(refusal))["error"]["message"].startswith("prompt is too long: ")
    own = read_error(
        400, b'{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 9"}}'
    )
    assert (own.code, own.message) == ("context_length_exceeded", "prompt is too long: 9")


@pytest.mark.parametrize(
    ("body", "whether"),
    [
        (b'{"type":"error","error":{"type":"api_error","message":"m"},"request_id":"r"}', True),
        (b'{"type":"error","error":{"type":"api_error","message":null}}', False),
        (b'{"type":"error","error":"no"}', False),
        (b'{"error":{"type":"api_error","message":"m"}}', False),
        (b"<html>", False),
        (b"[" * 100_000, False),
    ],
)
def test_an_error_that_clients_can_read_is_known(body: bytes, whether: bool) -> None:
    assert is_error(body) is whether


@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b'{"error":5}', b"[" * 100_000])
def test_an_error_that_nobody_can_read_is_still_told(body: bytes) -> None:
    refusal = read_error(502, body)
    assert (refusal.status, refusal.type) == (502, "api_error")
    assert refusal.message


def test_models_are_listed_as_these_clients_read_them() -> None:
    cards: list[dict[str, Any]] = [
        {"id": "m", "created": 1_700_000_000, "max_model_len": 8192},
        {"id": "n", "created": "x"},
    ]
    listed = json.loads(render_models(cards))
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == ("m", "n", False)
    first = {"type": "model", "id": "m", "display_name": "m", "created_at": "2023-11-14T22:13:20Z"}
    assert listed["data"][0] == {**first, "max_input_tokens": 8192}
    assert json.loads(render_models([]))["first_id"] is None
