"""A stream of chat or text completion chunks on its way through: checked, metered, never re-rendered.

Bytes in, bytes out, no I/O. Each event is decoded just far enough to see that it is whole and whether it tells of
usage, an error or the end (about 0.3 µs). What cannot be decoded passes all the same, and is counted by its size.
"""

import re
from contextlib import suppress
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw

from zuebee.dialects import json_text
from zuebee.dialects.json_text import is_object_from_outside, mend
from zuebee.dialects.meter import Meter
from zuebee.dialects.openai import TAIL_BYTES, Told, is_error_object, read_told, tail_usage, tells_of_error
from zuebee.dialects.openai_shapes import BYTES_PER_TOKEN, AnyChunk, Chunk, FinishedChoice, Groq, text_bytes
from zuebee.dialects.openai_usage import Json, TokenCounts, usage_figures, usage_in_choices
from zuebee.dialects.sse import (
    MAX_EVENT_BYTES,
    EventCutter,
    EventTooLarge,
    end_of_event,
    event_data,
    names_error,
    split_events,
)

# Usage that nobody asked for, cut out of an event that says more: LangChain, for one, adds up what it sees.

_USAGE: Final = re.compile(rb'("usage"\s*:\s*)\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}')
_DATA: Final = b"data:"


def without_usage(event: bytes, data: bytes) -> bytes:
    """The event, whose data is this, as it would be if its server had not been asked for usage."""
    kept = _without(data)
    if data in event:
        return event.replace(data, kept)
    # Its data stands on several lines, which become one.
    lines = event.splitlines(keepends=True)
    first = next(index for index, line in enumerate(lines) if line.startswith(_DATA))
    end = lines[first].removeprefix(lines[first].rstrip(b"\r\n"))
    lines[first] = b"data: " + kept.replace(b"\n", b" ") + end
    return b"".join(line for index, line in enumerate(lines) if index <= first or not line.startswith(_DATA))


def _without(data: bytes) -> bytes:
    try:
        places = json_text.fields(data)
    except (ValueError, RecursionError):
        # It is no JSON, but a reader may take it. Inside a text the quotation marks would have backslashes.
        return _USAGE.sub(rb"\1null", data)
    begin = at = data.index(b"{") + 1
    kept = []
    for name, _, end in places:
        if name != "usage":
            kept.append(data[at:end])
        at = data.find(b",", end) + 1
    return data[:begin] + b",".join(kept) + data[places[-1][2] :]


# Whether the texts of a stream came to their ends, as the choices of its chunks say.

_NO_REASONS: Final = ("", "null", "none")
"""What servers say that have no other word for a text that goes on."""

_decode: Final = msgspec.json.Decoder(list[FinishedChoice]).decode


def all_finished(choices: Json) -> bool:
    """Whether each of these choices gives a reason why it ended."""
    found = _read(choices)
    return bool(found) and all(_finished(choice) for choice in found)


def finished_by_index(choices: Json) -> dict[int, bool]:
    """Which texts these choices belong to, and whether each gives a reason why it ended."""
    return {choice.index: _finished(choice) for choice in _read(choices) if type(choice.index) is int}


def _read(choices: Json) -> list[FinishedChoice]:
    if choices is msgspec.UNSET:
        return []
    try:
        return _decode(choices)
    except (ValueError, RecursionError):
        return []


def _finished(choice: Any) -> bool:
    reason = choice.finish_reason
    return isinstance(reason, str) and reason.strip().lower() not in _NO_REASONS


DONE: Final = b"[DONE]"
DONE_EVENT: Final = b"data: [DONE]\n\n"
LITTLE_TEXT_BYTES: Final = 24
"""Text of an event that may be a single token. With more of it, there are as many tokens as its size says."""

MAX_WRAPPING_BYTES: Final = 1024
MAX_TEXTS: Final = 10_000
"""Of so many choices it is known which have finished."""

_END_BYTES: Final = 2
"""Of the end of an event these may have come before."""

_NO_CHOICES: Final = (b"[]", b"null")
_EMPTY_CHOICES: Final = re.compile(rb'"choices"\s*:\s*(?:\[\s*\]|null)')

_decode_lines: Final = msgspec.json.Decoder(Chunk).decode_lines
_decode_any: Final = msgspec.json.Decoder(AnyChunk).decode
_groq: Final = msgspec.json.Decoder(Groq).decode


class StreamMeter(Meter):
    """Watches one stream. Nothing more of the stream counts once it is `over`.

    `usage`: tokens as last reported. `chunks`: events with choices so far; `tokens`: how many tokens those may be, one
    each, or as their text says where a server puts much of it into an event. `error`: what the server said went wrong.
    `fault`: why its bytes cannot be trusted. `unread`: some of it passed that could not be read. `last_words`: the
    event that says `[DONE]`; it is held back, for whoever reads it stops reading.

    `several`: more than one text comes in it. `max_event_bytes`: a larger event passes as it comes, without being read.
    """

    def __init__(self, *, hide_usage: bool, several: bool = False, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        super().__init__()
        self.error: Raw | None = None
        self._more_tokens = 0
        self._little_bytes = 0
        self._hide_usage = hide_usage
        self._shows_usage = False
        self._several = several
        self._finished: dict[int, bool] = {}
        self._cutter = EventCutter(max_event_bytes)
        self._rest = self._cutter.rest
        self._passing = False
        self._tail = b""
        self._first_choices: Json = UNSET
        self._last_choices: Json = UNSET

    def feed(self, data: bytes) -> bytes:
        """What of the stream can be passed on by now: whole events, as they came.

        Left out are usage when `hide_usage`, the extra chunk with it, an error event (it is in `error`), `[DONE]`, and
        whatever follows it.
        """
        # Nearly always a read is one event or a few, each on one line: checked in one go, passed on as they are.
        if self.over:
            return b""
        if self._rest or self._several or not data.startswith(b"data: ") or not data.endswith(b"\n\n"):
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
            elif self._shows_usage:
                block = self._without_usage(block, block.rfind(b"\n\n", 0, -2) + 2 if chunks else 0)
        if done:
            self.done = self.over = True
            self.last_words = DONE_EVENT
        return block

    def end(self) -> bytes:
        """No more comes: what of it is left, and can be passed on.

        It may lack the empty line at its end, where the server left that out.
        """
        event = bytes(self._rest)
        if self.over or self._passing or not event.strip():
            return b""
        payload = event_data(event)
        if payload.strip() != DONE and not is_object_from_outside(payload):
            return b""  # it was cut off
        self._rest.clear()
        passes = self._passes(event, payload)
        if self.done:
            self.last_words = event
        if not passes:
            return b""
        if self._shows_usage:
            event = self._without_usage(event, 0)
        return event if self.whole else event.rstrip(b"\r\n") + b"\n\n"

    def _feed_any(self, data: bytes) -> bytes:
        """The same for whatever may come."""
        if self._passing:
            return self._pass_large(data)
        large = b""
        try:
            block = self._cutter.feed(data)
        except EventTooLarge:
            begun = self._cutter.begun
            block, large = bytes(self._rest[:begun]), bytes(self._rest[begun:])
            self._rest.clear()
        kept = []
        for event in split_events(block):
            payload = event_data(event)
            if not payload or self._passes(event, payload):
                kept.append(self._without_usage(event, 0) if self._shows_usage else event)
            if self.over:
                if self.done:
                    self.last_words = event
                return b"".join(kept)
        if large:
            kept.append(self._begin_large(large))
        return b"".join(kept)

    def _passes(self, event: bytes, data: bytes) -> bool:
        """Take note of an event; whether it is to be passed on now."""
        try:
            chunk = _decode_any(data)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            if data.strip() == DONE:
                self.done = self.over = True
                return False
            if not is_object_from_outside(data):
                self._give_up("an event is not a JSON object")
                return False
            try:
                chunk = _decode_any(mend(data))
            except (ValueError, RecursionError):
                return self._passes_unread(data)
        if (error := _error_in(chunk, event, data)) is not None:
            self.error = error
            self.over = True
            return False
        if len(data) > self._little_bytes:
            self._measure([chunk], len(data))
        if self._several and len(self._finished) < MAX_TEXTS:
            self._finished.update(finished_by_index(chunk.choices))
        return self._counts(chunk)

    def _measure(self, chunks: list[Any], size_bytes: int) -> None:
        """Take note of text that is more than a token for each chunk; the first ones show how large a wrapping is."""
        sizes = [text_bytes(chunk.choices) for chunk in chunks]
        self._more_tokens += sum(size // BYTES_PER_TOKEN - 1 for size in sizes if size > LITTLE_TEXT_BYTES)
        if not self._little_bytes:
            wrapping_bytes = (size_bytes - sum(sizes)) // len(chunks)
            self._little_bytes = min(max(wrapping_bytes, 0), MAX_WRAPPING_BYTES) + LITTLE_TEXT_BYTES
            self._first_choices = chunks[0].choices

    @property
    def begun_event(self) -> bytes:
        """What came of an event that has not ended yet."""
        return bytes(self._rest)

    @property
    def amid_event(self) -> bool:
        """Whether a part of an event was passed on, so that nothing may be put in here."""
        return self._passing

    @property
    def tokens(self) -> int:
        return self.chunks + self._more_tokens

    def _give_up(self, fault: str) -> None:
        self.fault = fault
        self.over = True

    def _counts(self, chunk: Any) -> bool:
        """Count a chunk; False if it is the extra one that only tells of usage, and that is to be hidden."""
        if chunk.usage is not UNSET:
            self.usage = usage_figures(chunk.usage) or self.usage
            empty = chunk.choices is UNSET or bytes(chunk.choices).translate(None, b" \t\r\n") in _NO_CHOICES
            if bytes(chunk.usage) != b"null":
                if empty:
                    return not self._hide_usage
                self._shows_usage = self._hide_usage
        elif chunk.x_groq is not UNSET:
            self._take_groq(chunk.x_groq)
        self.chunks += 1
        self._last_choices = chunk.choices
        return True

    def _without_usage(self, block: bytes, start: int) -> bytes:
        """The same without the usage that its last event, which begins at `start`, tells beside its choices."""
        self._shows_usage = False
        event = block[start:] if start else block
        return block[:start] + without_usage(event, event_data(event))

    def _take_groq(self, said: Raw) -> None:
        with suppress(ValueError, RecursionError):
            self.usage = usage_figures(_groq(said).usage) or self.usage

    # --- what cannot be read ---

    def _passes_unread(self, data: bytes) -> bool:
        """Count an object that nobody can read; False if it tells of usage only, as far as can be seen."""
        self.unread = True
        usage = tail_usage(data[-TAIL_BYTES:])
        self.usage = usage or self.usage
        if usage is not None and data.count(b'"choices"') == len(_EMPTY_CHOICES.findall(data)):
            return not self._hide_usage
        self._shows_usage = self._hide_usage and usage is not None
        self._count_unread(len(data))
        return True

    def _count_unread(self, size_bytes: int) -> None:
        self.chunks += 1
        self._more_tokens += max(size_bytes // BYTES_PER_TOKEN - 1, 0)
        self._last_choices = UNSET

    def _begin_large(self, begun: bytes) -> bytes:
        """An event that is larger than may be held passes as it comes."""
        if not event_data(begun).lstrip().startswith(b"{"):
            self._give_up("an event is too large")
            return b""
        self.unread = self._passing = True
        self._count_unread(len(begun))
        self._rest += begun[-_END_BYTES:]
        self._tail = begun[-TAIL_BYTES:]
        return begun

    def _pass_large(self, data: bytes) -> bytes:
        known = len(self._rest)
        joined = bytes(self._rest) + data
        end = end_of_event(joined)
        here = end - known if end else len(data)
        self._tail = (self._tail + data[:here])[-TAIL_BYTES:]
        self._more_tokens += here // BYTES_PER_TOKEN
        if not end:
            self._rest[:] = joined[-_END_BYTES:]
            return data
        self._rest.clear()
        self.usage = tail_usage(self._tail) or self.usage
        self._passing, self._tail = False, b""
        return data[:here] + (self.feed(data[here:]) if here < len(data) else b"")

    # --- how it ended ---

    @property
    def told(self) -> Told | None:
        return None if self.error is None else read_told(self.error)

    @property
    def figures(self) -> TokenCounts | None:
        """The usage, also where only the last choices tell of it."""
        return self.usage or usage_in_choices(self._last_choices)

    @property
    def whole(self) -> bool:
        """Whether the stream, if it ended now, would be whole: `[DONE]` came, or each choice gave its finish reason."""
        if self.done:
            return True
        if self._last_choices is UNSET or self._rest.strip() or self.over or self._passing:
            return False
        if self._several:
            return bool(self._finished) and all(self._finished.values())
        if not all_finished(self._last_choices):
            return False
        # A server that gives a reason from the first chunk on says nothing by it.
        return self.chunks == 1 or not all_finished(self._first_choices)


def _error_in(chunk: AnyChunk, event: bytes, data: bytes) -> Raw | None:
    """What an event says went wrong."""
    if tells_of_error(chunk.error):
        return chunk.error if isinstance(chunk.error, Raw) else None
    empty = chunk.choices is UNSET or bytes(chunk.choices) in _NO_CHOICES
    return Raw(data) if empty and (is_error_object(chunk.object) or names_error(event)) else None
