"""PURE. What is read of Gemini's answers, as msgspec reads it, and what it means in the hub form."""

import re
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from zuebee.dialects.hub.canonical import Counts, StopReason
from zuebee.dialects.openai_shapes import MAX_TOKENS

NAME: Final = "gemini"

_STOPS: Final[dict[str, StopReason]] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "BLOCKLIST": "content_filter",
    "SPII": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "MALFORMED_FUNCTION_CALL": "stop",
}
"""Every reason that is not here is a `stop`."""
_UNSAID: Final = "FINISH_REASON_UNSPECIFIED"


class BlobSaid(msgspec.Struct, rename="camel"):
    """Data in base64, or where it is."""

    mime_type: str | None = None
    data: str | None = None
    file_uri: str | None = None


class GeminiCall(msgspec.Struct, rename="camel"):
    """`functionCall`."""

    name: str | None = None
    id: str | None = None
    args: Raw | UnsetType = UNSET

    @property
    def arguments(self) -> str:
        if isinstance(self.args, UnsetType):
            return "{}"
        text = bytes(self.args).decode("utf-8", "replace")
        return "{}" if text == "null" else text


class GeminiPart(msgspec.Struct, rename="camel"):
    """One part of an answer: one of its fields says what it is."""

    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: GeminiCall | None = None
    inline_data: BlobSaid | None = None
    file_data: BlobSaid | None = None
    executable_code: Raw | UnsetType = UNSET
    code_execution_result: Raw | UnsetType = UNSET


class ContentSaid(msgspec.Struct, rename="camel"):
    """`content`, which has no parts where there was nothing to say."""

    parts: list[GeminiPart] | None = None


class TokenSaid(msgspec.Struct, rename="camel"):
    """A token and its probability."""

    token: str | None = None
    log_probability: float | None = None


class TopSaid(msgspec.Struct, rename="camel"):
    """The likeliest tokens of one place."""

    candidates: list[TokenSaid] | None = None


class LogprobsSaid(msgspec.Struct, rename="camel"):
    """`logprobsResult`."""

    chosen_candidates: list[TokenSaid] | None = None
    top_candidates: list[TopSaid] | None = None


class CandidateSaid(msgspec.Struct, rename="camel"):
    """One of the answers, or what an event adds to it."""

    content: ContentSaid | None = None
    finish_reason: str | None = None
    index: int | None = None
    logprobs_result: LogprobsSaid | None = None


class FeedbackSaid(msgspec.Struct, rename="camel"):
    """`promptFeedback`."""

    block_reason: str | None = None


class UsageSaid(msgspec.Struct, rename="camel"):
    """`usageMetadata`; what stands there may be anything."""

    prompt_token_count: Any = None
    candidates_token_count: Any = None
    thoughts_token_count: Any = None
    cached_content_token_count: Any = None
    tool_use_prompt_token_count: Any = None


class GeminiAnswer(msgspec.Struct, rename="camel"):
    """An answer, or an event of its stream, which has the same form."""

    candidates: list[CandidateSaid] | None = None
    prompt_feedback: FeedbackSaid | None = None
    usage_metadata: UsageSaid | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: Raw | UnsetType = UNSET

    @property
    def blocked(self) -> bool:
        """Whether the model was not even asked."""
        return self.prompt_feedback is not None and bool(self.prompt_feedback.block_reason)


answer_decoder: Final = msgspec.json.Decoder(GeminiAnswer)


class GeminiUsageSoFar:
    """The figures of one answer: of a stream each event has those of all of it by then."""

    def __init__(self) -> None:
        self._prompt = 0
        self._tools = 0
        self._answer = 0
        self._thoughts = 0
        self._cached = 0

    def take(self, usage: UsageSaid | None) -> Counts | None:
        """The figures by now; None if these are none."""
        if usage is None:
            return None
        self._prompt = max(self._prompt, _count(usage.prompt_token_count))
        self._tools = max(self._tools, _count(usage.tool_use_prompt_token_count))
        self._answer = max(self._answer, _count(usage.candidates_token_count))
        self._thoughts = max(self._thoughts, _count(usage.thoughts_token_count))
        self._cached = max(self._cached, _count(usage.cached_content_token_count))
        prompt = self._prompt + self._tools
        return Counts(prompt, self._answer + self._thoughts, min(self._cached, prompt), 0, self._thoughts)


def _count(value: Any) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else 0


def told_reason(before: str, reason: str | None) -> str:
    """The reason so far: some servers say STOP with everything, and what they say besides is the truth."""
    if not reason or reason == _UNSAID:
        return before
    return before if reason == "STOP" and before else reason


def stop_of(reason: str, *, calls: bool) -> StopReason:
    """Why the answer ended; Gemini has no word for that it calls tools."""
    stop = _STOPS.get(reason, "stop")
    return "tool_calls" if calls and stop == "stop" else stop


MAX_ID: Final = 24
"""Letters of an answer's id: OpenAI's servers take ids of calls with up to 40."""
_ODD: Final = re.compile(r"[^a-zA-Z0-9_-]")


class CallIds:
    """Ids for the calls of one answer, where the server gave none: the same again for the same answer.

    The answer's id is a part of them, so that the calls of a whole conversation have different ones.
    """

    def __init__(self, response_id: str | None, given: "set[str] | None" = None) -> None:
        kept = _ODD.sub("", (response_id or "")[:MAX_ID])
        self._stem = f"call_{kept}_" if kept else "call_"
        self._used = set(given or ())

    def of(self, call: GeminiCall, index: int) -> str:
        """The id of the call with that number."""
        made = call.id or f"{self._stem}{index}"
        more = 1
        while not call.id and made in self._used:
            more += 1
            made = f"{self._stem}{index}_{more}"
        self._used.add(made)
        return made


def logprobs_json(found: LogprobsSaid | None) -> bytes:
    """Probabilities in OpenAI's form; b"" without."""
    if found is None or not found.chosen_candidates:
        return b""
    tops = found.top_candidates or []
    content = []
    for index, token in enumerate(found.chosen_candidates):
        top = tops[index].candidates or [] if index < len(tops) else []
        content.append(_token(token) | {"top_logprobs": [_token(each) for each in top]})
    return msgspec.json.encode({"content": content, "refusal": None})


def _token(said: TokenSaid) -> dict[str, Any]:
    text = said.token or ""
    return {"token": text, "logprob": said.log_probability or 0.0, "bytes": list(text.encode("utf-8", "replace"))}
