"""PURE. A conversation of the hub form, written as the `contents` that Gemini takes."""

import re
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Raw

from zuebee.dialects.gemini.generation import LEVELS_SINCE, LINKS_SINCE, version_of
from zuebee.dialects.gemini.shapes import NAME
from zuebee.dialects.hub.canonical import (
    SIGNED_BY_GEMINI,
    ChatMessage,
    ChatRequest,
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

Piece: TypeAlias = dict[str, Any]

UNSIGNED: Final = "skip_thought_signature_validator"
"""Google's word for a call that another model made, or whose signature is lost: without one Gemini 3 answers 400."""

_MAGIC: Final = {
    "iVBOR": "image/png",
    "/9j/": "image/jpeg",
    "R0lGOD": "image/gif",
    "UklGR": "image/webp",
    "JVBERi": "application/pdf",
}
"""How files of these types begin in base64."""
_ENDINGS: Final = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "bmp": "image/bmp",
    "gif": "image/gif",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
    "json": "application/json",
    "txt": "text/plain",
    "html": "text/html",
    "csv": "text/csv",
}
_ENDING: Final = re.compile(r"[^?#]{0,4096}\.([a-zA-Z]{2,5})(?:[?#]|\Z)")
_LINKED: Final = ("image/bmp", "image/jpeg", "image/png", "image/webp", "application/json", "application/pdf", "text/")
"""What Google fetches from others' servers."""
_OWN_FILES: Final = ("gs://", "https://generativelanguage.googleapis.com/")
_NESTED: Final = ("image/png", "image/jpeg", "image/webp", "application/pdf", "text/plain")
"""What a function's response may have in it, since Gemini 3."""

_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode

_THINKING: Final = {"openai": "reasoning_content"}
_TITLES: Final = {"openai": "filename"}


class Contents:
    """Writes the contents of one request. `system`: all instructions; `turns`: roles and parts, which alternate."""

    def __init__(self, request: ChatRequest, notes: Omissions) -> None:
        self.system: list[str] = []
        self.turns: list[tuple[str, list[Piece]]] = []
        self._notes = notes
        self._dialect = request.dialect
        self._version = version_of(request.model)
        self._names: dict[str, str] = {}
        for index, message in enumerate(request.messages):
            self._message(message, f"messages[{index}]")
        if not self.turns and self.system:  # there must be a turn
            self.turns, self.system = [("user", [{"text": text} for text in self.system])], []
        for role, pieces in self.turns:
            if role == "user":  # what the model asked for comes first
                pieces.sort(key=lambda piece: "functionResponse" not in piece)
            elif self._version is not None and self._version >= LEVELS_SINCE:
                _sign(pieces)

    def _message(self, message: ChatMessage, where: str) -> None:
        if message.name:
            self._notes.drop("name")
        if message.role == "system":
            self._instructions(message.parts, where)
            return
        role = "model" if message.role == "assistant" else "user"
        pieces: list[Piece] = []
        pending = ""
        for index, part in enumerate(message.parts):
            place = f"{where}.content[{index}]"
            if isinstance(part, Thinking) and not part.text and self._own(part):
                pending = self._signature(pieces, part.signature.removeprefix(SIGNED_BY_GEMINI), pending)
                continue
            found = self._pieces(part, place, role)
            if pending and found and "text" in found[0] and "thought" not in found[0]:
                found[0]["thoughtSignature"], pending = pending, ""
            pieces += found
        if pending:
            pieces.append({"text": "", "thoughtSignature": pending})
        if not pieces:
            if any(isinstance(part, Opaque) for part in message.parts):
                raise NotCarried(where, "nothing in it has a meaning there.")
            return
        if self.turns and self.turns[-1][0] == role:
            self.turns[-1][1].extend(pieces)
        else:
            self.turns.append((role, pieces))

    def _signature(self, pieces: list[Piece], signature: str, pending: str) -> str:
        """A signature that stands by itself is of the text before it, or else of the one behind it."""
        last = pieces[-1] if pieces else {}
        if "text" in last and "thoughtSignature" not in last:
            last["thoughtSignature"] = signature
            return pending
        if pending:
            pieces.append({"text": "", "thoughtSignature": pending})
        return signature

    def _own(self, part: Thinking) -> bool:
        return part.signature.startswith(SIGNED_BY_GEMINI) and not part.redacted

    def _instructions(self, parts: list[Part], where: str) -> None:
        for index, part in enumerate(parts):
            if not isinstance(part, Text):
                raise NotCarried(f"{where}.content[{index}]", "its instructions are text only.")
            self._uncached(part.cache)
            if part.text:
                self.system.append(part.text)

    def _uncached(self, cache: bytes) -> None:
        if cache:
            self._notes.drop("cache_control")

    def _pieces(self, part: Part, where: str, role: str) -> list[Piece]:
        if isinstance(part, Declined):
            return [{"text": part.text}] if part.text else []
        if isinstance(part, Thinking):
            if self._own(part):
                signature = part.signature.removeprefix(SIGNED_BY_GEMINI)
                return [{"text": part.text, "thought": True, "thoughtSignature": signature}]
            if part.text or part.signature or part.redacted:
                self._notes.drop(_THINKING.get(self._dialect, "thinking"))
            return []
        if isinstance(part, Opaque):
            return self._opaque(part, where, role)
        self._uncached(part.cache)
        if isinstance(part, Text):
            return [{"text": part.text}] if part.text else []
        if isinstance(part, Media):
            return [self._media(part, where)]
        return [self._call(part)] if isinstance(part, FunctionCall) else self._result(part, where)

    def _opaque(self, part: Opaque, where: str, role: str) -> list[Piece]:
        """What has no meaning here. Of the model's own it may be left out, of what was asked nothing."""
        name = part.where or where
        if part.dialect == NAME:
            try:
                return [_object(part.raw)]
            except (ValueError, RecursionError):
                raise NotCarried(name, "it is no part of a content.") from None
        if role == "user":
            raise NotCarried(name, f"it takes no content of type `{part.type[:80]}`.")
        self._notes.drop(name)
        return []

    def _call(self, part: FunctionCall) -> Piece:
        call: Piece = {"name": part.name, "args": arguments_object(part.arguments)}
        if part.id:
            call["id"] = part.id
            self._names[part.id] = part.name
        piece: Piece = {"functionCall": call}
        if part.signature:
            piece["thoughtSignature"] = part.signature
        return piece

    def _result(self, part: ToolResult, where: str) -> list[Piece]:
        """The text stays a text: as an object its numbers would lose digits."""
        name = self._names.get(part.id) or part.name
        if not name:
            field = where.rpartition(".")[0] + ".tool_call_id" if self._dialect == "openai" else f"{where}.tool_use_id"
            raise NotCarried(field, "no call of that id comes before it, and so its function is unknown.")
        texts: list[str] = []
        nested: list[Piece] = []
        beside: list[Piece] = []
        for index, each in enumerate(part.parts):
            self._inner(each, f"{where}.content[{index}]", texts, nested, beside)
        if not (texts or nested or beside) and any(isinstance(each, Opaque) for each in part.parts):
            raise NotCarried(where, "nothing in it has a meaning there.")
        key = "error" if part.is_error else "output"
        response: Piece = {"name": name, "response": {key: "\n".join(texts)}}
        if part.id:
            response["id"] = part.id
        if nested:
            response["parts"] = nested
        return [{"functionResponse": response}, *beside]

    def _inner(
        self, part: Text | Media | Opaque, where: str, texts: list[str], nested: list[Piece], beside: list[Piece]
    ) -> None:
        """A part of a result. Pictures stand in it where the model knows of that, else beside it."""
        if isinstance(part, Opaque):
            self._notes.drop(part.where or where)
            return
        self._uncached(part.cache)
        if isinstance(part, Text):
            texts.append(part.text)
            return
        media = self._media(part, where)
        new = self._version is not None and self._version >= LEVELS_SINCE
        kind = media["inlineData"]["mimeType"] if "inlineData" in media else ""
        (nested if new and kind in _NESTED else beside).append(media)

    def _media(self, part: Media, where: str) -> Piece:
        if part.detail not in ("", "auto"):
            self._notes.drop("detail")
        if part.name:
            self._notes.drop(_TITLES.get(self._dialect, "title"))
        kind = part.media_type.partition(";")[0].strip().lower()
        kind = "" if kind == "application/octet-stream" else "image/jpeg" if kind == "image/jpg" else kind
        if part.data:
            kind = kind or next((found for begin, found in _MAGIC.items() if part.data.startswith(begin)), "")
            if not kind:
                raise NotCarried(where, "it must be told of which type the data is.")
            return {"inlineData": {"mimeType": kind, "data": part.data}}
        if not part.url:
            raise NotCarried(where, "it has neither data nor a URL.")
        return self._link(part, kind, where)

    def _link(self, part: Media, kind: str, where: str) -> Piece:
        """A file that Google fetches: its own ones, and some of others."""
        if not kind and (found := _ENDING.match(part.url)) is not None:
            kind = _ENDINGS.get(found[1].lower(), "")
        file = {"mimeType": kind, "fileUri": part.url} if kind else {"fileUri": part.url}
        if part.url.startswith(_OWN_FILES):
            return {"fileData": file}
        if not part.url.lower().startswith("https://"):
            raise NotCarried(where, "it fetches files by https only; send the data.")
        if self._version is None or self._version < LINKS_SINCE:
            raise NotCarried(where, "this model fetches no files; send the data.")
        if part.kind == "audio" or (kind and not kind.startswith(_LINKED)):
            raise NotCarried(where, f"it fetches no files of type `{kind[:80] or part.kind}`; send the data.")
        return {"fileData": file}


def _sign(pieces: list[Piece]) -> None:
    """Of calls that were made at once the first has the signature."""
    for piece in pieces:
        if "functionCall" in piece:
            piece.setdefault("thoughtSignature", UNSIGNED)
            return
