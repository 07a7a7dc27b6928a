"""PURE. How much text stands in the chunks of a stream: for estimates, where nobody counts their tokens."""

from typing import Any

import msgspec
from msgspec import Raw, UnsetType

BYTES_PER_TOKEN = 4


class _Function(msgspec.Struct):
    name: Any = None
    arguments: Any = None


class _Call(msgspec.Struct):
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    text: Any = None
    delta: _Delta | None = None


_choices = msgspec.json.Decoder(list[_Choice])


def text_bytes(choices: Raw | UnsetType) -> int:
    """The bytes of text in a chunk's choices: answers, reasoning and the arguments of tools, without their wrapping.

    What has another form counts with all its bytes.
    """
    if not isinstance(choices, Raw):
        return 0
    try:
        found = _choices.decode(choices)
    except (ValueError, RecursionError):
        return len(bytes(choices))
    return sum(_size(choice.text) + _delta_bytes(choice.delta) for choice in found)


def _delta_bytes(delta: _Delta | None) -> int:
    if delta is None:
        return 0
    # Some servers say the same reasoning under two names.
    size = _size(delta.content) + max(_size(delta.reasoning_content), _size(delta.reasoning)) + _size(delta.refusal)
    for call in delta.tool_calls or ():
        if call.function is not None:
            size += _size(call.function.name) + _size(call.function.arguments)
    return size


def _size(value: Any) -> int:
    if value is None:
        return 0
    return len(value.encode("utf-8", "replace") if isinstance(value, str) else msgspec.json.encode(value))
