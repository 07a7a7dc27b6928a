"""PURE. Writes a stream for a client of Anthropic's Messages API.

Blocks are numbered from 0, and one is over before the next begins. Others let several calls grow at a time, and texts
between them: what cannot be written yet waits, until the block before it is whole.
"""

from typing import Final

import msgspec

from zuebee.dialects.anthropic.answers import STOP_WORDS, usage_words
from zuebee.dialects.hub.canonical import (
    Begin,
    CallBegin,
    CallDelta,
    ChatRequest,
    Counts,
    DeclinedDelta,
    Delta,
    FailureDelta,
    FinishDelta,
    StopReason,
    TextDelta,
    ThinkingDelta,
    UsageDelta,
)

NO_ID: Final = "msg_0"
"""Of an answer whose server gave it none."""

_encode: Final = msgspec.json.encode
_is_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_STOP: Final = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


class _Block:
    """A block that has begun, written or not. `call`: of a tool call, its number, else -1.

    `pieces`: all of its arguments; of others what waits to be written.
    """

    def __init__(self, kind: str, call: CallBegin | None = None) -> None:
        self.kind = kind
        self.begin = call
        self.call = -1 if call is None else call.call
        self.pieces: list[str] = []
        self.signature = ""
        self.over = False

    @property
    def whole(self) -> bool:
        """Whether nothing more can come, once another block has begun."""
        if self.call < 0 or self.over:
            return True
        if not self.pieces or not self.pieces[-1].rstrip().endswith("}"):
            return False
        try:
            _is_object("".join(self.pieces))
        except (ValueError, RecursionError):
            return False
        return True


def asks_for_thinking(request: ChatRequest) -> bool:
    """Whether the client looks for reasoning: some take the first block for the answer."""
    return request.reasoning is not None and request.reasoning.enabled is True and request.reasoning.visible


class AnthropicStreamWriter:
    """Writes one stream, of the answer with index 0."""

    def __init__(self, request: ChatRequest) -> None:
        self._model = request.model
        self._shows_thinking = asks_for_thinking(request)
        self._begun = False
        self._index = -1
        self._blocks: list[_Block] = []  # the first one is open, the others wait
        self._calls: dict[int, _Block] = {}
        self._reason: StopReason | None = None
        self._sequence = ""
        self._usage: Counts | None = None

    def write(self, delta: Delta) -> bytes:
        if isinstance(delta, TextDelta | DeclinedDelta):
            return self._start() + self._text("text", delta.text) if not delta.choice and delta.text else b""
        if isinstance(delta, CallDelta):
            return self._start() + self._arguments(delta) if not delta.choice else b""
        if isinstance(delta, ThinkingDelta):
            return self._start() + self._thinking(delta) if not delta.choice else b""
        if isinstance(delta, CallBegin):
            if delta.choice or delta.call in self._calls:
                return b""
            block = self._calls[delta.call] = _Block("tool_use", delta)
            return self._start() + self._add(block)
        if isinstance(delta, UsageDelta):
            self._usage = delta.usage
            return b""
        if isinstance(delta, Begin):
            return self._start(delta)
        if isinstance(delta, FinishDelta):
            if delta.choice:
                return b""
            self._reason, self._sequence = delta.reason, delta.stop_sequence
            return self._start() + self._close_all()
        return b"" if isinstance(delta, FailureDelta) else self._start() + self._close_all() + self._last_words()

    def _start(self, begin: Begin | None = None) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        begin = begin or Begin()
        self._usage = self._usage or begin.usage
        message: dict[str, object] = {
            "id": begin.id or NO_ID,
            "type": "message",
            "role": "assistant",
            "model": begin.model or self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_words(begin.usage),
        }
        return _event(b"message_start", {"type": "message_start", "message": message})

    def _last_words(self) -> bytes:
        reason = self._reason or "stop"
        if self._calls and reason == "stop":
            reason = "tool_calls"  # some servers say the one and mean the other
        delta = {"stop_reason": STOP_WORDS[reason], "stop_sequence": self._sequence or None}
        ending: dict[str, object] = {"type": "message_delta", "delta": delta, "usage": usage_words(self._usage)}
        return _event(b"message_delta", ending) + _STOP

    # --- blocks ---

    def _text(self, kind: str, text: str) -> bytes:
        last = self._blocks[-1] if self._blocks else None
        if last is None or last.kind != kind or last.signature:
            last = _Block(kind)
            last.pieces.append(text)
            return self._add(last)
        if last is self._blocks[0]:
            return self._piece(last.kind, text)
        last.pieces.append(text)
        return b""

    def _thinking(self, delta: ThinkingDelta) -> bytes:
        told = b""
        if delta.text and self._shows_thinking:
            told = self._text("thinking", delta.text)
        if delta.redacted:
            block = _Block("redacted_thinking")
            block.pieces.append(delta.redacted)
            told += self._add(block)
        if delta.signature:
            last = self._blocks[-1] if self._blocks else None
            if last is None or last.kind != "thinking" or last.signature:
                last = _Block("thinking")
                told += self._add(last)
            last.signature = delta.signature
            if last is self._blocks[0]:
                told += self._signature(last)
        return told

    def _arguments(self, delta: CallDelta) -> bytes:
        block = self._calls.get(delta.call)
        if block is None or block.over or not delta.arguments:
            return b""
        block.pieces.append(delta.arguments)
        if block is not self._blocks[0]:
            return b""
        told = self._piece("tool_use", delta.arguments)
        return told + self._go_on() if len(self._blocks) > 1 else told

    def _add(self, block: _Block) -> bytes:
        """Another block: it is begun if those before are whole."""
        self._blocks.append(block)
        return self._open(block) if len(self._blocks) == 1 else self._go_on()

    def _go_on(self) -> bytes:
        """As many blocks as can be closed, since others follow."""
        told = b""
        while len(self._blocks) > 1 and self._blocks[0].whole:
            told += self._close() + self._open(self._blocks[0])
        return told

    def _close_all(self) -> bytes:
        told = b""
        while self._blocks:
            told += self._close()
            if self._blocks:
                told += self._open(self._blocks[0])
        return told

    def _close(self) -> bytes:
        self._blocks.pop(0).over = True
        return b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self._index

    def _open(self, block: _Block) -> bytes:
        self._index += 1
        shown: dict[str, object] = {"type": block.kind}
        if block.begin is not None:
            shown |= {"id": block.begin.id or f"call_{block.call}", "name": block.begin.name, "input": {}}
            if block.begin.signature:
                shown["signature"] = block.begin.signature
        elif block.kind == "redacted_thinking":
            shown["data"] = "".join(block.pieces)
        else:
            shown[block.kind] = ""
            if block.kind == "thinking":
                shown["signature"] = ""
        start = {"type": "content_block_start", "index": self._index, "content_block": shown}
        told = _event(b"content_block_start", start)
        waiting = "" if block.kind == "redacted_thinking" else "".join(block.pieces)
        if waiting:
            told += self._piece(block.kind, waiting)
        return told + self._signature(block) if block.signature else told

    def _piece(self, kind: str, text: str) -> bytes:
        if kind == "text":
            form = b'{"type":"text_delta","text":%b}'
        elif kind == "thinking":
            form = b'{"type":"thinking_delta","thinking":%b}'
        else:
            form = b'{"type":"input_json_delta","partial_json":%b}'
        return self._delta(form % _encode(text))

    def _signature(self, block: _Block) -> bytes:
        return self._delta(b'{"type":"signature_delta","signature":%b}' % _encode(block.signature))

    def _delta(self, delta: bytes) -> bytes:
        return (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":%b}\n\n'
            % (self._index, delta)
        )  # fmt: skip


def _event(name: bytes, data: dict[str, object]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, _encode(data))
