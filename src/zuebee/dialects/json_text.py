"""PURE. Where the parts of a JSON text stand, found without making anything of what stands there.

A part is passed over by msgspec, at C speed and without a single object, and what Python does is one step for each
field or element, of which there is a bound: whatever somebody sends costs time in proportion to its bytes, and no
memory.
"""

import codecs
import re
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec
from msgspec import Raw

BOM: Final = b"\xef\xbb\xbf"
"""Some editors and shells begin a text with it; readers of JSON may pass over it (RFC 8259, section 8.1)."""
MAX_FIELDS: Final = 1000
PIECE_BYTES: Final = 1 << 18
MAX_KEY_BYTES: Final = 4096

_BLANK: Final = b" \t\n\r"
_BLANKS: Final = re.compile(rb"[ \t\n\r]*+")
_KEY: Final = re.compile(rb'[ \t\n\r]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\n\r]*+:[ \t\n\r]*+', re.DOTALL)
_read_text: Final = msgspec.json.Decoder(str).decode
_pass_over: Final = msgspec.json.Decoder(Raw).decode
_FOLLOWED: Final = "JSON is malformed: trailing characters (byte "


Text: TypeAlias = bytes | memoryview


class NotJson(ValueError):
    """The text is not what it should be."""


class TooMany(ValueError):
    """It has more parts than anybody needs."""


def fields(data: bytes) -> list[tuple[str, int, int]]:
    """Each key of a JSON object with the place of its value, from and to; one longer than MAX_KEY_BYTES is called "".

    Raises NotJson, TooMany (more than MAX_FIELDS) or RecursionError.
    """
    found: list[tuple[str, int, int]] = []
    view = memoryview(data)
    at = inside(data, 0, b"{")
    if data[at : at + 1] == b"}":
        _expect_end(data, at + 1)
        return found
    while True:
        key = _KEY.match(data, at)
        if key is None or len(found) >= MAX_FIELDS:
            raise NotJson if key is None else TooMany
        start = key.end()
        at = _next(view, start)
        name = _name(view[key.start(1) : key.end(1)])
        found.append((name, start, _without_blanks(data, start, at)))
        mark = data[at : at + 1]
        at += 1
        if mark == b"}":
            _expect_end(data, at)
            return found
        if mark != b",":
            raise NotJson


def elements(data: Text, start: int, most: int) -> list[tuple[int, int]]:
    """The places of the elements of the JSON array that begins at `start`; of more than `most`, one more than those.

    The array must be one: its end is not looked for. Raises NotJson or RecursionError.
    """
    found: list[tuple[int, int]] = []
    view = memoryview(data)
    at = inside(data, start, b"[")
    if data[at : at + 1] == b"]":
        return found
    while len(found) <= most:
        element = at
        at = _next(view, element)
        found.append((element, _without_blanks(data, element, at)))
        mark = data[at : at + 1]
        if mark == b"]":
            break
        if mark != b",":
            raise NotJson
        at = _after_blanks(data, at + 1)
    return found


def check_utf8(data: bytes) -> None:
    """Raises UnicodeDecodeError; never has more of it decoded at once than a piece."""
    if data.isascii():
        return
    view, at, size = memoryview(data), 0, len(data)
    while at < size:
        end = min(at + PIECE_BYTES, size)
        try:
            at += codecs.utf_8_decode(view[at:end], "strict", end == size)[1]
        except UnicodeDecodeError as error:
            raise UnicodeDecodeError("utf-8", data, at + error.start, at + error.end, error.reason) from None


def inside(data: Text, at: int, mark: bytes) -> int:
    """Where what is inside the bracket begins that must stand here. Raises NotJson."""
    at = _after_blanks(data, at)
    if data[at : at + 1] != mark:
        raise NotJson
    return _after_blanks(data, at + 1)


def _after_blanks(data: Text, at: int) -> int:
    blanks = _BLANKS.match(data, at)
    return at if blanks is None else blanks.end()


def _expect_end(data: bytes, at: int) -> None:
    if _after_blanks(data, at) != len(data):
        raise NotJson


def _next(view: memoryview, start: int) -> int:
    """Where the value that begins at `start` is over and something else follows, blanks aside."""
    try:
        _pass_over(view[start:])
    except msgspec.DecodeError as error:
        # msgspec reads one value, and says where what follows it begins: the only way to have one passed over.
        text = str(error)
        if text.startswith(_FOLLOWED):
            return start + int(text[len(_FOLLOWED) : -1]) - 1
    raise NotJson


def _name(token: memoryview) -> str:
    try:
        if len(token) <= MAX_KEY_BYTES:
            return _read_text(token)
        _pass_over(token)
    except msgspec.DecodeError:
        raise NotJson from None
    return ""


def _without_blanks(data: Text, start: int, end: int) -> int:
    while data[end - 1] in _BLANK:  # a piece at a time, for they may be many
        begin = max(start, end - PIECE_BYTES)
        end = begin + len(bytes(data[begin:end]).rstrip(_BLANK))
    return end


# JSON as some writers spell it, made readable for a strict reader: what is read never decides over what passes.
#
# Lone halves of surrogate pairs (RFC 8259, section 8.2), `NaN` and `Infinity` as Python and others write them, control
# characters within texts, escapes that JSON does not know, and a byte order mark. A mended text has the length of the
# one it came from, and its parts their places: what is passed on can be cut from the original. It costs time in
# proportion to its bytes, and is for what the strict reader refused.

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
