"""Server-sent events as bytes: cutting a stream into whole events, wherever the socket cut it.

Format: WHATWG HTML, section 9.2 (server-sent events).
"""

import re
from collections.abc import Iterator
from typing import Final

MAX_EVENT_BYTES: Final = 1 << 20
COMMENT: Final = b": keep-alive\n\n"

_ENDS: Final = (b"\n\n", b"\n\r\n", b"\r\r")
_END: Final = re.compile(rb"\n\r?\n|\r\r")


class EventTooLarge(Exception):
    """An event longer than MAX_EVENT_BYTES."""


class EventCutter:
    """Feed it what the socket gives; it gives back whole events and keeps the rest (`rest`: the event begun)."""

    def __init__(self) -> None:
        self.rest = bytearray()

    def feed(self, data: bytes) -> bytes:
        """All events that are whole by now, as they came; `b""` if none. Raises EventTooLarge."""
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
        if len(rest) - end > MAX_EVENT_BYTES:
            raise EventTooLarge
        if not end:
            return b""
        whole = bytes(rest[:end])
        del rest[:end]
        return whole


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
