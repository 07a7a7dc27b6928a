import json
from typing import Any

import pytest

from zuebee.sim.asks import ChatAsk, ToolCall, call_tokens, choose, cut, decode
from zuebee.sim.base import SimRefused

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"enum": ["C", "F"]},
        "where": {"type": "object", "properties": {"x": {"type": ["number", "null"]}}},
        "tags": {"type": "array", "items": {"type": "boolean"}},
    },
}


def ask(text: str, role: str = "user", **fields: Any) -> ChatAsk:
    tools = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("weather", "time_in")]
    return decode(
        json.dumps({"messages": [{"role": role, "content": text}], "tools": tools, **fields}).encode(), ChatAsk
    )


def names(made: ChatAsk) -> list[str]:
    return [call.name for call in choose(made, 1)]


def test_which_tools_are_called() -> None:
    assert names(ask("no tool at all, whether or not")) == []
    assert names(ask("what is the weather?")) == ["weather"]
    assert names(ask("call time_in and weather")) == ["weather", "time_in"]
    assert names(ask("call time_in and weather", parallel_tool_calls=False)) == ["weather"]
    assert names(ask("weather", role="tool")) == []
    assert names(ask("weather", tool_choice="none")) == []
    assert names(ask("hello", tool_choice="required")) == ["weather"]
    assert names(ask("hello", tool_choice={"type": "function", "function": {"name": "time_in"}})) == ["time_in"]


@pytest.mark.parametrize("choice", ["always", {"type": "function", "function": {"name": "other"}}, {}])
def test_an_impossible_choice_is_refused(choice: Any) -> None:
    with pytest.raises(SimRefused):
        names(ask("hello", tool_choice=choice))


def test_arguments_fit_the_schema() -> None:
    (call,) = choose(ask("weather"), 12345)
    value = json.loads(call.arguments)
    assert isinstance(value["city"], str)
    assert isinstance(value["days"], int)
    assert value["unit"] in ("C", "F")
    assert isinstance(value["where"]["x"], float)
    assert value["tags"] in ([True], [False])


@pytest.mark.parametrize("schema", [{}, {"type": "string"}, {"properties": {"a": {"enum": []}, "b": 7}}])
def test_odd_schemas_still_give_an_object(schema: dict[str, Any]) -> None:
    tools = [{"function": {"name": "odd", "parameters": schema}}]
    (call,) = choose(ask("odd", tools=tools), 1)
    assert isinstance(json.loads(call.arguments), dict)


def test_a_schema_without_end_comes_to_one() -> None:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(50):
        schema = {"type": "object", "properties": {"a": schema}}
    (call,) = choose(ask("deep", tools=[{"function": {"name": "deep", "parameters": schema}}]), 1)
    assert call.arguments.count("{") < 20


def test_streamed_pieces_join_to_the_arguments() -> None:
    call = ToolCall("call_1", "weather", '{"city":"Berlin"}')
    deltas = [json.loads(token.delta)["tool_calls"][0] for token in call_tokens(call, 2)]
    assert deltas[0] == {
        "index": 2,
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": ""},
    }
    assert "".join(delta["function"]["arguments"] for delta in deltas) == call.arguments
    assert {delta["index"] for delta in deltas} == {2}


@pytest.mark.parametrize("limit", range(10))
def test_a_cut_answer_says_the_same_streamed_or_not(limit: int) -> None:
    calls = [ToolCall("1", "a", '{"city":"Berlin"}'), ToolCall("2", "b", "{}")]
    tokens = [token for place, call in enumerate(calls) for token in call_tokens(call, place)][:limit]
    said: dict[int, str] = {}
    for token in tokens:
        delta = json.loads(token.delta)["tool_calls"][0]
        said[delta["index"]] = said.get(delta["index"], "") + delta["function"]["arguments"]
    assert [call.arguments for call in cut(calls, limit)] == list(said.values())
