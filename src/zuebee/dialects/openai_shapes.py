"""What is read of OpenAI's bodies, as msgspec reads it."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

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
