"""PURE. What the gateway writes into an OpenAI body: that it wants a stream's usage, and how long an answer may be.

Every other byte stays as it came.
"""

from typing import Final, Literal, NamedTuple, TypeAlias

from zuebee.dialects.openai import usage_asked

BoundField: TypeAlias = Literal["max_tokens", "max_completion_tokens"]
Places: TypeAlias = dict[str, tuple[int, int]]

_BOUNDS: Final = ("max_tokens", "max_completion_tokens")
_NOWHERE: Final[Places] = {}


class Bound(NamedTuple):
    """How long each answer may be, and in which field that is said."""

    field: BoundField
    tokens: int


def write_fields(body: bytes, places: Places | None, *, usage: bool, bound: Bound | None) -> bytes:
    """The body with `stream_options.include_usage` on, if `usage` is wanted, and with a bound, if there is one.

    `places`: those of `Request`. With a bound its caller has set none, but may have said so with `null` or -1: that
    is replaced, in both fields that there are, for servers differ in which one they obey.
    """
    if not usage and bound is None:
        return body
    known = _NOWHERE if places is None else places
    front = b""
    edits: list[tuple[int, int, bytes]] = []
    if usage:
        if (place := known.get("stream_options")) is None:
            front = b'"stream_options":{"include_usage":true},'
        else:
            edits.append((place[0], place[1], usage_asked(body[place[0] : place[1]])))
    if bound is not None:
        for name in _BOUNDS:
            if (place := known.get(name)) is not None:
                edits.append((place[0], place[1], b"%d" % bound.tokens if name == bound.field else b"null"))
        if bound.field not in known:
            front += b'"%b":%d,' % (bound.field.encode(), bound.tokens)
    view = memoryview(body)
    at = body.index(b"{") + 1
    pieces: list[bytes | memoryview] = [view[:at], front]
    for start, end, value in sorted(edits):
        pieces.append(view[at:start])
        pieces.append(value)
        at = end
    pieces.append(view[at:])
    return b"".join(pieces)
