"""PURE. How many images a request shows to a model."""

import re
from typing import Any

import msgspec

# In JSON a quote inside a string is escaped: what is found is a name or a whole string, never a part of a prompt.
_HINT = re.compile(rb'"(?:image_url|input_image)"')
_PARTS = frozenset({"image_url", "input_image"})


def more_images_than(body: bytes, limit: int) -> bool:
    """Whether the messages of a request have more than `limit` parts that are images.

    Cheap where the words are rare; else, or where letters are written as escapes, the body is read.
    """
    if b"\\u00" not in body and len(_HINT.findall(body)) <= limit:
        return False
    try:
        request = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return False  # no request: the backend will not run it
    return sum(_images(item) for name in ("messages", "input") for item in _list(request, name)) > limit


def _images(message: Any) -> int:
    return sum(
        isinstance(part, dict) and (part.get("type") in _PARTS or "image_url" in part)
        for part in _list(message, "content")
    )


def _list(value: Any, name: str) -> list[Any]:
    items = value.get(name) if isinstance(value, dict) else None
    return items if isinstance(items, list) else []
