"""PURE. Reads a stream of chat completion chunks: each event is decoded once.

Servers are sloppy in tool calls above all: without ids or indexes, the name in each piece, one index for all.
"""

from typing import Final

import msgspec
from msgspec import Raw

from zuebee.dialects.hub.canonical import (
    Begin,
    CallBegin,
    CallDelta,
    Counts,
    Declined,
    DeclinedDelta,
    Delta,
    FinishDelta,
    Malformed,
    Over,
    Part,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    UsageDelta,
    made_id,
)
from zuebee.dialects.openai import read_told, tells_of_error
from zuebee.dialects.openai_chat.answers import counted, stop_of
from zuebee.dialects.openai_chat.errors import failed
from zuebee.dialects.openai_chat.parts import read_content, read_thinking
from zuebee.dialects.openai_chat.shapes import (
    AnswerSaid,
    CallSaid,
    ChoiceSaid,
    MessageSaid,
    answer_decoder,
    decoded,
    given,
    text_or,
)
from zuebee.dialects.openai_stream import DONE

_is_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode


class _CallHeard:
    """A call so far. `number` is -1 until its name is known; meanwhile its arguments wait."""

    def __init__(self) -> None:
        self.number = -1
        self.id = ""
        self.name = ""
        self.signature = ""
        self.pieces: list[str] = []

    @property
    def whole(self) -> bool:
        """Whether its arguments are JSON as they are."""
        try:
            _is_object("".join(self.pieces))
        except (ValueError, RecursionError):
            return False
        return True

    def goes_on(self, piece: CallSaid) -> bool:
        """Whether this piece, which has a name, belongs to it. Some servers say the name each time, some make a new
        id for each piece, and some give all calls the same index: then an id tells, and else what is whole already.
        """
        if piece.id and self.id:
            return piece.id == self.id or (bool(self.pieces) and piece.name == self.name and not self.whole)
        return piece.name == (self.name or piece.name) and not (self.pieces and self.whole)


class _ChoiceHeard:
    """An answer so far."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.begun = False
        self.stopped = False
        self.says_thoughts = False  # then the same text stands elsewhere as well
        self.by_index: dict[int, _CallHeard] = {}
        self.calls: list[_CallHeard] = []
        self.numbered = 0


class OpenAIStreamReader:
    """Reads one stream."""

    def __init__(self) -> None:
        self._id = ""
        self._begun = False
        self._over = False
        self._choices: dict[int, _ChoiceHeard] = {}
        self._usage: Counts | None = None

    def read(self, event: str, data: bytes) -> list[Delta]:
        if self._over or not data:
            return []
        if data.strip() == DONE:
            return self._done()
        said = decoded(answer_decoder, data, "An event")
        if not isinstance(said.error, msgspec.UnsetType) and tells_of_error(said.error):
            return [failed(read_told(said.error))]
        if event == "error" or text_or(said.object).lower() == "error":
            return [failed(read_told(Raw(data)))]
        found: list[Delta] = []
        usage = counted(said)
        if not self._begun:
            if not said.choices and usage is None:
                return []  # Azure's word on the prompt comes first, and without an id
            found.append(self._begin(said))
        for place, choice in enumerate(said.choices or ()):
            self._choice(choice, place if choice.index is None else choice.index, found)
        if usage is not None and usage != self._usage:
            self._usage = usage
            found.append(UsageDelta(usage))
        return found

    def end(self) -> list[Delta]:
        if self._over or not self._choices or not all(choice.stopped for choice in self._choices.values()):
            return []
        self._over = True
        return [Over()]

    def _begin(self, said: AnswerSaid) -> Begin:
        self._begun = True
        self._id = text_or(said.id)
        return Begin(self._id, text_or(said.model), None, said.created_s)

    def _done(self) -> list[Delta]:
        """Some servers say no reason why an answer ended, but that all have."""
        if not self._choices:
            raise Malformed("The stream has ended without an answer.", "choices")
        self._over = True
        found: list[Delta] = []
        for state in self._choices.values():
            if not state.stopped:
                self._end_calls(state, found)
                found.append(FinishDelta("tool_calls" if state.numbered else "stop", choice=state.index))
        found.append(Over())
        return found

    def _choice(self, said: ChoiceSaid, index: int, found: list[Delta]) -> None:
        state = self._choices.get(index)
        if state is None:
            state = self._choices[index] = _ChoiceHeard(index)
        delta = said.delta
        if delta is None and said.message is not None and not state.begun:
            delta = said.message  # a whole answer as the only event
        if delta is not None:
            self._delta(state, delta, given(said.logprobs), found)
        if state.stopped:
            return
        stop = stop_of(said, calls=bool(state.calls))
        if stop is not None:
            state.stopped = True
            self._end_calls(state, found)
            found.append(FinishDelta(stop[0], stop[1], index))

    def _delta(self, state: _ChoiceHeard, said: MessageSaid, logprobs: bytes, found: list[Delta]) -> None:
        size, index = len(found), state.index
        self._thoughts(state, said, found)
        content = said.content
        if isinstance(content, str):
            if content or logprobs:
                found.append(TextDelta(content, index, logprobs))
        else:
            for part in read_content(content, "delta.content"):
                _part(part, index, found)
            if logprobs:
                found.append(TextDelta("", index, logprobs))
        if said.refusal:
            found.append(DeclinedDelta(said.refusal, index))
        for piece in said.tool_calls or ():
            self._piece(state, piece, found)
        if said.function_call is not None and not said.tool_calls:
            self._piece(state, CallSaid(index=0, function=said.function_call), found)
        state.begun = state.begun or len(found) > size

    def _thoughts(self, state: _ChoiceHeard, said: MessageSaid, found: list[Delta]) -> None:
        if thoughts := said.thoughts:
            state.says_thoughts = True
            found.append(ThinkingDelta(thoughts, choice=state.index))
        if said.thinking_blocks or given(said.reasoning_details):
            for each in read_thinking(said):
                text = "" if state.says_thoughts else each.text
                _part(Thinking(text, each.signature, each.redacted), state.index, found)

    # --- calls ---

    def _piece(self, state: _ChoiceHeard, piece: CallSaid, found: list[Delta]) -> None:
        call = self._call_of(state, piece)
        call.id = call.id or piece.id or ""
        call.name = call.name or piece.name
        call.signature = call.signature or piece.signature
        arguments = piece.arguments
        if arguments:
            call.pieces.append(arguments)
        if call.number < 0 and call.name:
            call.number = state.numbered
            state.numbered += 1
            call.id = call.id or made_id(self._id, call.number)
            found.append(CallBegin(call.number, call.id, call.name, call.signature, state.index))
            arguments = "".join(call.pieces)
        if arguments and call.number >= 0:
            found.append(CallDelta(call.number, arguments, state.index))

    def _call_of(self, state: _ChoiceHeard, piece: CallSaid) -> _CallHeard:
        """Which call it is a piece of; a new one where it is of none."""
        if piece.index is not None:
            call = state.by_index.get(piece.index)
            if call is not None and (not piece.name or call.goes_on(piece)):
                return call
        else:
            call = next((each for each in state.calls if piece.id and each.id == piece.id), None)
            if call is None and state.calls and (not piece.name or state.calls[-1].goes_on(piece)):
                call = state.calls[-1]
            if call is not None:
                return call
        call = _CallHeard()
        state.calls.append(call)
        if piece.index is not None:
            state.by_index[piece.index] = call
        return call

    def _end_calls(self, state: _ChoiceHeard, found: list[Delta]) -> None:
        """Arguments are JSON, also where there are none."""
        for call in state.calls:
            if call.number >= 0 and not call.pieces:
                call.pieces.append("{}")
                found.append(CallDelta(call.number, "{}", state.index))


def _part(part: Part, choice: int, found: list[Delta]) -> None:
    """What is said as a part of a list."""
    if isinstance(part, Text):
        found.append(TextDelta(part.text, choice))
    elif isinstance(part, Declined):
        found.append(DeclinedDelta(part.text, choice))
    elif isinstance(part, Thinking):
        if part.text:
            found.append(ThinkingDelta(part.text, choice=choice))
        if part.signature or part.redacted:
            found.append(ThinkingDelta("", part.signature, part.redacted, choice))
