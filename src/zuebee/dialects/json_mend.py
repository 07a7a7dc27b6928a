"""PURE. JSON as some writers spell it, made readable for a strict reader: what is read never decides over what passes.

Lone halves of surrogate pairs (RFC 8259, section 8.2), `NaN` and `Infinity` as Python and others write them, control
characters within texts, escapes that JSON does not know, and a byte order mark. A mended text has the length of the
one it came from, and its parts their places: what is passed on can be cut from the original. It costs time in
proportion to its bytes, and is for what the strict reader refused.
"""

import re
from collections.abc import Callable
from typing import Final, TypeAlias

_Made: TypeAlias = Callable[[re.Match[bytes]], bytes]

_BOM: Final = b"\xef\xbb\xbf"
_HALF: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_NO_ESCAPE: Final = re.compile(rb'((?:[^\\]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+)\\', re.DOTALL)
_NO_NUMBER: Final = re.compile(
    rb'((?:[^-"NnIi]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"|(?!-?(?:NaN|nan|Infinity|infinity|inf))[-NnIi])*+)'
    rb"(-?(?:NaN|nan|Infinity|infinity|inf))",
    re.DOTALL,
)
"""Up to the next of these words that stands in no text."""

_TEXT: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\Z)', re.DOTALL)
_BLANK_CONTROLS: Final = b" " * 32 + bytes(range(32, 256))


def mend_halves(data: bytes) -> bytes:
    """With U+FFFD in place of each half of a surrogate pair that lacks the other one. `data` itself if there is none.

    All the rest must be JSON already: then it says the same.
    """
    if b"\\u" not in data or b"\0" in data:
        return data
    # A backslash that is escaped begins no escape. Zeros stand in no JSON, and keep its place meanwhile.
    return _HALF.sub(rb"\\ufffd", data.replace(b"\\\\", b"\0\0")).replace(b"\0\0", b"\\\\")


def mend(data: bytes) -> bytes:
    """As readable as it can be made. Not a number is a text, an escape that is none and a control character a blank."""
    if data.startswith(_BOM):
        data = b"   " + data[len(_BOM) :]
    data = mend_halves(data.translate(_BLANK_CONTROLS))
    data = _replace(_NO_ESCAPE, data, lambda found: b" ")
    return _replace(_NO_NUMBER, data, lambda found: b'""'.ljust(len(found[2])))


def is_object_from_outside(data: bytes) -> bool:
    """Whether it begins and ends as a JSON object does, and each bracket is closed: more cannot be said of what is not
    readable. What was cut off is no object.
    """
    data = data.removeprefix(_BOM).strip(b" \t\r\n")
    if not (data.startswith(b"{") and data.endswith(b"}")):
        return False
    bare = _TEXT.sub(b"", data)
    return bare.count(b"{") == bare.count(b"}") and bare.count(b"[") == bare.count(b"]")


def _replace(pattern: re.Pattern[bytes], data: bytes, made: _Made) -> bytes:
    # Not `sub`: where nothing follows any more, that would look for it again from each byte.
    parts: list[bytes] = []
    at = 0
    while (found := pattern.match(data, at)) is not None:
        parts.append(found[1])
        parts.append(made(found))
        at = found.end()
    if not parts:
        return data
    parts.append(data[at:])
    return b"".join(parts)
