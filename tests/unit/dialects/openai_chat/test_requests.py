"""Requests for chat completions, read into the hub form and written from it."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    Part,
    Reasoning,
    Text,
    Thinking,
    ToolResult,
)
from zuebee.dialects.openai_chat.converter import OpenAIConverter

CONVERTER = OpenAIConverter()
READ_CALL = {"id": "call_0", "type": "function", "function": {"name": "read", "arguments": '{"filePath":"/a.txt"}'}}
OPENCODE = {
    "model": "m-plain",
    "max_tokens": 8192,
    "messages": [
        {"role": "system", "content": "You are an agent"},
        {"role": "user", "content": '"Please change hello to goodbye"'},
        {"role": "assistant", "content": "", "tool_calls": [READ_CALL]},
        {"role": "tool", "tool_call_id": "call_0", "content": "<path>/a.txt</path>"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {"name": "read", "description": "Reads", "parameters": {"type": "object", "properties": {}}},
        }
    ],
    "tool_choice": "auto",
    "stream": True,
    "stream_options": {"include_usage": True},
}


def read(body: dict[str, Any]) -> ChatRequest:
    return CONVERTER.read_request(json.dumps(body).encode())


def written(request: ChatRequest, notes: Omissions | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(CONVERTER.write_request(request, notes or Omissions()))
    return found


def asked(**fields: Any) -> ChatRequest:
    return read({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields})


def foreign(*messages: ChatMessage, **fields: Any) -> ChatRequest:
    return ChatRequest("anthropic", "m", list(messages), **fields)


def test_what_opencode_sends_means_the_same_afterwards() -> None:
    request = read(OPENCODE)
    assert request.stream_usage
    assert request.max_tokens == 8192
    assert request.messages[2].parts == [FunctionCall("call_0", "read", '{"filePath":"/a.txt"}')]
    assert request.messages[3].parts == [ToolResult("call_0", [Text("<path>/a.txt</path>")], name="read")]
    told = written(request)
    assert told["messages"][2] == {"role": "assistant", "content": None, "tool_calls": [READ_CALL]}
    assert {**told, "messages": 0} == {**OPENCODE, "messages": 0}


def test_results_of_tools_stand_before_what_the_user_says_and_their_pictures_behind() -> None:
    picture = Media("image", "image/png", "AAAA")
    request = foreign(
        ChatMessage("assistant", [FunctionCall("a", "see", ""), FunctionCall("b", "see", "{}")]),
        ChatMessage("user", [Text("and now?"), ToolResult("a", [picture]), ToolResult("b", [Text("two")])]),
    )
    call, first, second, user = written(request)["messages"]
    assert call["tool_calls"][0]["function"]["arguments"] == "{}"
    assert (first["role"], first["tool_call_id"], second["content"]) == ("tool", "a", "two")
    assert first["content"]
    assert user["role"] == "user"
    assert {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}} in user["content"]
    assert user["content"][-1] == {"type": "text", "text": "and now?"}


def test_usage_is_asked_for_exactly_where_the_stream_is_to_tell_it() -> None:
    assert "stream_options" not in written(asked(stream_options={"include_usage": True}))
    assert "stream_options" not in written(asked(stream=True))
    assert written(asked(stream=True, stream_options={"include_usage": True}))["stream_options"] == {
        "include_usage": True
    }


def test_unknown_fields_pass_in_this_dialect_only() -> None:
    request = asked(guided_regex="a+", nothing=None)
    assert written(request)["guided_regex"] == "a+"
    notes = Omissions()
    told = written(foreign(ChatMessage("user", [Text("x", b'{"type":"ephemeral"}')]), extra={"container": b"1"}), notes)
    assert notes.dropped == ["container"]  # marks for a cache go without a word
    assert "container" not in told
    assert told["messages"] == [{"role": "user", "content": "x"}]


def test_reasoning_with_signatures_comes_back_as_it_was() -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln+/=="},
        {"type": "redacted_thinking", "data": "eHg="},
    ]
    turn = {"role": "assistant", "content": "yes", "reasoning_content": "hm", "thinking_blocks": blocks}
    request = read({"model": "m", "messages": [turn]})
    assert request.messages[0].parts == [Thinking("hm", "c2ln+/=="), Thinking(redacted="eHg="), Text("yes")]
    assert written(request)["messages"] == [turn]
    assert written(foreign(ChatMessage("assistant", [Thinking("hm"), Text("yes")])))["messages"] == [
        {"role": "assistant", "content": "yes", "reasoning_content": "hm"}
    ]


def test_geminis_thought_signatures_ride_under_the_call() -> None:
    call = READ_CALL | {"extra_content": {"google": {"thought_signature": "abc"}}}
    request = read({"model": "m", "messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]})
    assert request.messages[0].parts[0].signature == "abc"  # type: ignore[union-attr]
    assert written(request)["messages"][0]["tool_calls"] == [call]


def test_the_old_form_of_calls_is_understood() -> None:
    request = read(
        {
            "model": "m",
            "functions": [{"name": "f"}],
            "function_call": {"name": "f"},
            "messages": [
                {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
                {"role": "function", "name": "f", "content": "1"},
            ],
        }
    )
    assert request.tools == [FunctionTool("f")]
    assert request.tool_choice is not None
    call, result = request.messages[0].parts[0], request.messages[1].parts[0]
    assert isinstance(call, FunctionCall)
    assert isinstance(result, ToolResult)
    assert call.id == result.id != ""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"reasoning_effort": "low"}, Reasoning(effort="low")),
        ({"reasoning": {"max_tokens": 2000, "exclude": True}}, Reasoning(budget_tokens=2000, visible=False)),
        ({"reasoning": {"enabled": True, "effort": "high"}}, Reasoning(enabled=True, effort="high")),
        ({"reasoning": {}}, None),
    ],
)
def test_how_much_to_think_is_read_from_either_field(fields: dict[str, Any], expected: Reasoning | None) -> None:
    request = asked(**fields)
    assert request.reasoning == expected
    assert read(written(request)) == request


def test_a_budget_becomes_the_nearest_effort() -> None:
    request = foreign(ChatMessage("user", [Text("x")]), reasoning=Reasoning(enabled=True, budget_tokens=1500))
    assert written(request)["reasoning_effort"] == "low"


def test_models_of_openai_get_the_bound_under_its_new_name() -> None:
    assert written(asked(max_completion_tokens=5))["max_tokens"] == 5
    assert written(ChatRequest("openai", "gpt-5", [], 5))["max_completion_tokens"] == 5


def test_what_is_wrong_is_named() -> None:
    for body, field in (
        ({"model": "m"}, "messages"),
        ({"model": "m", "messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"model": "m", "messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"model": "m", "messages": [], "temperature": "hot"}, "temperature"),
    ):
        with pytest.raises(Malformed) as caught:
            read(body)
        assert caught.value.field == field
    with pytest.raises(Malformed):
        CONVERTER.read_request(b"[" * 100_000)


def test_a_turn_is_not_lost_without_a_word() -> None:
    block = Opaque("anthropic", b"{}", "messages[0].content[0]", "server_tool_use")
    with pytest.raises(NotCarried):
        written(foreign(ChatMessage("assistant", [block])))
    notes = Omissions()
    assert (
        written(foreign(ChatMessage("assistant", [block, Text("found")])), notes)["messages"][0]["content"] == "found"
    )
    assert notes.dropped == ["messages[0].content[0]"]


# --- there and back ---

words = st.text(st.characters(codec="utf-8"), max_size=12)
names = st.text("abcdefgh_", min_size=1, max_size=6)
picture = st.sampled_from(
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}},
        {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}},
    ]
)
text_part = st.builds(lambda text: {"type": "text", "text": text}, words)
content = st.one_of(words, st.lists(text_part | picture, max_size=4))
call = st.builds(
    lambda id, name, text: {"id": id, "type": "function", "function": {"name": name, "arguments": text}},
    st.sampled_from(["", "call_x", "call_y"]),
    names,
    words,
)
message = st.one_of(
    st.builds(lambda role, said: {"role": role, "content": said}, st.sampled_from(["system", "user"]), content),
    st.builds(
        lambda said, calls, thought, signature, refusal: {
            "role": "assistant",
            "content": said,
            "tool_calls": calls,
            "thinking_blocks": [{"type": "thinking", "thinking": thought, "signature": signature}],
            "refusal": refusal,
        },
        st.none() | words,
        st.lists(call, max_size=3),
        words,
        words,
        st.none() | words,
    ),
    st.builds(
        lambda id, said: {"role": "tool", "tool_call_id": id, "content": said},
        st.sampled_from(["call_x", "call_y"]),
        content,
    ),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(message, max_size=5), st.lists(words, max_size=3), st.none() | st.sampled_from(["low", "none"]))
def test_there_and_back_a_conversation_means_the_same(messages: list[Any], stop: list[str], effort: str | None) -> None:
    request = read({"model": "m", "messages": messages, "stop": stop, "reasoning_effort": effort, "x": 1})
    back = CONVERTER.read_request(CONVERTER.write_request(request, Omissions()))
    for each in (*request.messages, *back.messages):
        forget_places(each.parts)
    assert back == request


def forget_places(parts: Sequence[Part]) -> None:
    """Empty texts are left out, so that what stands behind them moves."""
    for part in parts:
        if isinstance(part, Opaque):
            part.where = ""
        elif isinstance(part, ToolResult):
            forget_places(part.parts)
