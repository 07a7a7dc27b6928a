"""PURE. Both directions of Anthropic's Messages API, and its answers in one piece."""

from typing import Any, Final

import msgspec
from msgspec import Raw

from zuebee.contracts.errors import Refusal
from zuebee.dialects.anthropic import errors, read
from zuebee.dialects.anthropic.answers import STOP_WORDS, STOPS, UsageSoFar, usage_words
from zuebee.dialects.anthropic.blocks import NAME, read_blocks
from zuebee.dialects.anthropic.stream_in import AnthropicStreamReader
from zuebee.dialects.anthropic.stream_out import NO_ID, AnthropicStreamWriter, asks_for_thinking
from zuebee.dialects.anthropic.write import DEFAULT_MAX_TOKENS, AnthropicRequestWriter
from zuebee.dialects.hub.base import StreamReader, StreamWriter
from zuebee.dialects.hub.canonical import (
    AnswerChoice,
    ChatAnswer,
    ChatRequest,
    Declined,
    FunctionCall,
    Malformed,
    Omissions,
    Opaque,
    Part,
    Text,
    Thinking,
    arguments_object,
)
from zuebee.dialects.json_text import mend

_NONE: Final = Raw(b"")


class AnthropicAnswer(msgspec.Struct):
    """A whole answer."""

    content: list[Raw]
    id: str | None = ""
    model: str | None = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: Raw = _NONE


_answer: Final = msgspec.json.Decoder(AnthropicAnswer).decode


class AnthropicConverter:
    """The converter of this dialect.

    `default_max_tokens`: the bound where a caller sets none. `adaptive`: whether models take adaptive reasoning and
    efforts (Claude 4.6 and later) or budgets; None: as their names say.
    """

    name: str = NAME

    def __init__(self, default_max_tokens: int = DEFAULT_MAX_TOKENS, adaptive: bool | None = None) -> None:
        self._default_max_tokens = default_max_tokens
        self._adaptive = adaptive

    def read_request(self, body: bytes) -> ChatRequest:
        return read.read_request(body)

    def write_request(self, request: ChatRequest, notes: Omissions) -> bytes:
        return AnthropicRequestWriter(request, notes, self._default_max_tokens, self._adaptive).body()

    def read_answer(self, body: bytes) -> ChatAnswer:
        try:
            answer = _decoded(body)
        except (ValueError, RecursionError) as error:
            raise Malformed(f"The answer is not valid: {error}") from None
        parts = read_blocks(answer.content, "content")
        usage = UsageSoFar()
        known = usage.take(answer.usage)
        calls = any(isinstance(part, FunctionCall) for part in parts)
        stop = STOPS.get(answer.stop_reason or ("tool_use" if calls else "end_turn"), "stop")
        choice = AnswerChoice(parts, stop, answer.stop_sequence or "")
        return ChatAnswer(answer.id or "", answer.model or "", [choice], usage.counts() if known else None)

    def write_answer(self, answer: ChatAnswer, request: ChatRequest) -> bytes:
        choice = answer.choices[0] if answer.choices else AnswerChoice([])
        shows = asks_for_thinking(request)
        content: list[Any] = []
        for part in choice.parts:
            if (block := _block(part, len(content), shows_thinking=shows)) is not None:
                content.append(block)
        reason = choice.stop
        if reason == "stop" and any(isinstance(part, FunctionCall) for part in choice.parts):
            reason = "tool_calls"  # some servers say the one and mean the other
        return msgspec.json.encode(
            {
                "id": answer.id or NO_ID,
                "type": "message",
                "role": "assistant",
                "model": answer.model or request.model,
                "content": content,
                "stop_reason": STOP_WORDS[reason],
                "stop_sequence": choice.stop_sequence or None,
                "usage": usage_words(answer.usage),
            }
        )

    def read_error(self, status: int, body: bytes) -> Refusal:
        return errors.read_error(status, body)

    def stream_reader(self) -> StreamReader:
        return AnthropicStreamReader()

    def stream_writer(self, request: ChatRequest) -> StreamWriter:
        return AnthropicStreamWriter(request)


def _decoded(body: bytes) -> AnthropicAnswer:
    try:
        return _answer(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return _answer(mend(body))


def _block(part: Part, index: int, *, shows_thinking: bool) -> Any:
    """A part of an answer, as the client reads it; None for what it has no word for, or did not ask for."""
    if isinstance(part, Text | Declined):
        return {"type": "text", "text": part.text} if part.text else None
    if isinstance(part, FunctionCall):
        call = {"type": "tool_use", "id": part.id or f"call_{index}", "name": part.name}
        call |= {"input": arguments_object(part.arguments)}  # type: ignore[dict-item]
        return call | {"signature": part.signature} if part.signature else call
    if isinstance(part, Thinking):
        if part.redacted:
            return {"type": "redacted_thinking", "data": part.redacted}
        text = part.text if shows_thinking else ""
        return {"type": "thinking", "thinking": text, "signature": part.signature} if text or part.signature else None
    return Raw(part.raw) if isinstance(part, Opaque) and part.dialect == NAME else None
