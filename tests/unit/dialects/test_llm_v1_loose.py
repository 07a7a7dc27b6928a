"""Answers that say in parts and objects what others say in a text are answers, whole and in events, short and long."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.json_text import values
from zuebee.dialects.llm_v1 import INLINE_BYTES, NotAnAnswer, read_answer
from zuebee.dialects.llm_v1_loose import MAX_TEXT_PARTS

TEXT = {"type": "text", "text": "Hello"}
THINKING = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}  # as Mistral has it
MESSAGES: dict[str, tuple[dict[str, Any], str, str]] = {
    "a part": ({"content": [TEXT]}, "Hello", ""),
    "parts": ({"content": [TEXT, {"type": "text", "text": " you"}, " there"]}, "Hello you there", ""),
    "a part without a type": ({"content": [{"text": "Hello"}]}, "Hello", ""),
    "a part with a text inside": (
        {"content": [{"type": "text", "text": {"value": 1, "content": "Hello"}}]},
        "Hello",
        "",
    ),
    "thoughts among the parts": ({"content": [THINKING, TEXT]}, "Hello", "Hm"),
    "parts that are pictures": ({"content": [{"type": "image_url", "image_url": {"url": "x"}}, TEXT]}, "Hello", ""),
    "no parts": ({"content": []}, "", ""),
    "an object": ({"content": TEXT}, "Hello", ""),
    "a reasoning object": ({"content": "Hello", "reasoning": {"content": "Hm"}}, "Hello", "Hm"),
    "a reasoning with a summary": (
        {"content": "Hello", "reasoning": {"effort": "low", "summary": [{"type": "summary_text", "text": "Hm"}]}},
        "Hello",
        "Hm",
    ),
    "a list of reasoning": (
        {"content": None, "reasoning_content": [{"type": "reasoning.text", "text": "Hm"}]},
        "",
        "Hm",
    ),
    "a refusal in parts": ({"content": None, "refusal": [{"type": "text", "text": "No"}]}, "No", ""),
    "odd fields": ({"content": "Hello", "refusal": False, "reasoning": 0}, "Hello", ""),
}


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("field", ["message", "delta"])
@pytest.mark.parametrize("padding", [0, INLINE_BYTES])
def test_what_is_said_is_found(name: str, field: str, padding: int) -> None:
    message, text, thoughts = MESSAGES[name]
    answer = {
        "choices": [{field: message, "finish_reason": "stop", "x": "x" * padding}],
        "model": "m",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }
    piece = read_answer(json.dumps(answer).encode())
    assert (piece.text, piece.reasoning) == (text, thoughts)
    assert (piece.finish_reason, piece.model) == ("stop", "m")
    assert piece.usage is not None
    assert (piece.usage.prompt, piece.usage.completion) == (3, 2)


def test_arguments_may_be_an_object() -> None:
    calls = [
        {"id": "a", "function": {"name": "f", "arguments": {"city": "Köln"}}},
        {"id": "b", "function": {"name": "g", "arguments": "{}"}},
        {"id": "c", "function": {"name": "h", "arguments": None}},
    ]
    body = json.dumps({"choices": [{"message": {"content": None, "tool_calls": calls}}]}, ensure_ascii=False).encode()
    found = read_answer(body).tool_calls
    assert [(call.id, call.name) for call in found] == [("a", "f"), ("b", "g"), ("c", "h")]
    assert json.loads(found[0].arguments) == {"city": "Köln"}
    assert [call.arguments for call in found[1:]] == ["{}", ""]


def deep(levels: int) -> Any:
    found: Any = "x"
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize("content", [deep(6), ["x"] * (MAX_TEXT_PARTS + 1), [1], 5, True, [[True]]])
def test_what_cannot_be_said_is_no_answer(content: Any) -> None:
    """Better than half of it under the name of the whole."""
    with pytest.raises(NotAnAnswer):
        read_answer(json.dumps({"choices": [{"message": {"content": content}}]}).encode())


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("content", "reasoning", "refusal", "tool_calls"), values)))
def test_nothing_else_is_raised(message: dict[str, Any]) -> None:
    for body in ({"choices": [{"message": message}]}, {"choices": message}, {"choices": [message]}):
        with contextlib.suppress(NotAnAnswer):
            read_answer(json.dumps(body).encode())
