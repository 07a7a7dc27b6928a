"""PURE. Pictures, sounds and files in a request, found without reading it: how many, and how many bytes they take.

A quote inside of a JSON string is escaped, so a name in quotes is never a part of somebody's text.
"""

import re
from typing import Final

MAX_MEDIA: Final = 500
"""Beyond so many, each mention counts as one, and what they hold as text."""

# The types of a message's parts that are no text: OpenAI's, and those that vLLM and SGLang know besides.
_PARTS: Final = (
    b'"image_url"', b'"input_audio"', b'"file"', b'"video_url"', b'"audio_url"', b'"input_image"', b'"input_file"',
    b'"input_video"', b'"image_embeds"', b'"image_pil"', b'"image"', b'"audio"', b'"video"', b'"document"',
)  # fmt: skip
_TYPE: Final = re.compile(rb'"type"[ \t\r\n]{0,8}:[ \t\r\n]{0,8}\Z')
# Of parts whose type is left out. A tool may have a parameter of that name: that has a schema behind it.
_CONTENT: Final = re.compile(
    rb'[ \t\r\n]{0,8}:[ \t\r\n]{0,8}(?:"|\{[ \t\r\n]{0,64}"(?:url|detail|uuid|data|format|file_data|file_id|filename)")'
)
_LOOK_BACK: Final = 24
_ESCAPES: Final = (b"\\u006", b"\\u007", b"\\u005f", b"\\u005F")
"""How the letters of a name would begin that is not written as it is."""

_INLINE: Final = (b'"data:', b'"data"', b'"file_data"')
_BASE64: Final = re.compile(rb"(?:[A-Za-z0-9+/_=-]|\\/){200}")
"""What is called data may be a text as well, in Anthropic's documents."""

_LONG: Final = 1024
"""Shorter strings are not worth being looked at, and count as text."""


def media_of(body: bytes) -> tuple[int, int]:
    """How many pictures, sounds and files a request has, and how many of its bytes are theirs."""
    if body.count(b"[") < 2:
        return 0, 0  # parts stand in a list, and messages in another: most chats have texts only
    count, looks = 0, 2 * MAX_MEDIA
    for name in _PARTS:
        if body.find(name) < 0:
            continue
        if (named := body.count(name)) > looks:
            return sum(body.count(each) for each in _PARTS), 0  # more than is looked at: as many as there can be
        looks -= named
        count += _parts(body, name)
    if body.find(b"\\u00") >= 0:
        hidden = sum(body.count(each) for each in _ESCAPES) - body.count(b"\\u0060")
        count += min(max(hidden, 0), MAX_MEDIA)
    return (count, _inline_bytes(body)) if count else (0, 0)


def _parts(body: bytes, name: bytes) -> int:
    """How many parts have this type, or would have it."""
    types = contents = at = 0
    while (at := body.find(name, at)) >= 0:
        if _TYPE.search(body[max(at - _LOOK_BACK, 0) : at]) is not None:
            types += 1
        elif _CONTENT.match(body, at + len(name)) is not None:
            contents += 1
        at += len(name)
    return max(types, contents)


def _inline_bytes(body: bytes) -> int:
    """The bytes of long strings that begin as data does."""
    total = 0
    for mark in _INLINE:
        at = 0
        for _ in range(MAX_MEDIA):
            at = body.find(mark, at)
            if at < 0:
                break
            begins = at + 1
            if mark != b'"data:':  # a name: the string behind it
                at += len(mark)
                begins = body.find(b'"', at, at + 32) + 1
                if not begins or body.startswith(b"data:", begins):  # that one is found by its own mark
                    continue
                if _BASE64.match(body, begins) is None:
                    continue
            ends = body.find(b'"', begins)
            if ends < 0:
                break
            if ends - begins >= _LONG:
                total += ends - begins
            at = ends
    return total
