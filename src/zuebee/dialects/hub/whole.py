"""PURE. A whole answer as an event of a stream, for a reader who was promised a stream before the answer was there."""

from typing import Any

import msgspec

from zuebee.dialects.json_text import mend

_WHOLE, _CHUNK = "chat.completion", "chat.completion.chunk"


def as_event(body: bytes, *, usage: bool) -> bytes:
    """One event with all that the answer says, `usage` if the reader asked for it.

    Messages become deltas. What cannot be read stays as it is, on one line.
    """
    try:
        answer = _decoded(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return event_of(body)
    if not isinstance(answer, dict):
        return event_of(body)
    if answer.get("object") == _WHOLE:
        answer["object"] = _CHUNK
    if not usage:
        answer.pop("usage", None)
    choices = answer.get("choices")
    for choice in choices if isinstance(choices, list) else []:
        if isinstance(choice, dict) and isinstance(message := choice.get("message"), dict):
            choice["delta"] = choice.pop("message")
            _number(message.get("tool_calls"))
    return event_of(msgspec.json.encode(answer))


def event_of(data: bytes) -> bytes:
    """An event of this JSON. Line ends between its tokens, which may be any white space, become spaces."""
    return b"data: %b\n\n" % data.replace(b"\n", b" ").replace(b"\r", b" ")


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return msgspec.json.decode(mend(body))


def _number(calls: Any) -> None:
    """Calls of a stream tell which one each piece is of."""
    for index, call in enumerate(calls if isinstance(calls, list) else []):
        if isinstance(call, dict):
            call.setdefault("index", index)
