"""PURE. A whole answer as the stream that would have said it."""

from zuebee.dialects.hub.base import Converter
from zuebee.dialects.hub.canonical import (
    Begin,
    CallBegin,
    CallDelta,
    ChatAnswer,
    ChatRequest,
    Declined,
    DeclinedDelta,
    Delta,
    FinishDelta,
    FunctionCall,
    Over,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    UsageDelta,
)


def events_of(converter: Converter, body: bytes) -> tuple[bytes, bytes]:
    """A whole answer in a dialect as the events of a stream in it, and its last words. Raises Malformed."""
    answer = converter.read_answer(body)
    writer = converter.stream_writer(ChatRequest(converter.name, answer.model, [], stream=True, stream_usage=True))
    return b"".join([writer.write(delta) for delta in deltas_of(answer)]), writer.write(Over())


def deltas_of(answer: ChatAnswer) -> list[Delta]:
    """What the stream of this answer would have said."""
    deltas: list[Delta] = [Begin(answer.id, answer.model, answer.usage, answer.created_s)]
    for index, choice in enumerate(answer.choices):
        calls = 0
        for part in choice.parts:
            if isinstance(part, Text):
                deltas.append(TextDelta(part.text, index))
            elif isinstance(part, Thinking):
                if part.text:
                    deltas.append(ThinkingDelta(part.text, choice=index))
                if part.signature or part.redacted:
                    deltas.append(ThinkingDelta("", part.signature, part.redacted, index))
            elif isinstance(part, Declined):
                deltas.append(DeclinedDelta(part.text, index))
            elif isinstance(part, FunctionCall):
                deltas.append(CallBegin(calls, part.id, part.name, part.signature, index))
                deltas.append(CallDelta(calls, part.arguments, index))
                calls += 1
        deltas.append(FinishDelta(choice.stop, choice.stop_sequence, index))
    if answer.usage is not None:
        deltas.append(UsageDelta(answer.usage))
    return deltas
