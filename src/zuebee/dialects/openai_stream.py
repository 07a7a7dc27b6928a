"""A stream of chat or text completion chunks on its way through: checked, metered, never re-rendered.

Bytes in, bytes out, no I/O. Each event is decoded just far enough to see that it is whole and whether it tells of
usage, an error or the end (about 0.3 µs).
"""

from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from zuebee.dialects.openai import Figures, usage_figures
from zuebee.dialects.openai_shapes import Chunk, FinishedChoice
from zuebee.dialects.openai_text import BYTES_PER_TOKEN, text_bytes
from zuebee.dialects.sse import EventCutter, EventTooLarge, event_data, split_events

DONE: Final = b"[DONE]"
DONE_EVENT: Final = b"data: [DONE]\n\n"
LITTLE_TEXT_BYTES: Final = 24
"""Text of an event that may be a single token. With more of it, there are as many tokens as its size says."""

MAX_WRAPPING_BYTES: Final = 1024


_decode_chunk: Final = msgspec.json.Decoder(Chunk).decode
_decode_lines: Final = msgspec.json.Decoder(Chunk).decode_lines
_choices: Final = msgspec.json.Decoder(list[FinishedChoice])


class StreamMeter:
    """Watches one stream. Nothing more of the stream counts once it is `over`.

    `usage`: tokens as last reported. `chunks`: events with choices so far; `tokens`: how many tokens those may be, one
    each, or as their text says where a server puts much of it into an event. `error`: what the server said under
    `error`. `fault`: why its bytes cannot be trusted. `last_words`: the event that says `[DONE]`; it is held back, for
    whoever reads it stops reading.
    """

    def __init__(self, *, hide_usage: bool) -> None:
        self.over = False
        self.done = False
        self.error: Raw | None = None
        self.fault = ""
        self.chunks = 0
        self.usage: Figures | None = None
        self.last_words = b""
        self._more_tokens = 0
        self._little_bytes = 0
        self._hide_usage = hide_usage
        self._cutter = EventCutter()
        self._rest = self._cutter.rest
        self._last_choices: Raw | UnsetType = UNSET

    def feed(self, data: bytes) -> bytes:
        """What of the stream can be passed on by now: whole events, as they came.

        Left out are the extra usage chunk when `hide_usage`, an error event (it is in `error`), `[DONE]`, and whatever
        follows it.
        """
        # Nearly always a read is one event or a few, each on one line: checked in one go, passed on as they are.
        if self.over:
            return b""
        if self._rest or not data.startswith(b"data: ") or not data.endswith(b"\n\n"):
            return self._feed_any(data)
        done = data.endswith(DONE_EVENT)
        block = data[: -len(DONE_EVENT)] if done else data
        if block:
            if not block.endswith(b"\n\n"):
                return self._feed_any(data)
            try:
                chunks = _decode_lines(block[6:-2].replace(b"\n\ndata: ", b"\n"))
            except (ValueError, RecursionError):
                return self._feed_any(data)
            if not chunks:
                return self._feed_any(data)
            last = chunks.pop()
            for chunk in chunks:
                if chunk.usage is not UNSET or chunk.error is not UNSET:
                    return self._feed_any(data)
            if last.error is not UNSET:
                return self._feed_any(data)
            if chunks:
                self.chunks += len(chunks)
                self._last_choices = chunks[-1].choices
            if len(block) > self._little_bytes * (len(chunks) + 1):
                self._measure([*chunks, last], len(block))
            if not self._counts(last):
                block = block[: block.rfind(b"\n\n", 0, -2) + 2] if chunks else b""
        if done:
            self.done = self.over = True
            self.last_words = DONE_EVENT
        return block

    def _feed_any(self, data: bytes) -> bytes:
        """The same for whatever may come."""
        try:
            block = self._cutter.feed(data)
        except EventTooLarge:
            self._give_up("an event is too large")
            return b""
        kept = []
        for event in split_events(block):
            payload = event_data(event)
            if not payload or self._passes(payload):
                kept.append(event)
            if self.over:
                if self.done:
                    self.last_words = event
                break
        return b"".join(kept)

    def _passes(self, data: bytes) -> bool:
        """Take note of an event; whether it is to be passed on now."""
        try:
            chunk = _decode_chunk(data)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            if data.strip() != DONE:
                self._give_up("an event is not a JSON object")
                return False
            self.done = self.over = True
            return False
        if chunk.error is not UNSET and bytes(chunk.error) != b"null":
            self.error = chunk.error
            self.over = True
            return False
        if len(data) > self._little_bytes:
            self._measure([chunk], len(data))
        return self._counts(chunk)

    def _measure(self, chunks: list[Chunk], size_bytes: int) -> None:
        """Take note of text that is more than a token for each chunk; the first ones show how large a wrapping is."""
        sizes = [text_bytes(chunk.choices) for chunk in chunks]
        self._more_tokens += sum(size // BYTES_PER_TOKEN - 1 for size in sizes if size > LITTLE_TEXT_BYTES)
        if not self._little_bytes:
            wrapping_bytes = (size_bytes - sum(sizes)) // len(chunks)
            self._little_bytes = min(max(wrapping_bytes, 0), MAX_WRAPPING_BYTES) + LITTLE_TEXT_BYTES

    @property
    def tokens(self) -> int:
        """See above."""
        return self.chunks + self._more_tokens

    def _give_up(self, fault: str) -> None:
        self.fault = fault
        self.over = True

    def _counts(self, chunk: Chunk) -> bool:
        """Count a chunk; False if it is the extra one that only tells of usage, and that is to be hidden."""
        if chunk.usage is not UNSET:
            self.usage = usage_figures(chunk.usage) or self.usage
            empty = chunk.choices is UNSET or bytes(chunk.choices).translate(None, b" \t\r\n") == b"[]"
            if empty and bytes(chunk.usage) != b"null":
                return not self._hide_usage
        self.chunks += 1
        self._last_choices = chunk.choices
        return True

    @property
    def whole(self) -> bool:
        """Whether the stream, if it ended now, would be whole: `[DONE]` came, or each choice gave its finish reason."""
        if self.done:
            return True
        if self._last_choices is UNSET or self._rest.strip() or self.over:
            return False
        try:
            choices = _choices.decode(self._last_choices)
        except ValueError:
            return False
        return bool(choices) and all(choice.finish_reason is not None for choice in choices)
