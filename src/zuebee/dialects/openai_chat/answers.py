"""PURE. Answers of chat completions in one piece, and the words that they share with streams."""

from typing import Any, Final

import msgspec

from zuebee.dialects.hub.canonical import (
    AnswerChoice,
    ChatAnswer,
    ChatRequest,
    Counts,
    Declined,
    FunctionCall,
    Malformed,
    Media,
    Part,
    StopReason,
    Thinking,
    made_id,
    text_of,
)
from zuebee.dialects.openai import answer_error, read_told
from zuebee.dialects.openai_chat.conversation import calls_of, turn
from zuebee.dialects.openai_chat.parts import call_json, read_content, thinking_json
from zuebee.dialects.openai_chat.shapes import (
    AnswerSaid,
    ChoiceSaid,
    MessageSaid,
    answer_decoder,
    counts_of,
    decoded,
    given,
    text_or,
)
from zuebee.dialects.openai_usage import usage_figures

NO_ID: Final = "chatcmpl-0"
"""Of an answer whose server gave it none."""

STOPS: Final[dict[str, StopReason]] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "tool_calls": "tool_calls",
    "tool_use": "tool_calls",
    "function_call": "tool_calls",
    "stop_sequence": "stop_sequence",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "refusal": "content_filter",
}
"""Why servers say that an answer ended."""
STOP_WORDS: Final[dict[StopReason, str]] = {
    "stop": "stop",
    "length": "length",
    "stop_sequence": "stop",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "pause": "stop",
}
_NO_REASONS: Final = ("", "null", "none")


def stop_of(choice: ChoiceSaid, *, calls: bool) -> tuple[StopReason, str] | None:
    """Why this answer ended, and at which text of the caller's; None while it has not."""
    word = text_or(choice.finish_reason).strip().lower()
    if word in _NO_REASONS:
        return None
    reason = STOPS.get(word, "stop")
    if reason == "stop" and calls:
        return "tool_calls", ""  # some servers say the one and mean the other
    sequence = text_or(choice.stop_reason) or text_or(choice.matched_stop)
    if reason in ("stop", "stop_sequence") and sequence and sequence not in STOPS:
        return "stop_sequence", sequence
    return reason, ""


def counted(said: AnswerSaid) -> Counts | None:
    """The usage that it tells of, wherever it may stand."""
    for raw in said.usage_fields:
        if (found := usage_figures(raw)) is not None:
            return counts_of(found)
    return None


def usage_json(counts: Counts) -> dict[str, Any]:
    """Usage as clients read it."""
    read: dict[str, int] = {"cached_tokens": counts.cached}
    if counts.written:
        read["cache_write_tokens"] = counts.written
    return {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.prompt + counts.completion,
        "prompt_tokens_details": read,
        "completion_tokens_details": {"reasoning_tokens": counts.reasoning},
    }


def asks_in_old_words(request: ChatRequest) -> bool:
    """Whether the client named `functions`, and looks for a `function_call`."""
    return "functions" in request.extra


def shows_thinking(request: ChatRequest) -> bool:
    """Whether the client may see what the model thought."""
    return request.reasoning is None or request.reasoning.visible


# --- reading ---


def read_answer(body: bytes) -> ChatAnswer:
    """A backend's whole answer. Raises Malformed."""
    said = decoded(answer_decoder, body, "The answer")
    if (error := answer_error(body)) is not None:
        raise Malformed(f"The model server answered with an error: {read_told(error).message}", "error")
    if not said.choices:
        raise Malformed("The answer has no `choices`.", "choices")
    id = text_or(said.id)
    found = sorted(enumerate(said.choices), key=lambda each: each[0] if each[1].index is None else each[1].index)
    choices = [_choice(choice, id, place) for place, choice in found]
    return ChatAnswer(id, text_or(said.model), choices, counted(said), said.created_s)


def _choice(said: ChoiceSaid, id: str, place: int) -> AnswerChoice:
    message = said.message or said.delta or MessageSaid()
    calls = calls_of(message, lambda index: made_id(id, index))
    parts = turn(message, read_content(message.content, f"choices[{place}].message.content"), calls)
    reason = stop_of(said, calls=bool(calls)) or ("tool_calls" if calls else "stop", "")
    return AnswerChoice(parts, reason[0], reason[1], given(said.logprobs))


# --- writing ---


def write_answer(answer: ChatAnswer, request: ChatRequest) -> bytes:
    """The answer for the client that asked `request`."""
    made = {
        "id": answer.id or NO_ID,
        "object": "chat.completion",
        "created": answer.created_s,
        "model": answer.model or request.model,
        "choices": [_choice_json(choice, index, request) for index, choice in enumerate(answer.choices)],
    }
    if answer.usage is not None:
        made["usage"] = usage_json(answer.usage)
    return msgspec.json.encode(made)


def _choice_json(choice: AnswerChoice, index: int, request: ChatRequest) -> dict[str, Any]:
    parts = choice.parts
    calls = [part for part in parts if isinstance(part, FunctionCall)]
    old = asks_in_old_words(request)
    message = _message_json(parts, calls, thinking=shows_thinking(request), old=old)
    logprobs = msgspec.Raw(choice.logprobs) if choice.logprobs else None
    word = finish_word(choice.stop, calls=bool(calls), old=old)
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": word}


def finish_word(reason: StopReason, *, calls: bool, old: bool) -> str:
    """Why an answer ended, as clients read it. `old`: they look for a `function_call`."""
    word = "tool_calls" if calls and reason == "stop" else STOP_WORDS[reason]
    return "function_call" if old and word == "tool_calls" else word


def _message_json(parts: list[Part], calls: list[FunctionCall], *, thinking: bool, old: bool) -> dict[str, Any]:
    text = text_of(parts)
    refusal = "".join([part.text for part in parts if isinstance(part, Declined)])
    made: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not (calls or refusal) else None,
        "refusal": refusal or None,
    }
    if thinking:
        made |= thinking_json([part for part in parts if isinstance(part, Thinking)])
    if pictures := [_picture(part) for part in parts if isinstance(part, Media) and part.kind == "image"]:
        made["images"] = pictures
    if calls and old:
        made["function_call"] = {"name": calls[0].name, "arguments": calls[0].arguments}
    elif calls:
        made["tool_calls"] = [
            call_json(call.id or f"call_{index}", call.name, call.arguments, call.signature)
            for index, call in enumerate(calls)
        ]
    return made


def _picture(part: Media) -> dict[str, Any]:
    """A picture that a model made, as OpenRouter shows it."""
    return {"type": "image_url", "image_url": {"url": part.url or f"data:{part.media_type};base64,{part.data}"}}
