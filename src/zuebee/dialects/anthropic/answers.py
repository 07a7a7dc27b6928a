"""PURE. What Anthropic's answers say of the tokens they took, why they ended, and what went wrong.

`input_tokens` has neither what was read from the cache nor what was written to it; the hub form's prompt has both.
Figures of a stream are of all of it so far, and some servers say a part of them only once: the largest counts.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw

from zuebee.dialects.anthropic.errors import status_of
from zuebee.dialects.hub.canonical import Counts, StopReason
from zuebee.dialects.json_text import is_object_from_outside, mend
from zuebee.dialects.openai import TAIL_BYTES, InvalidJsonAnswer, Told, read_told, tail_usage, tells_of_error
from zuebee.dialects.openai_shapes import MAX_TOKENS
from zuebee.dialects.openai_usage import TokenCounts

STOPS: Final[dict[str, StopReason]] = {
    "end_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "stop_sequence": "stop_sequence",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "pause_turn": "pause",
}
STOP_WORDS: Final[dict[StopReason, str]] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "stop_sequence": "stop_sequence",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "pause": "pause_turn",
}


class AnthropicUsage(msgspec.Struct):
    """`usage`; what stands there may be anything."""

    input_tokens: Any = None
    output_tokens: Any = None
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None
    output_tokens_details: Any = None


_usage: Final = msgspec.json.Decoder(AnthropicUsage | None).decode


class UsageSoFar:
    """The figures of one answer, as they come. `outputs`: how often the answer's own tokens were told."""

    def __init__(self) -> None:
        self.outputs = 0
        self._input = 0
        self._output = 0
        self._cached = 0
        self._written = 0
        self._reasoning = 0

    def take(self, usage: Raw | bytes) -> bool:
        """Take note of a usage object; whether it is one."""
        try:
            found = _usage(usage)
        except (ValueError, RecursionError):
            return False
        if found is None:
            return False
        if found.output_tokens is not None:
            self.outputs += 1
        self._input = max(self._input, _count(found.input_tokens))
        self._output = max(self._output, _count(found.output_tokens))
        self._cached = max(self._cached, _count(found.cache_read_input_tokens))
        self._written = max(self._written, _count(found.cache_creation_input_tokens))
        if type(details := found.output_tokens_details) is dict:
            thought = details.get("thinking_tokens") or details.get("reasoning_tokens")
            self._reasoning = max(self._reasoning, _count(thought))
        return True

    def counts(self) -> Counts:
        """In OpenAI's sense."""
        prompt = self._input + self._cached + self._written
        return Counts(prompt, self._output, self._cached, self._written, min(self._reasoning, self._output))


def _count(value: Any) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else 0


def usage_words(counts: Counts | None) -> dict[str, int]:
    """The object that clients read; all of its numbers must be there."""
    counts = counts or Counts()
    return {
        "input_tokens": max(counts.prompt - counts.cached - counts.written, 0),
        "cache_creation_input_tokens": counts.written,
        "cache_read_input_tokens": counts.cached,
        "output_tokens": counts.completion,
    }


def billed(usage: UsageSoFar) -> TokenCounts | None:
    """The figures as they are billed; None where they cannot be true. Who does not count says so with zeros."""
    counts = usage.counts()
    if counts.prompt + counts.completion <= 0 or counts.prompt > MAX_TOKENS:
        return None
    return TokenCounts(counts.prompt, counts.completion, counts.cached, counts.written, counts.reasoning)


# --- whole answers that pass as they came ---


class PassingAnswer(msgspec.Struct):
    """A whole answer; what stands there may be anything."""

    type: Any = None
    usage: Raw = Raw(b"null")
    error: Raw = Raw(b"null")


class PassingBlock(msgspec.Struct):
    """What of a block the model has written."""

    text: Raw = Raw(b"")
    thinking: Raw = Raw(b"")
    input: Raw = Raw(b"")


class PassingBlocks(msgspec.Struct):
    """The blocks of an answer."""

    content: list[PassingBlock]


_answer: Final = msgspec.json.Decoder(PassingAnswer).decode
_blocks: Final = msgspec.json.Decoder(PassingBlocks).decode


def _decoded(decode: Any, body: bytes) -> Any:
    """Read it strictly, or else mended."""
    try:
        return decode(body)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        return decode(mend(body))


def answer_usage(body: bytes) -> TokenCounts | None:
    """The tokens that an answer reports, None if it reports none. Raises InvalidJsonAnswer."""
    usage = UsageSoFar()
    try:
        return billed(usage) if usage.take(_decoded(_answer, body).usage) else None
    except (ValueError, RecursionError) as error:
        if not is_object_from_outside(body):
            raise InvalidJsonAnswer(str(error)) from None
    return tail_usage(body[-TAIL_BYTES:])


def answer_error(body: bytes) -> Told | None:
    """What an answer says went wrong."""
    try:
        answer = _decoded(_answer, body)
    except (ValueError, RecursionError):
        return None
    return told_of(answer.error) if answer.type == "error" or tells_of_error(answer.error) else None


def told_of(error: Raw) -> Told:
    """What stands under `error`, with the status that goes with its type."""
    told = read_told(error)
    return told._replace(status=status_of(told.code) or told.status)


def answer_text_bytes(body: bytes) -> int:
    """How many bytes of an answer the model has written: all of them where that cannot be told."""
    try:
        blocks = _decoded(_blocks, body).content
    except (ValueError, RecursionError):
        return len(body) if is_object_from_outside(body) else 0
    return sum(len(bytes(block.text)) + len(bytes(block.thinking)) + len(bytes(block.input)) for block in blocks)


# --- events that pass as they came ---


class PassingDelta(msgspec.Struct):
    """`delta`, of whatever event."""

    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class PassingStart(msgspec.Struct):
    """`content_block`: arguments of a tool, where they come at once."""

    type: str = ""
    input: Raw = Raw(b"")


class PassingMessage(msgspec.Struct):
    """`message`."""

    usage: Raw = Raw(b"null")


class PassingEvent(msgspec.Struct):
    """An event, of whatever type."""

    type: str = ""
    delta: PassingDelta | None = None
    content_block: PassingStart | None = None
    message: PassingMessage | None = None
    usage: Raw = Raw(b"null")
    error: Raw = Raw(b"null")


read_event: Final = msgspec.json.Decoder(PassingEvent).decode
