"""PURE. When the model calls tools, and with which arguments."""

import re
from typing import Any, NamedTuple

import msgspec

from zuebee.sim.asks import ChatAsk, Tool
from zuebee.sim.messages import Refused
from zuebee.sim.text import Token

PIECE_CHARACTERS = 6
"""A token of a call's arguments."""

_MAX_DEPTH = 8
_WORDS = ("Berlin", "harbour", "tomorrow", "copper", "library")


class ToolCall(NamedTuple):
    """One call: its id, the function's name, and its arguments as JSON text."""

    id: str
    name: str
    arguments: str


def choose(ask: ChatAsk, seed: int) -> list[ToolCall]:
    """Return the calls that answer the request; none when it is to be answered with text.

    Called are: the tool named by `tool_choice`, the first one for `required`, or those that the last message
    mentions, if it is the user's. Raise Refused (400) when `tool_choice` is not among the tools.
    """
    chosen = _chosen(ask)
    if ask.parallel_tool_calls is False:
        chosen = chosen[:1]
    return [
        ToolCall(f"call_{seed:08x}{place:04x}", tool.function.name, _arguments(tool, seed + place))
        for place, tool in enumerate(chosen)
    ]


def _chosen(ask: ChatAsk) -> list[Tool]:
    tools, choice = ask.tools or [], ask.tool_choice
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        named = [tool for tool in tools if tool.function.name == name]
        if not named:
            raise Refused(400, "The function of `tool_choice` is not among `tools`.", param="tool_choice")
        return named[:1]
    if choice not in (None, "none", "auto", "required") or (choice == "required" and not tools):
        raise Refused(400, f"`tool_choice` cannot be {choice!r} here.", param="tool_choice")
    last = ask.messages[-1]
    if choice == "none" or (last.role != "user" and choice != "required"):
        return []
    words = set(re.findall(r"[\w.-]+", last.text))
    mentioned = [tool for tool in tools if tool.function.name in words]
    return mentioned or (tools[:1] if choice == "required" else [])


def _arguments(tool: Tool, seed: int) -> str:
    value = _example(tool.function.parameters or {"type": "object"}, seed, 0)
    return msgspec.json.encode(value if isinstance(value, dict) else {}).decode()


def _example(schema: Any, seed: int, depth: int) -> Any:
    """Return a value that fits the types, enumerations and properties of a JSON schema."""
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return None
    if options := schema.get("enum"):
        return options[seed % len(options)] if isinstance(options, list) else options
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties")
        named = properties.items() if isinstance(properties, dict) else ()
        return {name: _example(part, seed + place, depth + 1) for place, (name, part) in enumerate(named)}
    simple = {"string": _WORDS[seed % len(_WORDS)], "integer": seed % 100, "number": seed % 100 / 4}
    simple |= {"boolean": seed % 2 == 0, "null": None}
    if kind == "array":
        return [_example(schema["items"], seed, depth + 1)] if "items" in schema else []
    return simple.get(kind if isinstance(kind, str) else "string", None)


def call_tokens(call: ToolCall, place: int) -> list[Token]:
    """Return a call as stream deltas: its id and name first, then its arguments piece by piece."""
    opening = {
        "index": place,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": ""},
    }
    text, size = call.arguments, PIECE_CHARACTERS
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    return [_delta(opening)] + [_delta({"index": place, "function": {"arguments": piece}}) for piece in pieces]


def _delta(part: dict[str, Any]) -> Token:
    return Token("", b"", msgspec.json.encode({"tool_calls": [part]}))


def message(calls: list[ToolCall]) -> list[dict[str, Any]]:
    """Return the calls as the `tool_calls` of a message that is not streamed."""
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


def cut(calls: list[ToolCall], limit: int) -> list[ToolCall]:
    """Return what `limit` tokens of the calls say: the last one breaks off in its arguments."""
    kept = []
    for call in calls:
        if limit <= 0:
            break
        kept.append(call._replace(arguments=call.arguments[: (limit - 1) * PIECE_CHARACTERS]))
        limit -= 1 + -(-len(call.arguments) // PIECE_CHARACTERS)
    return kept
