"""PURE. Content blocks of Anthropic's messages, read into parts; those that nobody knows stay opaque.

Blocks that hold a text for the model beside their own form (search results, documents made of blocks, the context of a
document) are read as that text: every model can read it.
"""

from base64 import b64encode
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Raw

from zuebee.dialects.hub.canonical import FunctionCall, Malformed, Media, Opaque, Part, Text, Thinking, ToolResult

NAME: Final = "anthropic"
_NONE: Final = Raw(b"")
_ABSENT: Final = (b"", b"null")


class BlockKind(msgspec.Struct):
    """What every block says of itself."""

    type: str = ""


class TextBlock(msgspec.Struct):
    """`text`."""

    text: str | None = ""
    cache_control: Raw = _NONE


class BlockSource(msgspec.Struct):
    """Where the bytes of a picture or a document are."""

    type: str = ""
    media_type: str | None = ""
    data: str | None = ""
    url: str | None = ""
    content: Raw = _NONE


class MediaBlock(msgspec.Struct):
    """`image` and `document`."""

    source: BlockSource
    title: str | None = ""
    context: str | None = ""
    cache_control: Raw = _NONE


class ToolUseBlock(msgspec.Struct):
    """`tool_use`."""

    id: str | None = ""
    name: str | None = ""
    input: Raw = _NONE
    signature: str | None = ""
    cache_control: Raw = _NONE


class ToolResultBlock(msgspec.Struct):
    """`tool_result`."""

    tool_use_id: str | None = ""
    content: Raw = _NONE
    is_error: bool | None = None
    cache_control: Raw = _NONE


class ReasoningBlock(msgspec.Struct):
    """`thinking` and `redacted_thinking`."""

    thinking: str | None = ""
    signature: str | None = ""
    data: str | None = ""


class SearchResultBlock(msgspec.Struct):
    """`search_result`."""

    source: str | None = ""
    title: str | None = ""
    content: Raw = _NONE
    cache_control: Raw = _NONE


_Found: TypeAlias = list[Part]
_kind: Final = msgspec.json.Decoder(BlockKind).decode
_content: Final = msgspec.json.Decoder(str | list[Raw] | None).decode
_text: Final = msgspec.json.Decoder(TextBlock).decode
_media: Final = msgspec.json.Decoder(MediaBlock).decode
_tool_use: Final = msgspec.json.Decoder(ToolUseBlock).decode
_tool_result: Final = msgspec.json.Decoder(ToolResultBlock).decode
_thinking: Final = msgspec.json.Decoder(ReasoningBlock).decode
_search_result: Final = msgspec.json.Decoder(SearchResultBlock).decode


def malformed(error: Exception, where: str) -> Malformed:
    """What a strict reader says of a value at `where`, as `Expected `str`, got `int` - at `$.text``."""
    if isinstance(error, RecursionError):
        return Malformed(f"The field `{where}` is nested too deeply.", where)
    what, _, place = str(error).partition(" - at ")
    inner = place.strip("`").removeprefix("$")
    field = (where + inner).lstrip(".")
    return Malformed(f"The field `{field}` is not valid: {what[:1].lower()}{what[1:]}.", field)


def read_content(content: bytes, where: str) -> list[Part]:
    """The parts of a `content` or a `system`: a text, or blocks; none for null."""
    if bytes(content) in _ABSENT:
        return []
    try:
        found = _content(content)
    except (ValueError, RecursionError) as error:
        raise malformed(error, where) from None
    if not isinstance(found, list):
        return [Text(found)] if found else []
    return read_blocks(found, where)


def read_blocks(blocks: list[Raw], where: str) -> list[Part]:
    """The parts that these blocks are."""
    parts: list[Part] = []
    for index, raw in enumerate(blocks):
        parts += read_block(bytes(raw), f"{where}[{index}]")
    return parts


def read_block(raw: bytes, where: str) -> list[Part]:
    """The parts that one block is; one as a rule. Raises Malformed."""
    try:
        kind = _kind(raw).type
        reader = _READERS.get(kind)
        return [Opaque(NAME, raw, where, kind)] if reader is None else reader(raw, where)
    except (ValueError, RecursionError) as error:
        raise malformed(error, where) from None


def _read_text(raw: bytes, where: str) -> _Found:
    block = _text(raw)
    return [Text(block.text or "", mark(block.cache_control))]


def _read_image(raw: bytes, where: str) -> _Found:
    return _read_media(raw, where, "image")


def _read_document(raw: bytes, where: str) -> _Found:
    return _read_media(raw, where, "document")


def _read_media(raw: bytes, where: str, kind: Literal["image", "document"]) -> _Found:
    block = _media(raw)
    source, title, cache = block.source, block.title or "", mark(block.cache_control)
    before: _Found = [Text(block.context)] if block.context else []
    if source.type == "base64":
        return [*before, Media(kind, source.media_type or "", source.data or "", name=title, cache=cache)]
    if source.type == "url":
        return [*before, Media(kind, source.media_type or "", url=source.url or "", name=title, cache=cache)]
    if source.type == "text":
        data = b64encode((source.data or "").encode()).decode()
        return [*before, Media(kind, source.media_type or "text/plain", data, name=title, cache=cache)]
    if source.type == "content":
        if title:
            before.append(Text(title))
        found = before + read_content(source.content, f"{where}.source.content")
        if found and cache and isinstance(last := found[-1], Text | Media):
            last.cache = last.cache or cache
        return found
    return [Opaque(NAME, raw, where, kind)]  # a file that was given to Anthropic


def _read_tool_use(raw: bytes, where: str) -> _Found:
    block = _tool_use(raw)
    arguments = bytes(block.input).decode() if bytes(block.input) not in _ABSENT else "{}"
    return [FunctionCall(block.id or "", block.name or "", arguments, block.signature or "", mark(block.cache_control))]


def _read_tool_result(raw: bytes, where: str) -> _Found:
    block = _tool_result(raw)
    parts: list[Text | Media | Opaque] = []
    for part in read_content(block.content, f"{where}.content"):
        if not isinstance(part, Text | Media | Opaque):
            raise Malformed(f"The field `{where}.content` has a block that no tool can give.", f"{where}.content")
        parts.append(part)
    return [ToolResult(block.tool_use_id or "", parts, bool(block.is_error), cache=mark(block.cache_control))]


def _read_thinking(raw: bytes, where: str) -> _Found:
    block = _thinking(raw)
    return [Thinking(block.thinking or "", block.signature or "")]


def _read_redacted(raw: bytes, where: str) -> _Found:
    return [Thinking(redacted=_thinking(raw).data or "")]


def _read_search_result(raw: bytes, where: str) -> _Found:
    block = _search_result(raw)
    head = " ".join(each for each in (block.title, f"({block.source})" if block.source else "") if each)
    texts = [part.text for part in read_content(block.content, f"{where}.content") if isinstance(part, Text)]
    return [Text("\n".join([head, *texts] if head else texts), mark(block.cache_control))]


_READERS: Final[dict[str, Callable[[bytes, str], _Found]]] = {
    "text": _read_text,
    "image": _read_image,
    "document": _read_document,
    "tool_use": _read_tool_use,
    "tool_result": _read_tool_result,
    "thinking": _read_thinking,
    "redacted_thinking": _read_redacted,
    "search_result": _read_search_result,
}


def mark(cache_control: bytes) -> bytes:
    """The JSON of a mark, b"" where there is none."""
    raw = bytes(cache_control)
    return b"" if raw in _ABSENT else raw
