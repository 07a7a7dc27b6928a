"""Requests and whole answers of Anthropic's dialect, read into the hub form and written from it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.dialects.anthropic.converter import AnthropicConverter
from zuebee.dialects.hub.canonical import (
    ChatMessage,
    ChatRequest,
    FunctionCall,
    FunctionTool,
    Malformed,
    Media,
    NotCarried,
    Omissions,
    Opaque,
    Reasoning,
    Text,
    Thinking,
    ToolChoice,
    ToolResult,
)

CONVERTER = AnthropicConverter()
MARK = {"type": "ephemeral", "ttl": "1h"}
SCHEMA = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "properties": {}}
CLAUDE_CODE: dict[str, Any] = {
    "model": "claude-opus-4-8",
    "messages": [
        {"role": "user", "content": [
            {"type": "text", "text": "<system-reminder>x</system-reminder>"},
            {"type": "text", "text": "Please change hello to goodbye in hello.txt", "cache_control": MARK}]},
        {"role": "system", "content": "Available agent types"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "I look.\n", "signature": "EqQB+/=="},
            {"type": "tool_use", "id": "toolu_0", "name": "Read", "input": {"file_path": "/a", "n": 1.0}}]},
        {"role": "user", "content": [
            {"tool_use_id": "toolu_0", "type": "tool_result", "content": "1\thello world", "is_error": True}]},
    ],
    "system": [{"type": "text", "text": "x-billing: 1"}, {"type": "text", "text": "You are", "cache_control": MARK}],
    "tools": [{"name": "Read", "description": "Reads", "input_schema": SCHEMA}],
    "metadata": {"user_id": '{"device_id":"0"}' * 20},
    "max_tokens": 64000,
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "stream": True,
}  # fmt: skip


def read(body: dict[str, Any]) -> ChatRequest:
    return CONVERTER.read_request(json.dumps(body).encode())


def write(request: ChatRequest, notes: Omissions | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(CONVERTER.write_request(request, notes or Omissions()))
    return found


def foreign(*messages: ChatMessage, **fields: Any) -> ChatRequest:
    return ChatRequest("openai", fields.pop("model", "claude-sonnet-4-6"), list(messages), **fields)


USER = ChatMessage("user", [Text("hi")])


def test_what_claude_code_asks_is_written_as_it_was() -> None:
    notes = Omissions()
    assert write(read(CLAUDE_CODE), notes) == CLAUDE_CODE
    assert notes.dropped == []


def test_what_claude_code_asks_is_understood() -> None:
    request = read(CLAUDE_CODE)
    assert [message.role for message in request.messages] == ["system", "user", "system", "assistant", "user"]
    assert request.messages[3].parts == [
        Thinking("I look.\n", "EqQB+/=="),
        FunctionCall("toolu_0", "Read", '{"file_path": "/a", "n": 1.0}')]  # fmt: skip
    assert request.messages[4].parts == [ToolResult("toolu_0", [Text("1\thello world")], True)]
    assert request.reasoning == Reasoning(True, "high", None, True)
    assert (request.max_tokens, request.stream, list(request.extra)) == (64000, True, ["context_management"])


def test_blocks_that_nobody_knows_pass_byte_for_byte() -> None:
    raw = b'{"type":"server_tool_use" , "input":{"a":1.50}}'
    body = b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[%b]}]}' % raw
    request = CONVERTER.read_request(body)
    assert request.messages[0].parts == [Opaque("anthropic", raw, "messages[0].content[0]", "server_tool_use")]
    assert raw in CONVERTER.write_request(request, Omissions())


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"tools": [{"description": "x"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "perhaps"}}, "tool_choice.type"),
    ],
)
def test_a_refusal_names_the_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(Malformed) as caught:
        read(CLAUDE_CODE | change)
    assert caught.value.field == field


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"{}", b'{"messages":' + b"[" * 100_000])
def test_what_is_no_request_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        CONVERTER.read_request(body)


def test_of_too_many_marks_the_last_four_stay() -> None:
    parts = [Text(f"part {index}", b'{"type":"ephemeral"}') for index in range(6)]
    notes = Omissions()
    content = write(foreign(ChatMessage("user", [*parts])), notes)["messages"][0]["content"]
    assert ["cache_control" in block for block in content] == [False, False, True, True, True, True]
    assert notes.dropped == ["cache_control"]


def test_a_turn_with_tools_whose_reasoning_is_lost_does_not_go_on_reasoning() -> None:
    turns = (
        USER,
        ChatMessage("assistant", [Thinking("unsigned"), FunctionCall("c", "f", "{}")]),
        ChatMessage("tool", [ToolResult("c", [Text("1")])]),
    )
    notes = Omissions()
    old = write(foreign(*turns, model="claude-3-7-sonnet", reasoning=Reasoning(effort="high")), notes)
    assert "thinking" not in old
    assert "reasoning_effort" in notes.dropped
    first = write(foreign(USER, model="claude-3-7-sonnet", reasoning=Reasoning(effort="high")))
    assert first["thinking"]["budget_tokens"] < first["max_tokens"], "the control"


def test_reasoning_stands_before_the_call_and_its_result_first() -> None:
    found = write(
        foreign(
            USER,
            ChatMessage("assistant", [Text("so"), FunctionCall("c.1", "f", ""), Thinking("t", "sig")]),
            ChatMessage("tool", [ToolResult("c.1", [Text("1")])]),
            ChatMessage("user", [Text("and?")]),
        )
    )
    assert [block["type"] for block in found["messages"][1]["content"]] == ["thinking", "text", "tool_use"]
    results = found["messages"][2]["content"]
    assert [block["type"] for block in results] == ["tool_result", "text"]
    assert results[0]["tool_use_id"] == found["messages"][1]["content"][2]["id"] == "c_1"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (foreign(USER, n=2), "n"),
        (foreign(USER, logprobs=True), "logprobs"),
        (foreign(ChatMessage("user", [Media("audio", "audio/wav", "AAAA")])), "messages[0].content[0]"),
        (foreign(USER, stop=["  "]), "stop"),
    ],
)
def test_what_cannot_be_said_is_refused_by_its_name(request_: ChatRequest, field: str) -> None:
    with pytest.raises(NotCarried) as caught:
        write(request_)
    assert caught.value.field == field


def test_what_changes_no_answer_is_left_out_and_noted() -> None:
    notes = Omissions()
    body = write(foreign(USER, seed=1, temperature=1.5, extra={"store": b"true"}), notes)
    assert body["temperature"] == 1
    assert {"seed", "temperature", "store"} == {*notes.dropped}
    assert body["max_tokens"] > 0, "which there must be"


def test_choices_of_tools_are_said_in_its_words() -> None:
    tools: list[FunctionTool | Opaque] = [FunctionTool("f")]
    body = write(foreign(USER, tools=tools, tool_choice=ToolChoice("named", "f"), parallel_tool_calls=False))
    assert body["tool_choice"] == {"type": "tool", "name": "f", "disable_parallel_tool_use": True}
    assert body["tools"][0]["input_schema"]["type"] == "object"


ANSWER: dict[str, Any] = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "tool_use",
    "stop_sequence": None,
    "content": [
        {"type": "thinking", "thinking": "hmm", "signature": "s+/="},
        {"type": "redacted_thinking", "data": "xyz"},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": [1]}},
    ],
    "usage": {"input_tokens": 5, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 3, "output_tokens": 7},
}  # fmt: skip


def test_a_whole_answer_is_written_as_it_was() -> None:
    answer = CONVERTER.read_answer(json.dumps(ANSWER).encode())
    assert answer.usage is not None
    assert (answer.usage.prompt, answer.usage.cached, answer.usage.written) == (10, 3, 2)
    asked = ChatRequest("anthropic", "m", [], reasoning=Reasoning(enabled=True))
    assert json.loads(CONVERTER.write_answer(answer, asked)) == ANSWER


# --- whatever a conversation has ---

texts = st.text(min_size=1, max_size=20).filter(str.strip)
marks = st.sampled_from([{}, {}, {"cache_control": MARK}])
ids = st.sampled_from(["toolu_1", "toolu_2", "call-3"])
text_block = st.builds(lambda text, mark: {"type": "text", "text": text, **mark}, texts, marks)
picture = st.sampled_from([
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0K"}},
    {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.png"}},
    {"type": "document", "title": "t", "source": {"type": "text", "media_type": "text/plain", "data": "é \n"}},
    {"type": "document", "source": {"type": "file", "file_id": "f"}},
])  # fmt: skip
json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=4)
call = st.builds(
    lambda name, values: {"type": "tool_use", "id": name, "name": "f", "input": values},
    ids,
    st.dictionaries(st.text(max_size=5), json_values, max_size=3),
)
result = st.builds(
    lambda name, content, failed: {"type": "tool_result", "tool_use_id": name, "content": content, "is_error": failed},
    ids,
    texts | st.lists(text_block | picture, max_size=3),
    st.booleans(),
)
thinking = st.builds(
    lambda text, seal: {"type": "thinking", "thinking": text, "signature": seal}, st.text(max_size=9), texts
) | st.just({"type": "redacted_thinking", "data": "x"})
user = st.tuples(st.lists(result, max_size=2), st.lists(text_block | picture, min_size=1, max_size=3)).map(
    lambda found: {"role": "user", "content": found[0] + found[1]}
)
model = st.lists(thinking | text_block | call, min_size=1, max_size=4).map(
    lambda found: {"role": "assistant", "content": found}
)
turns = st.lists(st.tuples(user, model), max_size=3)


@given(turns, user, st.lists(text_block, max_size=2))
def test_whatever_is_said_is_said_again_the_same(
    before: list[tuple[dict[str, Any], dict[str, Any]]], last: dict[str, Any], system: list[dict[str, Any]]
) -> None:
    messages = [turn for pair in before for turn in pair] + [last]
    said = read({"model": "m", "max_tokens": 9, "messages": messages, "system": system})
    notes = Omissions()
    again = CONVERTER.read_request(CONVERTER.write_request(said, notes))
    if "cache_control" not in notes.dropped:
        for message in said.messages:
            for part in message.parts:
                if isinstance(part, FunctionCall):
                    part.arguments = json.loads(part.arguments)
        for message in again.messages:
            for part in message.parts:
                if isinstance(part, FunctionCall):
                    part.arguments = json.loads(part.arguments)
        assert again == said
