"""PURE. How many images a request shows to a model."""

from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from zuebee.dialects import json_text

MAX_LOOKED_AT: Final = 10_000
"""Messages and their parts; beyond, a request that names images so often counts as having too many."""

# In JSON a quote inside a string is escaped: what is found is a name or a whole string, never a part of a prompt.
_HINTS: Final = (b'"image_url"', b'"input_image"')
_KINDS: Final = frozenset({"image_url", "input_image"})
_LONGEST_KIND: Final = 6 * len("input_image") + 2


class _Message(msgspec.Struct):
    content: Raw | UnsetType = UNSET


class _Part(msgspec.Struct):
    type: Raw | UnsetType = UNSET
    image_url: Raw | UnsetType = UNSET


_message: Final = msgspec.json.Decoder(_Message)
_part: Final = msgspec.json.Decoder(_Part)
_text: Final = msgspec.json.Decoder(str)


def more_images_than(body: bytes, limit: int) -> bool:
    """Whether the messages of a request have more than `limit` parts that are images.

    Cheap where the words are rare; else, or where letters are written as escapes, the messages are looked at.
    """
    if b"\\u00" not in body and sum(map(body.count, _HINTS)) <= limit:
        return False
    images = looked_at = 0
    body = body.removeprefix(json_text.BOM)
    try:
        view = memoryview(body)
        for name, start, end in json_text.fields(body):
            if name in ("messages", "input"):
                for message in _elements(view[start:end]):
                    content = _decode(_message, message)
                    bare = content is None or content.content is UNSET
                    parts = [] if bare else _elements(memoryview(content.content))
                    looked_at += 1 + len(parts)
                    images += sum(map(_is_image, parts))
                    if images > limit or looked_at > MAX_LOOKED_AT:
                        return True
    except (json_text.NotJson, json_text.TooMany, RecursionError):
        pass  # no request: the backend will not run it
    return False


def _elements(data: memoryview) -> list[memoryview]:
    """The elements of a list, of more than MAX_LOOKED_AT one more than those; of anything else none."""
    if bytes(data[:1]) != b"[":
        return []
    return [data[start:end] for start, end in json_text.elements(data, 0, MAX_LOOKED_AT)]


def _decode(decoder: Any, data: bytes | memoryview) -> Any:
    try:
        return decoder.decode(data)
    except msgspec.DecodeError:
        return None


def _is_image(part: memoryview) -> bool:
    found = _decode(_part, part)
    if found is None:
        return False
    if found.image_url is not UNSET:
        return True
    kind = b"" if found.type is UNSET else bytes(found.type)
    return len(kind) <= _LONGEST_KIND and _decode(_text, kind) in _KINDS
