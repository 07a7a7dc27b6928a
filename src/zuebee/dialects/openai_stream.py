"""A stream of chat or text completion chunks on its way through: checked, metered, never re-rendered.

Bytes in, bytes out, no I/O. Each event is decoded just far enough to see that it is whole and whether it tells of
usage, an error or the end (about 0.3 µs).
"""

import msgspec
from msgspec import UNSET, Raw, UnsetType

from zuebee.dialects.openai import usage_figures
from zuebee.dialects.sse import EventCutter, EventTooLarge, event_data, split_events

DONE = b"[DONE]"


class _Chunk(msgspec.Struct):
    choices: Raw | UnsetType = UNSET
    usage: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_choices = msgspec.json.Decoder(list[_Choice])


class StreamMeter:
    """Watches one stream. After `feed` ask `ended`.

    `usage`: prompt and completion tokens as last reported. `chunks`: events with choices so far. `error`: what the
    server said under `error`. `fault`: why its bytes cannot be trusted.
    """

    def __init__(self, *, hide_usage: bool) -> None:
        self.done = False
        self.error: Raw | None = None
        self.fault = ""
        self.chunks = 0
        self.usage: tuple[int, int] | None = None
        self._hide_usage = hide_usage
        self._cutter = EventCutter()
        self._rest = self._cutter.rest
        self._last_choices: Raw | UnsetType = UNSET

    def feed(self, data: bytes) -> bytes:
        """What of the stream can be passed on by now: whole events, as they came.

        Left out are the extra usage chunk when `hide_usage`, an error event (it is in `error`), and whatever follows
        the end.
        """
        if not self._rest and not self.done and self.error is None and not self.fault:
            # Nearly always one read is one event, on one line.
            end = len(data) - 2
            if data.find(b"\n") == end and data.endswith(b"\n\n") and data.startswith(b"data: "):
                try:
                    chunk = _decode_chunk(data[6:end])
                except (ValueError, RecursionError):
                    pass
                else:
                    if chunk.usage is UNSET and chunk.error is UNSET:
                        self.chunks += 1
                        self._last_choices = chunk.choices
                        return data
        return self._feed_any(data)

    def _feed_any(self, data: bytes) -> bytes:
        if self.ended():
            return b""
        try:
            block = self._cutter.feed(data)
        except EventTooLarge:
            self.fault = "an event is too large"
            return b""
        kept = []
        for event in split_events(block):
            payload = event_data(event)
            if not payload or self._passes(payload):
                kept.append(event)
            if self.ended():
                break
        return b"".join(kept)

    def ended(self) -> bool:
        """Whether nothing more of the stream counts."""
        return self.done or bool(self.fault) or self.error is not None

    def _passes(self, data: bytes) -> bool:
        """Take note of an event; whether it is to be passed on."""
        try:
            chunk = _decode_chunk(data)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            self.done = data.strip() == DONE
            if not self.done:
                self.fault = "an event is not a JSON object"
            return self.done
        if chunk.error is not UNSET and bytes(chunk.error) != b"null":
            self.error = chunk.error
            return False
        if chunk.usage is UNSET:
            self.chunks += 1
            self._last_choices = chunk.choices
            return True
        return self._note_usage(chunk)

    def _note_usage(self, chunk: _Chunk) -> bool:
        figures = usage_figures(chunk.usage)
        if figures is not None:
            self.usage = figures
        empty = chunk.choices is UNSET or bytes(chunk.choices).translate(None, b" \t\r\n") == b"[]"
        extra = empty and chunk.usage is not UNSET and bytes(chunk.usage) != b"null"
        if not extra:
            self.chunks += 1
            self._last_choices = chunk.choices
        return not (extra and self._hide_usage)

    @property
    def whole(self) -> bool:
        """Whether the stream, if it ended now, would be whole: `[DONE]` came, or each choice gave its finish reason."""
        if self.done:
            return True
        if self._last_choices is UNSET or self._rest.strip() or self.ended():
            return False
        try:
            choices = _choices.decode(self._last_choices)
        except ValueError:
            return False
        return bool(choices) and all(choice.finish_reason is not None for choice in choices)
