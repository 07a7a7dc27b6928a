"""PURE. What is read of chat completions, as msgspec reads it, and how numbers and broken texts are forgiven."""

import re
from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from zuebee.dialects.hub.canonical import Counts, Malformed
from zuebee.dialects.json_text import mend
from zuebee.dialects.openai_usage import TokenCounts

T = TypeVar("T")
NULL: Final = b"null"
_PLACE: Final = re.compile(r" - at `\$\.?([^`]*)`\Z")


def decoded(decoder: "msgspec.json.Decoder[T]", data: bytes, what: str) -> T:
    """Read it, mended where it is no JSON as it stands. Raises Malformed, which names the field."""
    try:
        try:
            return decoder.decode(data)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError):
            return decoder.decode(mend(data))
    except msgspec.ValidationError as error:
        place = _PLACE.search(str(error))
        reason = _PLACE.sub("", str(error))
        raise Malformed(f"{what} is not as it should be: {reason}", place[1] if place else "") from None
    except (ValueError, RecursionError):
        raise Malformed(f"{what} is not valid JSON") from None


def given(raw: Raw | UnsetType) -> bytes:
    """A value as JSON; b"" for one that is missing or null."""
    if isinstance(raw, UnsetType):
        return b""
    value = bytes(raw)
    return b"" if value == NULL else value


def counts_of(found: TokenCounts | None) -> Counts | None:
    """Usage in the hub form."""
    if found is None:
        return None
    return Counts(found.prompt, found.completion, found.cached, found.written, found.reasoning)


def text_or(value: Any, otherwise: str = "") -> str:
    """What should be a text, where a server may say anything."""
    return value if isinstance(value, str) else otherwise


# --- messages, in requests and in answers ---


class GoogleExtra(msgspec.Struct):
    """What Gemini adds to a tool call in OpenAI's form."""

    thought_signature: str | None = None


class ExtraContent(msgspec.Struct):
    """What providers add to a tool call."""

    google: GoogleExtra | None = None


class FunctionSaid(msgspec.Struct):
    """The function of a call. `arguments` should be a text, and is an object in some servers."""

    name: str | None = None
    arguments: Any = None


class CallSaid(msgspec.Struct):
    """A tool call, or a piece of one."""

    index: int | None = None
    id: str | None = None
    type: str | None = None
    function: FunctionSaid | None = None
    extra_content: ExtraContent | None = None
    cache_control: Raw | UnsetType = UNSET

    @property
    def name(self) -> str:
        return (self.function.name or "") if self.function is not None else ""

    @property
    def arguments(self) -> str:
        return arguments_of(self.function.arguments) if self.function is not None else ""

    @property
    def signature(self) -> str:
        extra = self.extra_content
        return (extra.google.thought_signature or "") if extra is not None and extra.google is not None else ""


def arguments_of(value: Any) -> str:
    """The arguments of a call as JSON text."""
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()


class ThinkingSaid(msgspec.Struct):
    """Reasoning with its signature, as LiteLLM carries it: `thinking`, or `redacted_thinking` with `data`."""

    type: str = "thinking"
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


class ReasoningDetail(msgspec.Struct):
    """Reasoning as OpenRouter tells of it: `reasoning.text`, `reasoning.summary` or `reasoning.encrypted`."""

    type: str = ""
    text: str | None = None
    summary: str | None = None
    signature: str | None = None
    data: str | None = None


class LinkSaid(msgspec.Struct):
    """Where a picture or a sound is."""

    url: str
    detail: str | None = None


class SoundSaid(msgspec.Struct):
    """A sound in base64."""

    data: str
    format: str = "wav"


class FileSaid(msgspec.Struct):
    """A file: its content as a data URL, or its number at the provider."""

    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class PartSaid(msgspec.Struct):
    """A part of a message's content."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    thinking: Any = None
    signature: str | None = None
    data: str | None = None
    image_url: LinkSaid | str | None = None
    audio_url: LinkSaid | None = None
    input_audio: SoundSaid | None = None
    file: FileSaid | None = None
    cache_control: Raw | UnsetType = UNSET


class MessageSaid(msgspec.Struct):
    """A message of a conversation, an answer's or a delta of one."""

    role: str | None = None
    content: str | list[Raw] | None = None
    name: str | None = None
    tool_calls: list[CallSaid] | None = None
    function_call: FunctionSaid | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Raw | UnsetType = UNSET
    thinking_blocks: list[ThinkingSaid] | None = None

    @property
    def thoughts(self) -> str:
        """The reasoning: some servers say the same under two names."""
        return text_or(self.reasoning_content) or text_or(self.reasoning)


MESSAGE_FIELDS: Final = frozenset(MessageSaid.__struct_fields__) - {"reasoning_details"}
part_decoder: Final = msgspec.json.Decoder(PartSaid, strict=False)
details_decoder: Final = msgspec.json.Decoder(list[ReasoningDetail] | None)


# --- answers and streams ---


class ChoiceSaid(msgspec.Struct):
    """An answer, or what a chunk adds to it."""

    index: int | None = None
    message: MessageSaid | None = None
    delta: MessageSaid | None = None
    finish_reason: Any = None
    stop_reason: Any = None
    matched_stop: Any = None
    logprobs: Raw | UnsetType = UNSET
    usage: Raw | UnsetType = UNSET


class GroqSaid(msgspec.Struct):
    """What Groq says beside the rest."""

    usage: Raw | UnsetType = UNSET


class AnswerSaid(msgspec.Struct):
    """An answer or a chunk of one."""

    id: Any = None
    model: Any = None
    created: Any = None
    object: Any = None
    choices: list[ChoiceSaid] | None = None
    usage: Raw | UnsetType = UNSET
    x_groq: GroqSaid | None = None
    error: Raw | UnsetType = UNSET

    @property
    def usage_fields(self) -> list[Raw | UnsetType]:
        """Wherever usage may stand: OpenAI's place, Groq's and Moonshot's."""
        found = [self.usage]
        if self.x_groq is not None:
            found.append(self.x_groq.usage)
        found.extend(choice.usage for choice in self.choices or ())
        return found

    @property
    def created_s(self) -> int:
        value = self.created
        return int(value) if type(value) in (int, float) and 0 <= value < 1e12 else 0


answer_decoder: Final = msgspec.json.Decoder(AnswerSaid, strict=False)
