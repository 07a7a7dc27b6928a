"""Server-sent events as bytes: cutting a stream into whole events, wherever the socket cut it.

Format: WHATWG HTML, section 9.2 (server-sent events).
"""

import re
from collections.abc import Iterator
from typing import Final

MAX_EVENT_BYTES: Final = 1 << 20
_BOM: Final = b"\xef\xbb\xbf"
_FIELDS: Final = (b"data", b"event", b"id", b"retry")
MAX_BLANK_BYTES: Final = 1 << 12
MIN_EVENT_BYTES: Final = 1 << 12
COMMENT: Final = b": keep-alive\n"
"""Without an empty line: behind an event that had an `id`, the openai package takes that for an event without data."""

_ENDS: Final = (b"\n\n", b"\n\r\n", b"\r\r")
_END: Final = re.compile(rb"\n\r?\n|\r\r")
_TYPE: Final = re.compile(rb"(?:^|[\r\n])event: ?([^\r\n]*)")
_ERROR_TYPE: Final = re.compile(rb"(?:^|[\r\n])event: ?error[ \t]*[\r\n]")


class EventTooLarge(Exception):
    """An event longer than may be held."""


class EventCutter:
    """Feed it what the socket gives; it gives back whole events and keeps the rest (`rest`: the event begun)."""

    def __init__(self, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self.rest = bytearray()
        self.begun = 0
        self._max_bytes = max(max_bytes, MIN_EVENT_BYTES)

    def feed(self, data: bytes) -> bytes:
        """All events that are whole by now, as they came; `b""` if none.

        Raises EventTooLarge where the last one, which has not ended yet, is larger than may be held. Then all is in
        `rest`, and `begun` says where that event begins.
        """
        rest = self.rest
        if not rest:
            if data.endswith(b"\n\n"):
                return data
            known = 0
            rest += data
        else:
            known = max(len(rest) - 3, 0)
            rest += data
        end = _last_end(rest, known)
        if len(rest) - end > self._max_bytes:
            self.begun = end
            raise EventTooLarge
        if not end:
            return b""
        whole = bytes(rest[:end])
        del rest[:end]
        return whole


def end_of_event(data: bytes) -> int:
    """Where the event ends that `data` begins in the midst of; 0: not here."""
    found = _END.search(data)
    return 0 if found is None else found.end()


def begins_events(data: bytes) -> bool | None:
    """Whether a body that begins so is a stream of events, whatever it is called. None: that cannot be told yet."""
    start = data.removeprefix(_BOM).lstrip(b" \t\r\n")
    if not start:
        return None if len(data) < MAX_BLANK_BYTES else False
    if start.startswith(b":"):
        return True
    for field in _FIELDS:
        if start.startswith(field + b":"):
            return True
        if (field + b":").startswith(start):
            return None
    return None if _BOM.startswith(start) else False


def event_type(event: bytes) -> str:
    """The type of an event; empty where none is said."""
    found = _TYPE.search(event) if b"event:" in event else None
    return "" if found is None else found[1].decode("utf-8", "replace")


def names_error(event: bytes) -> bool:
    """Whether the type of an event is `error`."""
    return _ERROR_TYPE.search(event) is not None


def _last_end(data: bytearray, start: int) -> int:
    end = 0
    for mark in _ENDS:
        found = data.rfind(mark, start)
        if found >= 0:
            end = max(end, found + len(mark))
    return end


def split_events(block: bytes) -> Iterator[bytes]:
    """The events of a block of whole events, each with its empty line; joined again they are the block."""
    start = 0
    for end in _END.finditer(block):
        yield block[start : end.end()]
        start = end.end()
    if start < len(block):
        yield block[start:]


def event_data(event: bytes) -> bytes:
    """The data of one event: its `data` lines joined by line feeds; `b""` for a comment or an event without data."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    lines = event.replace(b"\r\n", b"\n").replace(b"\r", b"\n").lstrip(b"\xef\xbb\xbf").split(b"\n")
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
