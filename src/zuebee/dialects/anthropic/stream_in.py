"""PURE. Reads a stream of Anthropic's Messages API: each event is decoded once."""

from typing import Any, Final

import msgspec
from msgspec import Raw

from zuebee.dialects.anthropic.answers import STOPS, UsageSoFar
from zuebee.dialects.anthropic.errors import status_of
from zuebee.dialects.hub.canonical import (
    Begin,
    CallBegin,
    CallDelta,
    Delta,
    FailureDelta,
    FinishDelta,
    Malformed,
    Over,
    TextDelta,
    ThinkingDelta,
    UsageDelta,
)

_NONE: Final = Raw(b"")
_EMPTY: Final = (b"", b"{}", b"null")


class EventDelta(msgspec.Struct):
    """`delta`, of whatever event."""

    type: str = ""
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    signature: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class EventBlock(msgspec.Struct):
    """`content_block`; those of other types than the reader knows may hold anything."""

    type: str = ""
    text: Any = None
    id: Any = None
    name: Any = None
    input: Raw = _NONE
    thinking: Any = None
    signature: Any = None
    data: Any = None


class EventMessage(msgspec.Struct):
    """`message`, which is still empty."""

    id: str | None = ""
    model: str | None = ""
    usage: Raw = _NONE


class EventError(msgspec.Struct):
    """`error`."""

    type: str | None = ""
    message: str | None = ""


class AnthropicEvent(msgspec.Struct):
    """An event, of whatever type."""

    type: str = ""
    index: int = 0
    delta: EventDelta | None = None
    content_block: EventBlock | None = None
    message: EventMessage | None = None
    usage: Raw = _NONE
    error: EventError | None = None


_decode: Final = msgspec.json.Decoder(AnthropicEvent).decode


class AnthropicStreamReader:
    """Reads one stream. Blocks of types that the hub form has no word for (a server's own tools) are passed over."""

    def __init__(self) -> None:
        self._usage = UsageSoFar()
        self._calls: dict[int, int] = {}
        self._given: set[int] = set()
        self._ignored: set[int] = set()
        self._stopped = False
        self._over = False

    def read(self, event: str, data: bytes) -> list[Delta]:
        if not data or data.strip() == b"[DONE]":
            return []
        try:
            found = _decode(data)
        except (ValueError, RecursionError) as error:
            raise Malformed(f"An event is not valid: {error}", event) from None
        kind = found.type or event
        if kind == "content_block_delta":
            return [] if found.delta is None else self._delta(found.index, found.delta)
        if kind == "content_block_start":
            return [] if found.content_block is None else self._start(found.index, found.content_block)
        if kind == "content_block_stop":
            return self._end_of_block(found.index)
        if kind == "message_start":
            return [self._begin(found.message or EventMessage())]
        if kind == "message_delta":
            return self._ending(found)
        if kind == "message_stop":
            self._over = True
            return [*self._stop("tool_use" if self._calls else "end_turn"), Over()]
        if kind == "error":
            told = found.error or EventError()
            name = told.type or ""
            self._over = True
            return [FailureDelta(status_of(name), name, name, told.message or "")]
        return []

    def end(self) -> list[Delta]:
        if self._over or not self._stopped:
            return []
        self._over = True
        return [Over()]

    def _begin(self, message: EventMessage) -> Begin:
        known = self._usage.take(message.usage)
        return Begin(message.id or "", message.model or "", self._usage.counts() if known else None)

    def _start(self, index: int, block: EventBlock) -> list[Delta]:
        kind = block.type
        if kind == "tool_use":
            call = self._calls[index] = len(self._calls)
            found: list[Delta] = [CallBegin(call, _str(block.id), _str(block.name), _str(block.signature))]
            if (arguments := bytes(block.input).strip()) not in _EMPTY:
                self._given.add(index)
                self._ignored.add(index)  # what would follow is the same again
                found.append(CallDelta(call, arguments.decode("utf-8", "replace")))
            return found
        if kind == "text":
            return [TextDelta(block.text)] if _str(block.text) else []
        if kind == "thinking":
            text, signature = _str(block.thinking), _str(block.signature)
            return [ThinkingDelta(text, signature)] if text or signature else []
        if kind == "redacted_thinking":
            return [ThinkingDelta(redacted=_str(block.data))]
        self._ignored.add(index)
        return []

    def _delta(self, index: int, delta: EventDelta) -> list[Delta]:
        if index in self._ignored:
            return []
        if delta.text:
            return [TextDelta(delta.text)]
        if delta.partial_json:
            if (call := self._calls.get(index)) is None:
                raise Malformed("An event has arguments for a tool that no event began.", "index")
            self._given.add(index)
            return [CallDelta(call, delta.partial_json)]
        if delta.thinking:
            return [ThinkingDelta(delta.thinking)]
        if delta.signature:
            return [ThinkingDelta(signature=delta.signature)]
        return []

    def _end_of_block(self, index: int) -> list[Delta]:
        """Arguments are JSON, also where there are none."""
        if (call := self._calls.get(index)) is None or index in self._given:
            return []
        self._given.add(index)
        return [CallDelta(call, "{}")]

    def _ending(self, event: AnthropicEvent) -> list[Delta]:
        found: list[Delta] = []
        delta = event.delta
        if delta is not None and delta.stop_reason:
            found += self._stop(delta.stop_reason, delta.stop_sequence or "")
        if self._usage.take(event.usage):
            found.append(UsageDelta(self._usage.counts()))
        return found

    def _stop(self, reason: str, sequence: str = "") -> list[Delta]:
        if self._stopped:
            return []
        self._stopped = True
        return [FinishDelta(STOPS.get(reason, "stop"), sequence)]


def _str(value: Any) -> str:
    return value if isinstance(value, str) else ""
