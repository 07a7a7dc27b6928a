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
    max_tokens: _Bound = None
    max_completion_tokens: _Bound = None
    n: _Count = None
    best_of: _Count = None
    prompt: Raw | UnsetType = UNSET


class StreamOptions(msgspec.Struct):
    """What a request wants of its stream."""

    include_usage: bool | None = None


class Request(msgspec.Struct):
    """What a request asks for: its model, whether it wants a stream, and usage in it, how long and how many answers.

    `prompts`: to how many prompts it wants them; a text completion may have many.
    """

    model: str
    stream: bool
    stream_usage: bool
    max_output_tokens: int | None = None
    choices: int = 1
    prompts: int = 1


class Answer(msgspec.Struct):
    """An answer in one piece; what stands there may be anything."""

    usage: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class UsageFigures(msgspec.Struct):
    """What an answer calls its usage; what stands there may be anything."""

    prompt_tokens: Any = None
    completion_tokens: Any = None
    total_tokens: Any = None
    prompt_tokens_details: Any = None


class UsualAnswer(msgspec.Struct):
    """An answer whose usage is an object."""

    usage: UsageFigures | None = None


class Choice(msgspec.Struct):
    """One of an answer's texts."""

    text: Any = None
    message: Any = None


class Choices(msgspec.Struct):
    """An answer's texts."""

    choices: list[Choice] = []


class Chunk(msgspec.Struct):
    """An event of a stream; what stands there may be anything."""

    choices: Raw | UnsetType = UNSET
    usage: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class FinishedChoice(msgspec.Struct):
    """How one text of a stream ended."""

    finish_reason: str | None = None
