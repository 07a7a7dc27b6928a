import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.contracts.errors import Refusal
from zuebee.dialects.anthropic.answers import answer_error, answer_text_bytes, answer_usage
from zuebee.dialects.anthropic.converter import AnthropicConverter
from zuebee.dialects.anthropic.errors import read_error, render_error
from zuebee.dialects.anthropic.request import read_request
from zuebee.dialects.anthropic.wire import render_models
from zuebee.dialects.hub.canonical import (
    AnswerChoice,
    ChatAnswer,
    ChatMessage,
    ChatRequest,
    Counts,
    FunctionCall,
    FunctionTool,
    Malformed,
    Media,
    NotCarried,
    Omissions,
    Opaque,
    Reasoning,
    ResponseFormat,
    Text,
    Thinking,
    ToolChoice,
    ToolResult,
)
from zuebee.dialects.openai_shapes import Request
from zuebee.dialects.openai_usage import TokenCounts

MARK = b'{"type":"ephemeral"}'
HI = ChatMessage("user", [Text("hi")])


def sent(request: ChatRequest, notes: Omissions | None = None) -> Any:
    return json.loads(AnthropicConverter().write_request(request, notes or Omissions()))


def chat(*messages: ChatMessage, model: str = "claude-opus-4-8", **fields: Any) -> ChatRequest:
    return ChatRequest("openai", model, list(messages), **fields)


WORDS = st.text(min_size=1).filter(lambda text: bool(text.strip()))
IDS = st.from_regex(r"[a-zA-Z0-9_-]{1,12}", fullmatch=True)
PICTURES = st.builds(Media, st.just("image"), st.just("image/png"), st.sampled_from(["iVBORw0K", "AAAA"]))
TEXTS = st.builds(Text, WORDS, st.sampled_from([b"", MARK]))
ARGUMENTS = st.dictionaries(WORDS, WORDS, max_size=2).map(lambda each: msgspec.json.encode(each).decode())
RESULTS = st.builds(ToolResult, IDS, st.lists(st.one_of(st.builds(Text, WORDS), PICTURES), max_size=2), st.booleans())
USER = st.tuples(st.lists(RESULTS, max_size=2), st.lists(st.one_of(TEXTS, PICTURES), min_size=1, max_size=3))
ODD = st.just(Opaque("anthropic", b'{"type":"odd", "x":1}', "", "odd"))
SIGNED = st.builds(Thinking, st.text(), WORDS)
ASSISTANT = st.lists(
    st.one_of(st.builds(Text, WORDS), SIGNED, st.builds(FunctionCall, IDS, WORDS, ARGUMENTS), ODD), max_size=4
)


@pytest.mark.slow
@given(st.lists(st.tuples(USER, ASSISTANT), min_size=1, max_size=3), st.sampled_from(["", "low", "max"]))
def test_a_conversation_written_and_read_again_is_the_same(turns: Any, effort: Any) -> None:
    messages = []
    for (results, parts), answer in turns:
        messages += [
            ChatMessage("user", [*results, *parts]),
            ChatMessage("assistant", [*answer, FunctionCall("z", "f", "{}")]),
        ]
    request = ChatRequest("anthropic", "m", messages, 10, stream_usage=True, extra={"context_management": b"{}"})
    request.reasoning = Reasoning(True, effort, 2000)
    converter = AnthropicConverter()
    found = converter.read_request(converter.write_request(request, Omissions()))
    for message in (*found.messages, *request.messages):
        for part in message.parts:
            if isinstance(part, Text):
                part.cache = b""  # of more than four marks only the last stay
            elif isinstance(part, Opaque):
                part.where = ""
    assert found == request


def test_an_unsigned_thought_is_left_out_and_noted_and_a_signed_one_is_byte_for_byte() -> None:
    notes = Omissions()
    told = sent(chat(HI, ChatMessage("assistant", [Text("a"), Thinking("t", "sig=="), Thinking("lost")])), notes)
    assert told["messages"][1]["content"][0] == {"type": "thinking", "thinking": "t", "signature": "sig=="}
    assert notes.dropped == ["messages[1].content[2]"]


def test_at_most_four_cache_marks_reach_a_server() -> None:
    request = chat(ChatMessage("user", [Text(str(n), MARK) for n in range(6)]), ChatMessage("assistant", [Text("x")]))
    told = sent(request)
    assert ["cache_control" in block for block in told["messages"][0]["content"]] == [False] * 2 + [True] * 4


def test_results_stand_first_and_turns_alternate() -> None:
    told = sent(
        chat(
            ChatMessage("system", [Text("s")]),
            HI,
            ChatMessage("assistant", [FunctionCall("functions.f:0", "f", "{}"), FunctionCall("b", "f", "not json")]),
            ChatMessage("user", [Text("and")]),
            ChatMessage("tool", [ToolResult("functions.f:0", [Text("1")])]),
            ChatMessage("tool", [ToolResult("b", [Text("2")])]),
            ChatMessage("user", [Text(""), Text("go")]),
        )
    )
    assert told["system"] == "s"
    assert [turn["role"] for turn in told["messages"]] == ["user", "assistant", "user"]
    calls, results = told["messages"][1]["content"], told["messages"][2]["content"]
    assert [block["type"] for block in results] == ["tool_result", "tool_result", "text", "text"]
    assert calls[0]["id"] == results[0]["tool_use_id"] == "functions_f_0"
    assert calls[1]["input"] == {"arguments": "not json"}


@pytest.mark.parametrize(
    ("model", "thinking", "effort"),
    [
        ("claude-opus-4-8", {"type": "adaptive", "display": "summarized"}, "high"),
        ("claude-opus-4-6", {"type": "adaptive"}, "high"),
        ("claude-sonnet-4-20250514", {"type": "enabled", "budget_tokens": 16384}, None),
        ("local", {"type": "enabled", "budget_tokens": 16384}, None),
    ],
)
def test_an_effort_becomes_what_the_model_takes(model: str, thinking: Any, effort: str | None) -> None:
    told = sent(chat(HI, model=model, reasoning=Reasoning(effort="high")))
    assert told["thinking"] == thinking
    assert told.get("output_config", {}).get("effort") == effort
    assert told["max_tokens"] > thinking.get("budget_tokens", 0)


def test_a_turn_with_tools_whose_thought_is_lost_goes_on_without_thinking() -> None:
    notes = Omissions()
    turn = ChatMessage("assistant", [FunctionCall("a", "f", "{}")])
    request = chat(
        HI, turn, ChatMessage("tool", [ToolResult("a", [])]), model="local", reasoning=Reasoning(effort="low")
    )
    assert "thinking" not in sent(request, notes)
    assert notes.dropped == ["reasoning_effort"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"n": 2}, "n"), ({"logprobs": True}, "logprobs"), ({"response_format": ResponseFormat()}, "response_format")],
)
def test_what_cannot_be_said_is_refused_by_its_name(fields: Any, field: str) -> None:
    with pytest.raises(NotCarried) as raised:
        sent(chat(HI, **fields))
    assert raised.value.field == field


def test_the_rest_of_an_openai_request_is_carried() -> None:
    notes = Omissions()
    told = sent(
        chat(
            HI,
            model="local",
            temperature=1.5,
            seed=1,
            tools=[FunctionTool("f")],
            tool_choice=ToolChoice("required"),
            parallel_tool_calls=False,
            response_format=ResponseFormat(b'{"type":"object"}'),
            user="u",
            extra={"store": b"true"},
        ),
        notes,
    )
    assert (told["temperature"], told["max_tokens"], told["metadata"]) == (1.0, 4096, {"user_id": "u"})
    assert told["tools"] == [{"name": "f", "input_schema": {"type": "object", "properties": {}}}]
    assert told["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
    assert told["output_config"] == {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    assert notes.dropped == ["seed", "temperature", "store"]


def test_what_is_wrong_is_named() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":5}]}]}'
    with pytest.raises(Malformed, match="expected") as raised:
        AnthropicConverter().read_request(body)
    assert raised.value.field == "messages[0].content[0].text"
    deep = b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(Malformed):
        AnthropicConverter().read_request(deep)


# --- byte for byte ---


def test_the_peek_sees_what_decides() -> None:
    body = b'{"max_tokens": "7", "model": "m", "stream": true, "messages": []}'
    found = read_request(body)
    assert isinstance(found, Request)
    assert (found.model, found.stream, found.stream_usage, found.max_output_tokens) == ("m", True, True, 7)
    assert found.places is not None
    start, end = found.places["model"]
    assert body[start:end] == b'"m"'


@pytest.mark.parametrize(
    ("body", "param"),
    [(b'{"model":"a","model":"b"}', "model"), (b'{"stream":"x"}', "stream")],
)
def test_the_peek_names_what_is_wrong(body: bytes, param: str) -> None:
    found = read_request(body)
    assert isinstance(found, Refusal)
    assert (found.status, found.param) == (400, param)


def test_pictures_and_documents_are_counted() -> None:
    data = "A" * 5000
    blocks = [{"type": kind, "source": {"type": "base64", "data": data}} for kind in ("image", "document")]
    found = read_request(json.dumps({"model": "m", "messages": [{"role": "user", "content": blocks}]}).encode())
    assert isinstance(found, Request)
    assert (found.media, found.media_bytes) == (2, 10_000)


# --- answers, errors, models ---

ANSWER = json.dumps(
    {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use",
        "content": [{"type": "text", "text": "hi"}, {"type": "tool_use", "id": "t", "name": "f", "input": {}}],
        "usage": {
            "input_tokens": 3, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 4,
        },
    }
).encode()  # fmt: skip


def test_an_answer_is_read_and_written() -> None:
    converter = AnthropicConverter()
    answer = converter.read_answer(ANSWER)
    choice = AnswerChoice([Text("hi"), FunctionCall("t", "f", "{}")], "tool_calls")
    assert answer == ChatAnswer("msg_1", "m", [choice], Counts(10, 4, 5, 2))
    assert converter.read_answer(converter.write_answer(answer, chat(HI))) == answer
    assert answer_usage(ANSWER) == TokenCounts(10, 4, 5, 2)
    assert (answer_error(ANSWER), answer_text_bytes(ANSWER)) == (None, 6)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(402, "billing_error"), (413, "request_too_large"), (422, "invalid_request_error"), (429, "rate_limit_error"),
     (502, "api_error"), (503, "overloaded_error"), (504, "timeout_error"), (529, "overloaded_error")],
)  # fmt: skip
def test_an_error_has_the_type_that_goes_with_its_status(status: int, kind: str) -> None:
    told = json.loads(render_error(Refusal(status, "api_error", "c", "m")))
    assert (told["type"], told["error"]) == ("error", {"type": kind, "message": "m"})
    again = read_error(status, render_error(Refusal(status, "api_error", "c", "m")))
    assert (again.status, again.message) == (status, "m")


def test_a_full_context_is_known_to_clients_of_both_sides() -> None:
    body = b'{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 9 > 8"}}'
    assert read_error(400, body).code == "context_length_exceeded"
    full = Refusal(400, "invalid_request_error", "context_length_exceeded", "Too many tokens.")
    assert json.loads(render_error(full))["error"]["message"] == "prompt is too long: Too many tokens."
    assert read_error(502, b"<html>bad</html>").status == 502


def test_models_are_listed_as_the_sdk_reads_them() -> None:
    told = json.loads(render_models([{"id": "a", "created": 0}, {"id": "b", "created": 86400}]))
    assert (told["first_id"], told["last_id"], told["has_more"]) == ("a", "b", False)
    assert told["data"][1] == {
        "type": "model", "id": "b", "display_name": "b", "created_at": "1970-01-02T00:00:00Z",
    }  # fmt: skip
