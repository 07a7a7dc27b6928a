"""PURE. The parts of messages of chat completions: texts, media, reasoning and calls, read and written."""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from zuebee.dialects.hub.canonical import (
    Declined,
    Malformed,
    Media,
    NotCarried,
    Opaque,
    Part,
    Text,
    Thinking,
)
from zuebee.dialects.openai_chat.shapes import (
    MessageSaid,
    PartSaid,
    decoded,
    details_decoder,
    given,
    part_decoder,
)

NAME: Final = "openai"
_DATA_URL: Final = re.compile(r"data:([^;,]*)(?:;[^,;]*)*;base64,")
_FORMATS: Final = {"mp3": "mpeg"}
"""Formats of sounds that MIME has another word for."""
_FILE_NAME: Final = "document.pdf"
_FORMATS_BACK: Final = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav"}


# --- reading ---


def read_content(content: str | list[Raw] | None, where: str) -> list[Part]:
    """The parts of a message's content. An empty text is none."""
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [Text(content)]
    parts: list[Part] = []
    for index, raw in enumerate(content):
        data = bytes(raw)
        place = f"{where}[{index}]"
        if data.startswith(b'"'):
            text = msgspec.json.decode(data, type=str)
            found: Sequence[Part] = [Text(text)] if text else []
        else:
            found = _read_part(decoded(part_decoder, data, f"`{place}`"), data, place)
        parts.extend(found)
    return parts


def _read_part(said: PartSaid, raw: bytes, where: str) -> Sequence[Part]:
    kind, cache = said.type, given(said.cache_control)
    if kind == "text" or (not kind and said.text is not None):
        return [Text(said.text, cache)] if said.text else []
    if kind == "image_url" or (not kind and said.image_url is not None):
        link = said.image_url
        if link is None:
            raise Malformed("A picture has no `image_url`", where)
        url, detail = (link, "") if isinstance(link, str) else (link.url, link.detail or "")
        return [_media("image", url, detail=detail, cache=cache)]
    if kind == "input_audio" and said.input_audio is not None:
        sound = said.input_audio
        mime = f"audio/{_FORMATS.get(sound.format, sound.format)}"
        if sound.data.startswith("data:"):
            return [_media("audio", sound.data, cache=cache)]
        return [Media("audio", mime, sound.data, cache=cache)]
    if kind == "audio_url" and said.audio_url is not None:
        return [_media("audio", said.audio_url.url, cache=cache)]
    if kind == "file" and said.file is not None and said.file.file_data:
        name = said.file.filename or ""
        return [_media("document", said.file.file_data, name=name, cache=cache)]
    if kind == "refusal" and said.refusal is not None:
        return [Declined(said.refusal)]
    if kind == "thinking":
        return _thinking_part(said)
    if kind == "redacted_thinking" and said.data:
        return [Thinking(redacted=said.data)]
    if not kind:
        raise Malformed("A part of a message has no `type`", where)
    return [Opaque(NAME, raw, where, kind)]


def _thinking_part(said: PartSaid) -> list[Part]:
    """A thought among the content: Mistral has a list of texts in it."""
    value = said.thinking
    if isinstance(value, list):
        value = "".join(str(each.get("text") or "") for each in value if isinstance(each, dict))
    text = value if isinstance(value, str) else ""
    return [Thinking(text, said.signature or "")] if text or said.signature else []


def _media(kind: Any, url: str, *, detail: str = "", name: str = "", cache: bytes = b"") -> Media:
    """From a URL, which may hold the data."""
    found = _DATA_URL.match(url)
    if found is None:
        return Media(kind, url=url, detail=detail, name=name, cache=cache)
    return Media(kind, found[1], url[found.end() :], detail=detail, name=name, cache=cache)


def read_thinking(said: MessageSaid) -> list[Thinking]:
    """The reasoning of a message, whichever way it is told: with signatures where there are some, never twice."""
    blocks = [
        Thinking(redacted=block.data) if block.data else Thinking(block.thinking or "", block.signature or "")
        for block in said.thinking_blocks or ()
    ]
    if not blocks and (raw := given(said.reasoning_details)):
        blocks = _details(raw)
    blocks = [each for each in blocks if each.text or each.signature or each.redacted]
    if said.thoughts and not any(each.text for each in blocks):
        blocks.insert(0, Thinking(said.thoughts))
    return blocks


def _details(raw: bytes) -> list[Thinking]:
    """OpenRouter's details, in which the pieces of one text may stand apart."""
    try:
        details = decoded(details_decoder, raw, "`reasoning_details`") or []
    except Malformed:
        return []
    found: list[Thinking] = []
    for each in details:
        if each.type == "reasoning.encrypted":
            found.append(Thinking(redacted=each.data or ""))
        else:
            found.append(Thinking(each.text or each.summary or "", each.signature or ""))
    return found


# --- writing ---


def call_json(id: str, name: str, arguments: str, signature: str = "") -> dict[str, Any]:
    """A tool call as answers, requests and streams have it."""
    made: dict[str, Any] = {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
    if signature:
        made["extra_content"] = {"google": {"thought_signature": signature}}
    return made


def thinking_json(parts: Iterable[Part]) -> dict[str, Any]:
    """The reasoning of a message: its text, and the blocks in which signatures come back, where there are some."""
    thoughts = [part for part in parts if isinstance(part, Thinking)]
    made: dict[str, Any] = {}
    if text := "".join(each.text for each in thoughts):
        made["reasoning_content"] = text
    if any(each.signature or each.redacted for each in thoughts):
        made["thinking_blocks"] = [block_json(each) for each in thoughts]
    return made


def block_json(thought: Thinking) -> dict[str, Any]:
    """One piece of reasoning with what its model needs to see it again."""
    if thought.redacted:
        return {"type": "redacted_thinking", "data": thought.redacted}
    return {"type": "thinking", "thinking": thought.text, "signature": thought.signature}


class ContentWriter:
    """Writes the content of messages for a backend. `same`: the client speaks this dialect as well."""

    def __init__(self, *, same: bool) -> None:
        self._same = same

    def content(self, parts: Sequence[Part], join: str | None) -> Any:
        """A text where one will do, else a list. `join`: what stands between texts that are made one."""
        kept = [part for part in parts if isinstance(part, Text | Media | Opaque)]
        texts = [part for part in kept if isinstance(part, Text)]
        if len(texts) == len(kept):
            if not self._same and join is not None:
                return join.join([text.text for text in texts])
            if len(texts) == 1 and not texts[0].cache:
                return texts[0].text
            if not texts:
                return ""
        return [self.part(each) for each in kept]

    def part(self, part: Text | Media | Opaque) -> Any:
        """One part of a list."""
        if isinstance(part, Opaque):
            if part.dialect != NAME:
                raise NotCarried(part.where or part.type, "chat completions have no such content.")
            return Raw(part.raw)
        made: dict[str, Any] = {"type": "text", "text": part.text} if isinstance(part, Text) else self._media(part)
        if part.cache and self._same:
            made["cache_control"] = Raw(part.cache)
        return made

    def _media(self, part: Media) -> dict[str, Any]:
        url = part.url or f"data:{part.media_type};base64,{part.data}"
        if part.kind == "image":
            link = {"url": url, "detail": part.detail} if part.detail else {"url": url}
            return {"type": "image_url", "image_url": link}
        if part.kind == "audio":
            if part.url:
                return {"type": "audio_url", "audio_url": {"url": part.url}}
            kind = part.media_type.partition("/")[2]
            return {"type": "input_audio", "input_audio": {"data": part.data, "format": _FORMATS_BACK.get(kind, kind)}}
        if not self._same and part.media_type.startswith("text/") and part.data:
            return {"type": "text", "text": _as_text(part)}
        if self._same:
            file = {"filename": part.name, "file_data": url} if part.name else {"file_data": url}
        elif part.url:
            raise NotCarried("document", "it takes files as data, not by their addresses.")
        else:
            file = {"filename": part.name or _FILE_NAME, "file_data": url}  # OpenAI asks for a name
        return {"type": "file", "file": file}


def _as_text(part: Media) -> str:
    """A text file in the conversation: OpenAI takes no files but PDF."""
    try:
        text = base64.b64decode(part.data).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        raise Malformed("A document is not in base64") from None
    return f"{part.name}:\n{text}" if part.name else text
