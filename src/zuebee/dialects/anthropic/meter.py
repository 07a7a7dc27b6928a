"""A stream of Anthropic's events on its way through: checked, metered, never re-rendered.

Bytes in, bytes out, no I/O. Each event is decoded once, as far as it tells of usage, an error or the end. What cannot
be decoded passes all the same, and is counted by its size.
"""

from typing import Any, Final

from msgspec import Raw

from zuebee.dialects.anthropic.answers import UsageSoFar, billed, read_event, told_of
from zuebee.dialects.json_text import is_object_from_outside, mend
from zuebee.dialects.meter import Meter
from zuebee.dialects.openai import MAX_MESSAGE, Told, tells_of_error
from zuebee.dialects.openai_shapes import BYTES_PER_TOKEN
from zuebee.dialects.openai_stream import DONE, LITTLE_TEXT_BYTES
from zuebee.dialects.openai_usage import TokenCounts
from zuebee.dialects.sse import (
    MAX_EVENT_BYTES,
    EventCutter,
    EventTooLarge,
    end_of_event,
    event_data,
    event_type,
    names_error,
    split_events,
)

_END_BYTES: Final = 3
"""Of the end of an event these may have come before."""


class AnthropicMeter(Meter):
    """Watches one stream."""

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        super().__init__()
        self._cutter = EventCutter(max_event_bytes)
        self._rest = self._cutter.rest
        self._passing = False
        self._tokens = 0
        self._stopped = False
        self._counted = False
        self._so_far = UsageSoFar()
        self._error: Told | None = None

    def feed(self, data: bytes) -> bytes:
        """What of the stream can be passed on by now: whole events, as they came.

        Left out are an error event (it is in `told`), `message_stop` (in `last_words`), and whatever follows them.
        """
        if self.over:
            return b""
        if self._passing:
            return self._pass_large(data)
        try:
            block = self._cutter.feed(data)
        except EventTooLarge:
            begun = self._cutter.begun
            block, large = bytes(self._rest[:begun]), bytes(self._rest[begun:])
            self._rest.clear()
            passed = self._pass(block)
            return passed if self.over else passed + self._begin_large(large)
        return self._pass(block) if block else b""

    def end(self) -> bytes:
        """No more comes: what of it is left, and can be passed on, with the empty line that it lacks."""
        event = bytes(self._rest)
        if self.over or self._passing or not event.strip():
            return b""
        payload = event_data(event)
        if payload.strip() != DONE and not is_object_from_outside(payload):
            return b""  # it was cut off
        self._rest.clear()
        return self._pass(event.rstrip(b"\r\n") + b"\n\n")

    def _pass(self, block: bytes) -> bytes:
        """Take note of whole events: what of them passes."""
        at = 0
        for event in split_events(block):
            self._take(event)
            if self.over:
                return block[:at]
            at += len(event)
        return block

    def _take(self, event: bytes) -> None:
        payload = _data(event)
        if not payload:
            if names_error(event):
                self._fail(Told(0, "", "", b""))
            return
        try:
            found = read_event(payload)
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            self._take_odd(event, payload)
            return
        self._take_read(event, found)

    def _take_read(self, event: bytes, found: Any) -> None:
        kind: str = found.type or event_type(event)
        if kind == "content_block_delta":
            self.chunks += 1
            if (delta := found.delta) is not None:
                text: str | None = delta.text or delta.thinking or delta.partial_json
                if text:
                    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
                    self._tokens += size // BYTES_PER_TOKEN if size > LITTLE_TEXT_BYTES else 1
        elif kind == "message_delta":
            self.chunks += 1
            if found.delta is not None and found.delta.stop_reason:
                self._stopped = True
            self._take_usage(found.usage, last=True)
        elif kind == "message_stop":
            self.done = self.over = True
            self.last_words = event
        elif kind == "content_block_start":
            if (block := found.content_block) is not None and block.type == "tool_use":
                self._tokens += 1 + len(bytes(block.input)) // BYTES_PER_TOKEN
        elif kind == "message_start":
            if found.message is not None:
                self._take_usage(found.message.usage, last=False)
        elif kind == "error" or names_error(event) or tells_of_error(found.error):
            self._fail(told_of(found.error))

    def _take_usage(self, usage: Raw, *, last: bool) -> None:
        before = self._so_far.outputs
        if self._so_far.take(usage):
            self.usage = billed(self._so_far)
            self._counted = self._counted or (last and self._so_far.outputs > before)

    def _take_odd(self, event: bytes, payload: bytes) -> None:
        """An event that a strict reader refuses."""
        if payload.strip() == DONE:  # of servers that are used to another dialect
            return
        try:
            found = read_event(mend(payload))
        except (ValueError, RecursionError):
            if names_error(event):
                self._fail(Told(0, "", payload[:MAX_MESSAGE].decode("utf-8", "replace"), b""))
            elif is_object_from_outside(payload):
                self._count_unread(len(payload))
            else:
                self._give_up("an event is not a JSON object")
            return
        self._take_read(event, found)

    def _count_unread(self, size_bytes: int) -> None:
        self.unread = True
        self.chunks += 1
        self._tokens += max(size_bytes // BYTES_PER_TOKEN, 1)

    def _fail(self, told: Told) -> None:
        self._error = told
        self.over = True

    def _give_up(self, fault: str) -> None:
        self.fault = fault
        self.over = True

    def _begin_large(self, begun: bytes) -> bytes:
        """An event that is larger than may be held passes as it comes."""
        if names_error(begun) or not event_data(begun).lstrip().startswith(b"{"):
            self._give_up("an event is too large")
            return b""
        self._passing = True
        self._count_unread(len(begun))
        self._rest += begun[-_END_BYTES:]
        return begun

    def _pass_large(self, data: bytes) -> bytes:
        known = len(self._rest)
        joined = bytes(self._rest) + data
        end = end_of_event(joined)
        here = end - known if end else len(data)
        self._tokens += here // BYTES_PER_TOKEN
        if not end:
            self._rest[:] = joined[-_END_BYTES:]
            return data
        self._rest.clear()
        self._passing = False
        return data[:here] + (self.feed(data[here:]) if here < len(data) else b"")

    @property
    def begun_event(self) -> bytes:
        return bytes(self._rest)

    @property
    def amid_event(self) -> bool:
        return self._passing

    @property
    def tokens(self) -> int:
        return self._tokens

    @property
    def told(self) -> Told | None:
        return self._error

    @property
    def figures(self) -> TokenCounts | None:
        """The usage. Until the last figures have come, the first ones know nothing of the answer."""
        usage = self.usage
        if usage is None or self._counted or usage.completion >= self._tokens:
            return usage
        return TokenCounts(usage.prompt, self._tokens, usage.cached, usage.written, usage.reasoning)

    @property
    def whole(self) -> bool:
        """Whether the stream, if it ended now, would be whole: its last words came, or the reason why it stopped."""
        return self.done or (self._stopped and not self.over and not self._passing)


def _data(event: bytes) -> bytes:
    """The data of an event, which nearly always is its last line, and alone."""
    at = event.rfind(b"\n", 0, -2) + 1
    if (
        event.startswith(b"data: ", at)
        and event.endswith(b"\n\n")
        and event.find(b"data", 0, at) < 0
        and event.find(b"\r") < 0
    ):
        return event[at + 6 : -2]
    return event_data(event)
