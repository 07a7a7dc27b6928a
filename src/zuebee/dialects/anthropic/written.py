"""PURE. Parts of a conversation, written as the content blocks that a server of Anthropic's dialect takes.

Such a server refuses blank texts, ids with other letters than its own, reasoning that it did not sign, and more than
four marks for its cache.
"""

import re
from base64 import b64decode
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Raw

from zuebee.dialects.anthropic.blocks import NAME
from zuebee.dialects.hub.canonical import (
    SIGNED_BY_GEMINI,
    Declined,
    FunctionCall,
    Media,
    NotCarried,
    Omissions,
    Opaque,
    Part,
    Text,
    Thinking,
    ToolResult,
    arguments_object,
)

Block: TypeAlias = dict[str, Any]

MAX_MARKS: Final = 4
MARK: Final = "cache_control"

_ODD: Final = re.compile(r"[^a-zA-Z0-9_-]")
_MAGIC: Final = {
    "iVBOR": "image/png",
    "/9j/": "image/jpeg",
    "R0lGOD": "image/gif",
    "UklGR": "image/webp",
    "JVBERi": "application/pdf",
}
"""How files of these types begin in base64."""
_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode


class Blocks:
    """Writes the blocks of one request, in the order in which its server reads them: tools, system, messages.

    `own`: the client speaks the same dialect.
    """

    def __init__(self, notes: Omissions, *, own: bool) -> None:
        self._notes = notes
        self._own = own
        self._marked: list[Block] = []
        self._fixed_marks = 0
        self._ids: dict[str, str] = {}
        self._used: set[str] = set()
        self._calls = 0
        self._results = 0

    def marked(self, block: Block, cache: bytes) -> Block:
        """The block, with the mark if there is one."""
        if cache:
            block[MARK] = Raw(cache)
            self._marked.append(block)
        return block

    def opaque(self, part: Opaque) -> Raw | None:
        """What has no meaning here, if it is of this dialect."""
        if part.dialect != NAME:
            self._notes.drop(part.where or part.type)
            return None
        self._fixed_marks += part.raw.count(b'"cache_control"')
        return Raw(part.raw)

    def drop_marks(self, others: int = 0) -> None:
        """Of too many marks the last ones stay: what is cached up to them has the earlier ones in it."""
        spare = max(MAX_MARKS - self._fixed_marks - others, 0)
        for block in self._marked[: max(len(self._marked) - spare, 0)]:
            del block[MARK]
            self._notes.drop(MARK)

    def texts(self, parts: list[Part], where: str) -> list[Any]:
        """The blocks of instructions."""
        found: list[Any] = []
        for part in parts:
            if isinstance(part, Text):
                if part.text.strip():
                    found.append(self.marked({"type": "text", "text": part.text}, part.cache))
            elif isinstance(part, Opaque):
                if (raw := self.opaque(part)) is not None:
                    found.append(raw)
            else:
                raise NotCarried(where, "its instructions are text only.")
        return found

    def content(self, parts: list[Part], where: str, role: str) -> list[Any]:
        """The blocks of one message. Raises NotCarried if none is left of those that it had."""
        found: list[Any] = []
        for index, part in enumerate(parts):
            block = self._block(part, f"{where}.content[{index}]", role)
            if block is not None:
                found.append(block)
        if not found and any(isinstance(part, Opaque) for part in parts):
            raise NotCarried(where, "nothing in it has a meaning there.")
        if role == "assistant" and not self._own:
            # Elsewhere reasoning stands beside the answer, here before it.
            found.sort(key=lambda block: not _is_thinking(block))
        return found

    def _block(self, part: Part, where: str, role: str) -> Any:
        if isinstance(part, Text | Declined):
            text = {"type": "text", "text": part.text}
            return self.marked(text, getattr(part, "cache", b"")) if part.text.strip() else None
        if isinstance(part, Media):
            if role == "assistant":
                raise NotCarried(where, "the model's own turns are text only.")
            return self._media(part, where)
        if isinstance(part, FunctionCall):
            self._calls += 1
            call = {"type": "tool_use", "id": self._id(part.id, self._calls), "name": part.name}
            return self.marked(call | {"input": arguments_object(part.arguments)}, part.cache)
        if isinstance(part, ToolResult):
            return self._result(part, where)
        if isinstance(part, Thinking):
            return self._thinking(part, where)
        return self.opaque(part)

    def _thinking(self, part: Thinking, where: str) -> Block | None:
        if part.redacted:
            return {"type": "redacted_thinking", "data": part.redacted}
        if part.signature and not part.signature.startswith(SIGNED_BY_GEMINI):
            return {"type": "thinking", "thinking": part.text, "signature": part.signature}
        if part.text or part.signature:
            self._notes.drop(where)
        return None

    def _result(self, part: ToolResult, where: str) -> Block:
        self._results += 1
        result: Block = {"type": "tool_result", "tool_use_id": self._id(part.id, self._results)}
        inner = []
        for index, each in enumerate(part.parts):
            block = self._block(each, f"{where}.content[{index}]", "user")
            if block is not None:
                inner.append(block)
        if inner:
            result["content"] = plain(inner)
        if part.is_error:
            result["is_error"] = True
        return self.marked(result, part.cache)

    def _id(self, given: str, number: int) -> str:
        """The id of a call, in letters that are allowed; the same for its result."""
        if not given:
            return f"call_{number}"
        if given not in self._ids:
            clean = made = _ODD.sub("_", given)
            more = 1
            while made in self._used:
                more += 1
                made = f"{clean}_{more}"
            self._used.add(made)
            self._ids[given] = made
        return self._ids[given]

    def _media(self, part: Media, where: str) -> Block:
        if part.kind == "audio":
            raise NotCarried(where, "it takes no sound.")
        if part.detail not in ("", "auto"):
            self._notes.drop("detail")
        source, kind = self._source(part, where)
        block: Block = {"type": kind, "source": source}
        if part.name and kind == "document":
            block["title"] = part.name
        return self.marked(block, part.cache)

    def _source(self, part: Media, where: str) -> tuple[Block, str]:
        if not part.data:
            if not part.url:
                raise NotCarried(where, "it has neither data nor a URL.")
            return {"type": "url", "url": part.url}, part.kind
        media_type = part.media_type.partition(";")[0].strip().lower()
        if not media_type or media_type == "application/octet-stream":
            media_type = next((found for begin, found in _MAGIC.items() if part.data.startswith(begin)), "")
        media_type = "image/jpeg" if media_type == "image/jpg" else media_type
        if media_type.startswith("text/") or media_type in ("application/json", "application/xml"):
            try:
                text = b64decode(part.data).decode()
            except ValueError:
                raise NotCarried(where, "its text is not UTF-8 in base64.") from None
            return {"type": "text", "media_type": "text/plain", "data": text}, "document"
        if not (media_type.startswith("image/") or media_type == "application/pdf"):
            raise NotCarried(where, f"it takes no files of type `{media_type[:80] or 'unknown'}`.")
        kind = "image" if media_type.startswith("image/") else "document"
        return {"type": "base64", "media_type": media_type, "data": part.data}, kind


def plain(blocks: list[Any]) -> Any:
    """A text alone needs no block; every server takes it so."""
    only = blocks[0] if len(blocks) == 1 else None
    return only["text"] if isinstance(only, dict) and only.keys() == {"type", "text"} else blocks


def _is_thinking(block: Any) -> bool:
    return isinstance(block, dict) and block["type"] in ("thinking", "redacted_thinking")


def begins_with_thinking(blocks: list[Any]) -> bool:
    """Whether a turn of the model begins as one must that had reasoning."""
    return bool(blocks) and _is_thinking(blocks[0])


def has_call(blocks: list[Any]) -> bool:
    """Whether a turn of the model calls a tool."""
    return any(isinstance(block, dict) and block["type"] == "tool_use" for block in blocks)
