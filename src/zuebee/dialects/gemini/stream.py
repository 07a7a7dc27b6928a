"""PURE. Reads a stream of Gemini's. Each event is an answer that says what is new; none is marked as the last."""

from typing import Final

from msgspec import UnsetType

from zuebee.dialects.gemini.errors import GeminiError, error_in, error_of
from zuebee.dialects.gemini.shapes import (
    CallIds,
    CandidateSaid,
    GeminiAnswer,
    GeminiPart,
    GeminiUsageSoFar,
    answer_decoder,
    logprobs_json,
    stop_of,
    told_reason,
)
from zuebee.dialects.hub.canonical import (
    SIGNED_BY_GEMINI,
    Begin,
    CallBegin,
    CallDelta,
    Counts,
    Delta,
    FailureDelta,
    FinishDelta,
    Malformed,
    Over,
    TextDelta,
    ThinkingDelta,
    UsageDelta,
)

MAX_CHOICE: Final = 128
"""No server gives so many answers to a request."""


class _ChoiceSoFar:
    """What is known of one of the answers."""

    def __init__(self, response_id: str | None) -> None:
        self.ids = CallIds(response_id)
        self.calls = 0
        self.reason = ""


class GeminiStreamReader:
    """Reads one stream. Parts that the hub form has no word for (pictures, code that was run) are passed over."""

    def __init__(self) -> None:
        self._begun = False
        self._done = False
        self._response_id: str | None = None
        self._usage = GeminiUsageSoFar()
        self._counts: Counts | None = None
        self._choices: dict[int, _ChoiceSoFar] = {}

    def read(self, event: str, data: bytes) -> list[Delta]:
        if not data.strip() or data.strip() == b"[DONE]":
            return []
        try:
            said = answer_decoder.decode(data)
        except (ValueError, RecursionError) as error:
            if (failure := error_in(data)) is not None:
                return [self._failed(failure)]
            raise Malformed(f"An event is not valid: {error}", event) from None
        if not isinstance(said.error, UnsetType) and bytes(said.error) != b"null":
            return [self._failed(error_of(said.error) or GeminiError(""))]
        found: list[Delta] = []
        counts = self._usage.take(said.usage_metadata)
        if not self._begun:
            self._begun = True
            self._response_id = said.response_id
            found.append(Begin(said.response_id or "", said.model_version or "", counts))
        for place, candidate in enumerate(said.candidates or ()):
            found += self._candidate(candidate, place if candidate.index is None else candidate.index)
        self._blocked(said)
        if counts is not None and counts != self._counts:
            self._counts = counts
            found.append(UsageDelta(counts))
        return found

    def end(self) -> list[Delta]:
        """The answer is whole if it said why it ended, or called a tool; every part of it, if there are some."""
        choices = self._choices
        if self._done or not choices or not all(choice.reason or choice.calls for choice in choices.values()):
            return []
        self._done = True
        found: list[Delta] = []
        for index, choice in sorted(choices.items()):
            found.append(FinishDelta(stop_of(choice.reason, calls=choice.calls > 0), choice=index))
        found.append(Over())
        return found

    def _failed(self, error: GeminiError) -> FailureDelta:
        self._done = True
        return FailureDelta(error.http_status, error.word, error.word, error.message)

    def _choice(self, index: int) -> _ChoiceSoFar:
        if not 0 <= index < MAX_CHOICE:
            raise Malformed("An event has an answer with an index that cannot be.", "candidates.index")
        if (found := self._choices.get(index)) is None:
            found = self._choices[index] = _ChoiceSoFar(self._response_id)
        return found

    def _blocked(self, said: GeminiAnswer) -> None:
        if said.blocked and not self._choices:
            self._choice(0).reason = "SAFETY"

    def _candidate(self, said: CandidateSaid, index: int) -> list[Delta]:
        choice = self._choice(index)
        choice.reason = told_reason(choice.reason, said.finish_reason)
        found: list[Delta] = []
        for part in said.content.parts or () if said.content is not None else ():
            found += self._part(part, choice, index)
        if odds := logprobs_json(said.logprobs_result):
            texts = [each for each in found if isinstance(each, TextDelta)]
            if texts:
                texts[-1].logprobs = odds
            else:
                found.append(TextDelta("", index, odds))
        return found

    def _part(self, part: GeminiPart, choice: _ChoiceSoFar, index: int) -> list[Delta]:
        signature = part.thought_signature or ""
        if (call := part.function_call) is not None:
            number = choice.calls
            choice.calls += 1
            return [
                CallBegin(number, choice.ids.of(call, number), call.name or "", signature, index),
                CallDelta(number, call.arguments, index),
            ]
        found: list[Delta] = []
        if part.text:
            found.append(ThinkingDelta(part.text, choice=index) if part.thought else TextDelta(part.text, index))
        if signature:
            found.append(ThinkingDelta(signature=SIGNED_BY_GEMINI + signature, choice=index))
        return found
