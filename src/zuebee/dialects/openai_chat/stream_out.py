"""PURE. Writes a stream for a client of chat completions."""

from typing import Any, Final

import msgspec

from zuebee.dialects.hub.canonical import (
    Begin,
    CallBegin,
    CallDelta,
    ChatRequest,
    Counts,
    DeclinedDelta,
    Delta,
    FinishDelta,
    Over,
    StopReason,
    TextDelta,
    Thinking,
    ThinkingDelta,
    UsageDelta,
)
from zuebee.dialects.openai_chat.answers import NO_ID, asks_in_old_words, finish_word, shows_thinking, usage_json
from zuebee.dialects.openai_chat.parts import block_json, call_json
from zuebee.dialects.openai_stream import DONE_EVENT

_encode: Final = msgspec.json.encode
_ROLE: Final = b'{"role":"assistant","content":""}'


class _ChoiceTold:
    """What was said of one answer. `thoughts`: the text of its block of reasoning, until the signature comes."""

    def __init__(self) -> None:
        self.thoughts: list[str] = []
        self.calls = False
        self.stopped = False


class OpenAIStreamWriter:
    """Writes one stream."""

    def __init__(self, request: ChatRequest) -> None:
        self._model = request.model
        self._tells_usage = request.stream_usage
        self._shows_thinking = shows_thinking(request)
        self._old = asks_in_old_words(request)
        self._head = b""
        self._choices: dict[int, _ChoiceTold] = {}
        self._usage: Counts | None = None
        self._over = False

    def write(self, delta: Delta) -> bytes:
        if isinstance(delta, TextDelta):
            if not (delta.text or delta.logprobs):
                return b""
            start = self._start(delta.choice)
            return start + self._chunk(delta.choice, b'{"content":%b}' % _encode(delta.text), logprobs=delta.logprobs)
        if isinstance(delta, CallDelta):
            return self._arguments(delta) if delta.arguments else b""
        if isinstance(delta, ThinkingDelta):
            return self._thinking(delta) if self._shows_thinking else b""
        if isinstance(delta, DeclinedDelta):
            return self._start(delta.choice) + self._chunk(delta.choice, b'{"refusal":%b}' % _encode(delta.text))
        if isinstance(delta, CallBegin):
            return self._call(delta)
        if isinstance(delta, UsageDelta):
            self._usage = delta.usage
            return b""
        if isinstance(delta, Begin):
            return self._begin(delta)
        if isinstance(delta, FinishDelta):
            return self._start(delta.choice) + self._stop(delta.choice, delta.reason)
        return self._last_words() if isinstance(delta, Over) else b""

    # --- chunks ---

    def _begin(self, begin: Begin) -> bytes:
        if self._head:
            return b""
        self._usage = self._usage or begin.usage
        self._head = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,' % (
            _encode(begin.id or NO_ID),
            begin.created_s,
            _encode(begin.model or self._model),
        )
        return self._start(0)

    def _start(self, choice: int) -> bytes:
        """The first chunk of an answer says whose it is."""
        if choice in self._choices:
            return b""
        begun = b"" if self._head else self._begin(Begin())
        if choice in self._choices:
            return begun
        self._choices[choice] = _ChoiceTold()
        return begun + self._chunk(choice, _ROLE)

    def _chunk(self, choice: int, delta: bytes, reason: bytes = b"null", logprobs: bytes = b"") -> bytes:
        return b'%b"choices":[{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}]}\n\n' % (
            self._head,
            choice,
            delta,
            logprobs or b"null",
            reason,
        )

    def _thinking(self, delta: ThinkingDelta) -> bytes:
        told, index = self._start(delta.choice), delta.choice
        thoughts = self._choices[index].thoughts
        if delta.text:
            thoughts.append(delta.text)
            told += self._chunk(index, b'{"reasoning_content":%b}' % _encode(delta.text))
        for block in (Thinking(redacted=delta.redacted), Thinking("".join(thoughts), delta.signature)):
            if block.redacted or block.signature:
                told += self._chunk(index, _encode({"thinking_blocks": [block_json(block)]}))
        if delta.signature:
            thoughts.clear()
        return told

    def _call(self, delta: CallBegin) -> bytes:
        told = self._start(delta.choice)
        self._choices[delta.choice].calls = True
        if self._old:
            said: dict[str, Any] = {"function_call": {"name": delta.name, "arguments": ""}}
            return told if delta.call else told + self._chunk(delta.choice, _encode(said))
        call = call_json(delta.id or f"call_{delta.call}", delta.name, "", delta.signature)
        return told + self._chunk(delta.choice, _encode({"tool_calls": [{"index": delta.call} | call]}))

    def _arguments(self, delta: CallDelta) -> bytes:
        told, arguments = self._start(delta.choice), _encode(delta.arguments)
        if self._old:
            said = b'{"function_call":{"arguments":%b}}' % arguments
            return told if delta.call else told + self._chunk(delta.choice, said)
        said = b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (delta.call, arguments)
        return told + self._chunk(delta.choice, said)

    def _stop(self, index: int, reason: StopReason) -> bytes:
        choice = self._choices[index]
        if choice.stopped:
            return b""
        choice.stopped = True
        return self._chunk(index, b"{}", _encode(finish_word(reason, calls=choice.calls, old=self._old)))

    def _last_words(self) -> bytes:
        """Clients wait for a reason why each answer ended."""
        if self._over:
            return b""
        self._over = True
        told = self._start(0)
        told += b"".join([self._stop(index, "stop") for index in self._choices])
        if self._tells_usage and self._usage is not None:
            told += b'%b"choices":[],"usage":%b}\n\n' % (self._head, _encode(usage_json(self._usage)))
        return told + DONE_EVENT
