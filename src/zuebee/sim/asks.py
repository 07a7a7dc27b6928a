"""PURE. What clients ask: the bodies of requests, decoded and checked as vLLM checks them."""

from typing import Annotated, Any, TypeVar

import msgspec

from zuebee.sim.faults import MODEL_PREFIX, Wish
from zuebee.sim.messages import Refused
from zuebee.sim.settings import SimSettings
from zuebee.sim.text import count_tokens

MAX_CHOICES = 128
MAX_ANSWER_TOKENS = 1_000_000
_TOKENS_PER_MESSAGE = 4
_TOKENS_PER_CHAT = 3

Positive = Annotated[int, msgspec.Meta(ge=1)]
Choices = Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)]
TokenIds = list[int]


class StreamOptions(msgspec.Struct, frozen=True):
    """Which usage a stream carries; `continuous_usage_stats` means nothing without `include_usage`."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class ContentPart(msgspec.Struct, frozen=True):
    """A part of a message; parts without text count for nothing."""

    type: str
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    """A message of a chat."""

    role: str
    content: str | list[ContentPart] | None = None

    @property
    def text(self) -> str:
        """All text of the message."""
        if isinstance(self.content, list):
            return "".join(part.text or "" for part in self.content)
        return self.content or ""


class Function(msgspec.Struct, frozen=True):
    """A function that the model may call; `parameters` is a JSON schema."""

    name: str
    parameters: dict[str, Any] | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool of a chat request."""

    function: Function
    type: str = "function"


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """What chat and text completions have in common."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Positive | None = None
    n: Choices | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    ignore_eos: bool | None = None
    sim: Wish | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens that each choice may have."""
        return self.max_tokens

    @property
    def stops(self) -> list[str]:
        """The strings that end an answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class ChatAsk(Generation, frozen=True, kw_only=True):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    max_completion_tokens: Positive | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens that each choice may have."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def prompt_tokens(self) -> int:
        """Four bytes are a token; a message costs four more, the chat three."""
        if self.sim is not None and self.sim.prompt_tokens is not None:
            return self.sim.prompt_tokens
        texts = sum(count_tokens(message.text) for message in self.messages)
        return texts + _TOKENS_PER_MESSAGE * len(self.messages) + _TOKENS_PER_CHAT


class CompletionAsk(Generation, frozen=True, kw_only=True):
    """The body of `POST /v1/completions`."""

    prompt: str | list[str | int | TokenIds]

    @property
    def prompts(self) -> list[str | TokenIds]:
        """The prompts, each a text or a list of token numbers."""
        return prompts(self.prompt)

    @property
    def prompt_tokens(self) -> int:
        """Four bytes are a token."""
        if self.sim is not None and self.sim.prompt_tokens is not None:
            return self.sim.prompt_tokens
        return sum(prompt_size(prompt) for prompt in self.prompts)


class EmbeddingAsk(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /v1/embeddings`."""

    input: str | list[str | int | TokenIds]
    model: str | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None
    encoding_format: str = "float"
    sim: Wish | None = None

    @property
    def inputs(self) -> list[str | TokenIds]:
        """The texts to embed, each a text or a list of token numbers."""
        return prompts(self.input)

    @property
    def prompt_tokens(self) -> int:
        """Four bytes are a token."""
        if self.sim is not None and self.sim.prompt_tokens is not None:
            return self.sim.prompt_tokens
        return sum(prompt_size(text) for text in self.inputs)


def prompts(given: str | list[str | int | TokenIds]) -> list[str | TokenIds]:
    """Return the prompts of a field that takes a text, texts, token numbers or lists of them."""
    if isinstance(given, str):
        return [given]
    numbers = [item for item in given if isinstance(item, int)]
    if numbers:
        return [numbers]
    return [item for item in given if not isinstance(item, int)]


def prompt_size(prompt: str | TokenIds) -> int:
    """Return how many tokens a prompt counts for."""
    return count_tokens(prompt) if isinstance(prompt, str) else len(prompt)


Ask = TypeVar("Ask", ChatAsk, CompletionAsk, EmbeddingAsk)


def decode(body: bytes, kind: type[Ask]) -> Ask:
    """Return the body as a `kind`; raise Refused (400) that says what is wrong and where.

    `10.0` and `"10"` are taken for numbers, 1 and `"true"` for truth values, and a byte order mark for nothing.
    """
    try:
        return msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"), type=kind, strict=False)
    except msgspec.ValidationError as error:
        raise Refused(400, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, f"The body is not valid JSON: {error}") from None


def model_of(name: str | None, settings: SimSettings) -> str:
    """Return the model to answer as; raise Refused (404) for a model that is not served."""
    if name is None:
        return settings.models[0]
    if name not in settings.models and not name.startswith(MODEL_PREFIX):
        raise Refused(404, f"The model `{name}` does not exist.", param="model")
    return name


def answer_size(ask: Generation, prompt_tokens: int, choices: int, settings: SimSettings) -> tuple[int, bool]:
    """Return the tokens of each choice, and whether the answer ends by itself rather than by its limit.

    Raise Refused (400) when the context is too small, or the whole answer too large to simulate.
    """
    room = settings.max_model_tokens - prompt_tokens
    limit = ask.limit
    if room < (limit or 1):
        raise Refused(
            400,
            f"This model's maximum context length is {settings.max_model_tokens} tokens, and you requested "
            f"{prompt_tokens} tokens in the prompt and {limit or 1} for the answer.",
        )
    wanted = (ask.sim.tokens if ask.sim else None) or settings.tokens
    if ask.ignore_eos:
        wanted = limit or room
    size = min(wanted, limit or room, room)
    if size * choices > MAX_ANSWER_TOKENS:
        raise Refused(400, f"An answer of {size * choices} tokens is too long: at most {MAX_ANSWER_TOKENS}.")
    return size, size == wanted and not ask.ignore_eos


def check_stream_options(ask: Generation) -> None:
    """Raise Refused (400) for stream options without a stream."""
    if ask.stream_options is not None and not ask.stream:
        raise Refused(400, "Stream options can only be set when `stream` is true.", param="stream_options")
