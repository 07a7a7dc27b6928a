"""PURE. Answers of chat completions that say in parts or in objects what others say in a text.

Mistral gives its thoughts among the parts of `content`, some servers give `reasoning` as an object, some the arguments
of a call.
"""

from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Raw, UnsetType

from zuebee.dialects import json_text

MAX_TEXT_PARTS: Final = 10_000
MAX_DEPTH: Final = 4
_THOUGHTS: Final = ("thinking", "reasoning", "reasoning_content", "summary")

Json = Raw | UnsetType


class Said(NamedTuple):
    """What a reader is told, and what the model thought."""

    text: str = ""
    thoughts: str = ""

    def and_then(self, more: "Said") -> "Said":
        """Both, one behind the other."""
        return Said(self.text + more.text, self.thoughts + more.thoughts)


class _LoosePart(msgspec.Struct):
    type: Any = ""
    text: Json = UNSET
    content: Json = UNSET
    thinking: Json = UNSET
    reasoning: Json = UNSET
    reasoning_content: Json = UNSET
    summary: Json = UNSET


class LooseFunction(msgspec.Struct):
    """A function that is called; `arguments` a text, or an object."""

    name: str | None = None
    arguments: Json = UNSET


class LooseCall(msgspec.Struct):
    """A call of a message."""

    id: str | None = None
    function: LooseFunction | None = None
    index: int | None = None


class LooseMessage(msgspec.Struct):
    """A message whose texts may be anything that holds one."""

    content: Json = UNSET
    reasoning_content: Json = UNSET
    reasoning: Json = UNSET
    refusal: Json = UNSET
    tool_calls: Json = UNSET

    def said(self) -> Said:
        """All that it says. Raises as msgspec and json_walk do."""
        if self.content is not UNSET and bytes(self.content)[:1] not in (b'"', b"[", b"{", b"n"):
            raise json_text.NotJson("content that is no text")
        said = said_in(self.content)
        if not said.text:
            said = Said(said_in(self.refusal).text, said.thoughts)
        if not said.thoughts:
            for raw in (self.reasoning_content, self.reasoning):
                if any(found := said_in(raw)):
                    return Said(said.text, found.thoughts + found.text)
        return said


class LooseChoice(msgspec.Struct):
    """One of an answer's texts, or a piece of one."""

    message: LooseMessage | None = None
    delta: LooseMessage | None = None
    finish_reason: Json = UNSET


_part: Final = msgspec.json.Decoder(_LoosePart).decode
_text: Final = msgspec.json.Decoder(str).decode


def text_in(raw: Json) -> str:
    """A text; of anything else nothing."""
    return _text(raw) if raw is not UNSET and bytes(raw)[:1] == b'"' else ""


def arguments_in(raw: Json) -> str:
    """The arguments of a call, as JSON: a text holds it, an object is it."""
    if raw is UNSET or bytes(raw) == b"null":
        return ""
    return text_in(raw) or ("" if bytes(raw) == b'""' else bytes(raw).decode())


def said_in(raw: Json, depth: int = 0) -> Said:
    """What stands in a text, a list of parts, or an object with either. Raises as msgspec and json_walk do."""
    if raw is UNSET:
        return Said()
    data = bytes(raw)
    mark = data[:1]
    if mark == b'"':
        return Said(_text(data))
    if mark not in (b"[", b"{"):
        if data != b"null" and depth:
            raise json_text.NotJson("a part that is no text")
        return Said()
    if depth >= MAX_DEPTH:
        raise json_text.NotJson("too deep")
    if mark == b"{":
        return _said_in_part(data, depth + 1)
    places = json_text.elements(data, 0, MAX_TEXT_PARTS)
    if len(places) > MAX_TEXT_PARTS:
        raise json_text.NotJson("too many parts")
    parts = [said_in(Raw(data[start:end]), depth + 1) for start, end in places]
    return Said("".join(part.text for part in parts), "".join(part.thoughts for part in parts))


def _said_in_part(data: bytes, depth: int) -> Said:
    part = _part(data)
    said = said_in(part.text, depth).and_then(said_in(part.content, depth))
    thoughts = "".join("".join(said_in(getattr(part, name), depth)) for name in _THOUGHTS)
    if isinstance(part.type, str) and part.type.startswith(("thinking", "reasoning")):
        return Said("", said.thoughts + said.text + thoughts)
    return Said(said.text, said.thoughts + thoughts)
