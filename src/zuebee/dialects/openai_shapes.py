"""What is read of OpenAI's bodies, as msgspec reads it."""

import re
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from zuebee.dialects import json_text

MAX_TOKENS = 10**9
MAX_CHOICES = 10_000
_Bound = Annotated[int, Meta(ge=-1, le=MAX_TOKENS)] | None  # -1: some servers' word for no bound
_Count = Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None


class Peek(msgspec.Struct):
    """What decides over a request."""

    model: str = ""
    stream: bool | None = None
    stream_options: Raw | UnsetType = UNSET
    max_tokens: _Bound | UnsetType = UNSET
    max_completion_tokens: _Bound | UnsetType = UNSET
    n: _Count = None
    best_of: _Count = None
    prompt: Raw | UnsetType = UNSET


class StreamOptions(msgspec.Struct):
    """What a request wants of its stream."""

    include_usage: bool | None = None


class Request(msgspec.Struct):
    """What a request asks for: its model, whether it wants a stream, and usage in it, how long and how many answers.

    `prompts`: to how many prompts it wants them; a text completion may have many. `places`: where in the body the
    values of fields stand, from and to; of what the gateway might write itself (`stream_options` and the bounds) all
    that are there without saying what it would. `media`: how many pictures, sounds and files are in it, `media_bytes`
    of the body are theirs.
    """

    model: str
    stream: bool
    stream_usage: bool
    max_output_tokens: int | None = None
    choices: int = 1
    prompts: int = 1
    places: dict[str, tuple[int, int]] | None = None
    media: int = 0
    media_bytes: int = 0


class Answer(msgspec.Struct):
    """An answer in one piece; what stands there may be anything."""

    usage: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    object: Raw | UnsetType = UNSET


class UsageFigures(msgspec.Struct):
    """What an answer calls its usage; what stands there may be anything."""

    prompt_tokens: Any = None
    completion_tokens: Any = None
    total_tokens: Any = None
    prompt_tokens_details: Any = None
    completion_tokens_details: Any = None
    input_tokens: Any = None
    output_tokens: Any = None
    input_tokens_details: Any = None
    output_tokens_details: Any = None
    reasoning_tokens: Any = None
    cached_tokens: Any = None
    prompt_cache_hit_tokens: Any = None
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None

    def is_plain(self) -> bool:
        """Whether nothing is said but prompt, completion and total."""
        return (
            self.prompt_tokens_details
            is self.completion_tokens_details
            is self.reasoning_tokens
            is self.cached_tokens
            is self.prompt_cache_hit_tokens
            is self.cache_read_input_tokens
            is self.cache_creation_input_tokens
            is None
        )


class UsualAnswer(msgspec.Struct):
    """An answer whose usage is an object."""

    usage: UsageFigures | None = None


class Choice(msgspec.Struct):
    """One of an answer's texts."""

    text: Raw | UnsetType = UNSET
    message: Raw | UnsetType = UNSET


class Choices(msgspec.Struct):
    """An answer's texts."""

    choices: Raw = Raw(b"[]")


class SaidInChoice(msgspec.Struct):
    """What some servers say in a choice."""

    usage: Raw | UnsetType = UNSET


class Groq(msgspec.Struct):
    """What Groq says beside the rest of a chunk."""

    usage: Raw | UnsetType = UNSET


class Chunk(msgspec.Struct):
    """An event of a stream, as a rule; what stands there may be anything."""

    choices: Raw
    usage: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    x_groq: Raw | UnsetType = UNSET


class AnyChunk(msgspec.Struct):
    """The same, where anything may be missing."""

    choices: Raw | UnsetType = UNSET
    usage: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET
    x_groq: Raw | UnsetType = UNSET
    object: Raw | UnsetType = UNSET


class FinishedChoice(msgspec.Struct):
    """How one text of a stream ended; what stands there may be anything."""

    finish_reason: Any = None
    index: Any = 0


# How much text stands in the chunks of a stream: for estimates, where nobody counts their tokens.

BYTES_PER_TOKEN = 4


class _Function(msgspec.Struct):
    name: Any = None
    arguments: Any = None


class _Call(msgspec.Struct):
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    text: Any = None
    delta: _Delta | None = None


_choices = msgspec.json.Decoder(list[_Choice])


def text_bytes(choices: Raw | UnsetType) -> int:
    """The bytes of text in a chunk's choices: answers, reasoning and the arguments of tools, without their wrapping.

    What has another form counts with all its bytes.
    """
    if not isinstance(choices, Raw):
        return 0
    try:
        found = _choices.decode(choices)
    except (ValueError, RecursionError):
        return len(bytes(choices))
    return sum(_size(choice.text) + _delta_bytes(choice.delta) for choice in found)


def _delta_bytes(delta: _Delta | None) -> int:
    if delta is None:
        return 0
    # Some servers say the same reasoning under two names.
    size = _size(delta.content) + max(_size(delta.reasoning_content), _size(delta.reasoning)) + _size(delta.refusal)
    for call in delta.tool_calls or ():
        if call.function is not None:
            size += _size(call.function.name) + _size(call.function.arguments)
    return size


def _size(value: Any) -> int:
    if value is None:
        return 0
    return len(value.encode("utf-8", "replace") if isinstance(value, str) else msgspec.json.encode(value))


# Values of a request that are not of the type that OpenAI names, and that servers take all the same.
#
# vLLM, SGLang and others read a body by pydantic's rules, for which `100.0` and `"10"` are numbers, `1` and `"yes"`
# truth values. What one of them would obey is read here as it reads it: a bound that is held must be the bound that
# counts.

_NUMBERS: Final = ("max_tokens", "max_completion_tokens", "n", "best_of")
_MAX_DIGITS: Final = 32
_WHOLE: Final = re.compile(r"[+-]?[0-9]+(?:_[0-9]+)*(?:\.0+)?")
_YES: Final = frozenset({"1", "on", "t", "true", "y", "yes"})
_NO: Final = frozenset({"0", "off", "f", "false", "n", "no"})

_value: Final = msgspec.json.Decoder(str | float | bool | None).decode


def typed(name: str, raw: bytes) -> bytes:
    """The value of a field as JSON of the type that it should have; as it is, where no server would take it."""
    if name == "stream_options":
        return _options(raw)
    try:
        value = _value(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):  # a list, an object
        return raw
    if name == "model":
        return b'""' if value is None else raw
    found = _truth(value) if name == "stream" else _number(value) if name in _NUMBERS else None
    return raw if found is None else found


def _number(value: str | float | bool | None) -> bytes | None:
    if isinstance(value, str):
        text = value.strip()
        if len(text) > _MAX_DIGITS or not _WHOLE.fullmatch(text):
            return None
        return b"%d" % int(text.partition(".")[0])
    if value is None or not float(value).is_integer():
        return None
    return b"%d" % int(value)


def _truth(value: str | float | bool | None) -> bytes | None:
    if isinstance(value, str):
        word = value.lower()
        return b"true" if word in _YES else b"false" if word in _NO else None
    return None if value is None or value not in (0, 1) else b"true" if value else b"false"


def _options(raw: bytes) -> bytes:
    try:
        found = json_text.fields(raw)
    except (json_text.NotJson, json_text.TooMany, RecursionError):
        return raw
    said = [raw[start:end] for name, start, end in found if name == "include_usage"]
    return b'{"include_usage":%b}' % (typed("stream", said[-1])) if said else b"{}"
