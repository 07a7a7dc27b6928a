"""PURE. What clients ask: the bodies of requests, decoded and checked as vLLM checks them."""

import re
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from zuebee.sim.base import SimRefused, SimSettings, Token, count_tokens
from zuebee.sim.wire import MODEL_PREFIX, Wish

MAX_CHOICES = 128
MAX_ANSWER_TOKENS = 1_000_000
_TOKENS_PER_MESSAGE = 4
_TOKENS_PER_CHAT = 3

Positive = Annotated[int, msgspec.Meta(ge=1)]
Choices = Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)]
TokenIds = list[int]


class SimStreamOptions(msgspec.Struct, frozen=True):
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
    stream_options: SimStreamOptions | None = None
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
        raise SimRefused(400, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SimRefused(400, f"The body is not valid JSON: {error}") from None


def model_of(name: str | None, settings: SimSettings) -> str:
    """Return the model to answer as; raise Refused (404) for a model that is not served."""
    if name is None:
        return settings.models[0]
    if name not in settings.models and not name.startswith(MODEL_PREFIX):
        raise SimRefused(404, f"The model `{name}` does not exist.", param="model")
    return name


def answer_size(ask: Generation, prompt_tokens: int, choices: int, settings: SimSettings) -> tuple[int, bool]:
    """Return the tokens of each choice, and whether the answer ends by itself rather than by its limit.

    Raise Refused (400) when the context is too small, or the whole answer too large to simulate.
    """
    room = settings.max_model_tokens - prompt_tokens
    limit = ask.limit
    if room < (limit or 1):
        raise SimRefused(
            400,
            f"This model's maximum context length is {settings.max_model_tokens} tokens, and you requested "
            f"{prompt_tokens} tokens in the prompt and {limit or 1} for the answer.",
        )
    wanted = (ask.sim.tokens if ask.sim else None) or settings.tokens
    if ask.ignore_eos:
        wanted = limit or room
    size = min(wanted, limit or room, room)
    if size * choices > MAX_ANSWER_TOKENS:
        raise SimRefused(400, f"An answer of {size * choices} tokens is too long: at most {MAX_ANSWER_TOKENS}.")
    return size, size == wanted and not ask.ignore_eos


def check_stream_options(ask: Generation) -> None:
    """Raise Refused (400) for stream options without a stream."""
    if ask.stream_options is not None and not ask.stream:
        raise SimRefused(400, "Stream options can only be set when `stream` is true.", param="stream_options")


# When the model calls tools, and with which arguments.

PIECE_CHARACTERS = 6
"""A token of a call's arguments."""

_MAX_DEPTH = 8
_WORDS = ("Berlin", "harbour", "tomorrow", "copper", "library")


class ToolCall(NamedTuple):
    """One call: its id, the function's name, and its arguments as JSON text."""

    id: str
    name: str
    arguments: str


def choose(ask: ChatAsk, seed: int) -> list[ToolCall]:
    """Return the calls that answer the request; none when it is to be answered with text.

    Called are: the tool named by `tool_choice`, the first one for `required`, or those that the last message
    mentions, if it is the user's. Raise Refused (400) when `tool_choice` is not among the tools.
    """
    chosen = _chosen(ask)
    if ask.parallel_tool_calls is False:
        chosen = chosen[:1]
    return [
        ToolCall(f"call_{seed:08x}{place:04x}", tool.function.name, _arguments(tool, seed + place))
        for place, tool in enumerate(chosen)
    ]


def _chosen(ask: ChatAsk) -> list[Tool]:
    tools, choice = ask.tools or [], ask.tool_choice
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        named = [tool for tool in tools if tool.function.name == name]
        if not named:
            raise SimRefused(400, "The function of `tool_choice` is not among `tools`.", param="tool_choice")
        return named[:1]
    if choice not in (None, "none", "auto", "required") or (choice == "required" and not tools):
        raise SimRefused(400, f"`tool_choice` cannot be {choice!r} here.", param="tool_choice")
    last = ask.messages[-1]
    if choice == "none" or (last.role != "user" and choice != "required"):
        return []
    words = set(re.findall(r"[\w.-]+", last.text))
    mentioned = [tool for tool in tools if tool.function.name in words]
    return mentioned or (tools[:1] if choice == "required" else [])


def _arguments(tool: Tool, seed: int) -> str:
    value = _example(tool.function.parameters or {"type": "object"}, seed, 0)
    return msgspec.json.encode(value if isinstance(value, dict) else {}).decode()


def _example(schema: Any, seed: int, depth: int) -> Any:
    """Return a value that fits the types, enumerations and properties of a JSON schema."""
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return None
    if options := schema.get("enum"):
        return options[seed % len(options)] if isinstance(options, list) else options
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties")
        named = properties.items() if isinstance(properties, dict) else ()
        return {name: _example(part, seed + place, depth + 1) for place, (name, part) in enumerate(named)}
    simple = {"string": _WORDS[seed % len(_WORDS)], "integer": seed % 100, "number": seed % 100 / 4}
    simple |= {"boolean": seed % 2 == 0, "null": None}
    if kind == "array":
        return [_example(schema["items"], seed, depth + 1)] if "items" in schema else []
    return simple.get(kind if isinstance(kind, str) else "string", None)


def call_tokens(call: ToolCall, place: int) -> list[Token]:
    """Return a call as stream deltas: its id and name first, then its arguments piece by piece."""
    opening = {
        "index": place,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": ""},
    }
    text, size = call.arguments, PIECE_CHARACTERS
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    return [_delta(opening)] + [_delta({"index": place, "function": {"arguments": piece}}) for piece in pieces]


def _delta(part: dict[str, Any]) -> Token:
    return Token("", b"", msgspec.json.encode({"tool_calls": [part]}))


def message(calls: list[ToolCall]) -> list[dict[str, Any]]:
    """Return the calls as the `tool_calls` of a message that is not streamed."""
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


def cut(calls: list[ToolCall], limit: int) -> list[ToolCall]:
    """Return what `limit` tokens of the calls say: the last one breaks off in its arguments."""
    kept = []
    for call in calls:
        if limit <= 0:
            break
        kept.append(call._replace(arguments=call.arguments[: (limit - 1) * PIECE_CHARACTERS]))
        limit -= 1 + -(-len(call.arguments) // PIECE_CHARACTERS)
    return kept
