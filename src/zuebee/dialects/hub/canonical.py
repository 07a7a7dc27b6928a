"""PURE. The hub form: what a chat request, its answer and its stream mean, whatever dialect they are written in.

Each dialect reads its own bytes into this form and writes them from it (`dialects/base.py`), so that n dialects need n
converters, not n times n. It is used only where the client's dialect is not the backend's: then nothing can pass byte
for byte. What has no place here rides along as `Opaque` bytes, or is refused by the field's name, or is dropped and
named in a warning (`Omissions`).
"""

import re
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec

# --- parts of a message ---


class Text(msgspec.Struct):
    """Text. `cache`: the JSON of its `cache_control` mark, b"" without one."""

    text: str
    cache: bytes = b""


class Media(msgspec.Struct):
    """A picture, a document or a sound: `data` in base64, or else a `url`.

    `media_type` as in MIME (`image/png`, `application/pdf`, `audio/wav`), empty where only the URL knows. `detail`: of
    pictures, `low`, `high` or `auto`. `name`: a file name or a title.
    """

    kind: Literal["image", "document", "audio"]
    media_type: str = ""
    data: str = ""
    url: str = ""
    detail: str = ""
    name: str = ""
    cache: bytes = b""


class FunctionCall(msgspec.Struct):
    """A call that the model asks for. `arguments` is JSON text as the model wrote it, which may not be valid.

    `signature`: opaque, of the model that made it (Gemini's thought signature); it goes back as it came.
    """

    id: str
    name: str
    arguments: str
    signature: str = ""
    cache: bytes = b""


class ToolResult(msgspec.Struct):
    """What came of the call of that `id`. `name`: of the tool, where it is known."""

    id: str
    parts: "list[Text | Media | Opaque]"
    is_error: bool = False
    name: str = ""
    cache: bytes = b""


class Thinking(msgspec.Struct):
    """Reasoning that is shown. `signature`: opaque; without it the model that wrote it may refuse to see it again.

    `redacted`: reasoning that only its model can read, instead of `text`.
    """

    text: str = ""
    signature: str = ""
    redacted: str = ""


SIGNED_BY_GEMINI = "gemini:"
"""Stands before a signature of Gemini that clients see as one of reasoning: no other model can read it, and a Gemini
none of theirs. (Signatures of tool calls are Gemini's alone; they need no such mark.)"""


class Declined(msgspec.Struct):
    """The model's own words why it does not answer (OpenAI's `refusal`)."""

    text: str


class Opaque(msgspec.Struct):
    """JSON of one dialect that has no meaning here: it passes to a backend of that dialect, byte for byte.

    `where` names it for people (`messages[2].content[0]`), `type` as its dialect calls it.
    """

    dialect: str
    raw: bytes
    where: str = ""
    type: str = ""


Part: TypeAlias = Text | Media | FunctionCall | ToolResult | Thinking | Declined | Opaque


class ChatMessage(msgspec.Struct):
    """One entry of a conversation. Results of tools stand in those of `user` or `tool`; `system` may come anywhere."""

    role: Literal["system", "user", "assistant", "tool"]
    parts: list[Part]
    name: str = ""


# --- a request ---


class FunctionTool(msgspec.Struct):
    """A function that the model may call. `schema`: JSON Schema of its arguments as it came, b"" without one."""

    name: str
    description: str = ""
    schema: bytes = b""
    strict: bool | None = None
    cache: bytes = b""


class ToolChoice(msgspec.Struct):
    """Whether the model calls a tool: as it likes, never, at least one, or the one of that `name`."""

    mode: Literal["auto", "none", "required", "named"]
    name: str = ""


class ResponseFormat(msgspec.Struct):
    """The answer is to be JSON; of that `schema` where one is given."""

    schema: bytes = b""
    name: str = ""
    description: str = ""
    strict: bool | None = None


Effort: TypeAlias = Literal["", "none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Reasoning(msgspec.Struct):
    """How much the model is to think: an `effort`, or a budget in tokens; `enabled` None leaves it to the model.

    `adaptive`: the model decides how much. `visible` False: think, but do not show it.
    """

    enabled: bool | None = None
    effort: Effort = ""
    budget_tokens: int | None = None
    adaptive: bool = False
    visible: bool = True


class ChatRequest(msgspec.Struct):
    """What a client asks for. `extra`: fields that this form does not know, by name, as JSON.

    None: the caller did not say. `dialect`: the one that it was read from.
    """

    dialect: str
    model: str
    messages: list[ChatMessage]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: list[str] = []
    n: int = 1
    stream: bool = False
    stream_usage: bool = False
    tools: list[FunctionTool | Opaque] = []
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning: Reasoning | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    user: str = ""
    extra: dict[str, bytes] = {}


# --- an answer ---

StopReason: TypeAlias = Literal["stop", "length", "stop_sequence", "tool_calls", "content_filter", "pause"]
"""`stop_sequence`: one that the caller gave. `pause`: the model wants to go on in another turn. `content_filter`: the
model or its provider does not answer."""


class Counts(msgspec.Struct):
    """Tokens, in OpenAI's sense: `prompt` has all that was read, cached or not, `completion` all that was made,
    reasoning among it. `cached` of the prompt were read from a cache, `written` of it went into one."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    written: int = 0
    reasoning: int = 0


class AnswerChoice(msgspec.Struct):
    """One of the answers to a request. `logprobs`: JSON in OpenAI's shape, b"" without."""

    parts: list[Part]
    stop: StopReason = "stop"
    stop_sequence: str = ""
    logprobs: bytes = b""


class ChatAnswer(msgspec.Struct):
    """A whole answer. `usage` is None where the backend told of none. `created_s`: Unix time, 0 if not told."""

    id: str
    model: str
    choices: list[AnswerChoice]
    usage: Counts | None = None
    created_s: int = 0


# --- a stream: what each event adds, in order ---


class Begin(msgspec.Struct):
    """First of all. `usage`: what is known of the prompt by now."""

    id: str = ""
    model: str = ""
    usage: Counts | None = None
    created_s: int = 0


class TextDelta(msgspec.Struct):
    """More text of the answer with that index."""

    text: str
    choice: int = 0
    logprobs: bytes = b""


class ThinkingDelta(msgspec.Struct):
    """More reasoning. `signature` and `redacted` come whole, without text."""

    text: str = ""
    signature: str = ""
    redacted: str = ""
    choice: int = 0


class DeclinedDelta(msgspec.Struct):
    """More of the words why the model does not answer."""

    text: str
    choice: int = 0


class CallBegin(msgspec.Struct):
    """A tool call begins. `call` numbers the calls of one answer from 0 on; its arguments follow as `CallDelta`."""

    call: int
    id: str
    name: str
    signature: str = ""
    choice: int = 0


class CallDelta(msgspec.Struct):
    """More of the arguments of that call: a piece of JSON text."""

    call: int
    arguments: str
    choice: int = 0


class FinishDelta(msgspec.Struct):
    """The answer with that index is over, and why."""

    reason: StopReason
    stop_sequence: str = ""
    choice: int = 0


class UsageDelta(msgspec.Struct):
    """Figures of usage: always of the whole request so far, the last ones count."""

    usage: Counts


class FailureDelta(msgspec.Struct):
    """The backend says in its stream that it failed. `status` as HTTP would have had it, 0 if it cannot be told."""

    status: int
    type: str
    code: str
    message: str


class Over(msgspec.Struct):
    """The stream is whole: nothing more comes."""


Delta: TypeAlias = (
    Begin
    | TextDelta
    | ThinkingDelta
    | DeclinedDelta
    | CallBegin
    | CallDelta
    | FinishDelta
    | UsageDelta
    | FailureDelta
    | Over
)

# --- what does not fit ---


class NotCarried(Exception):
    """A field of the request means something that the backend's dialect cannot say, and leaving it out would give
    another answer than was asked for. `field` is its name as the client wrote it."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"The field `{field}` cannot be carried to this model's provider: {why}")
        self.field = field


class Malformed(Exception):
    """A request, an answer or an event is not what its dialect says it must be. `field`: which part of it."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


MAX_DROPPED = 32


class Omissions:
    """What was left out of one request on its way into another dialect, by the fields' names; for a warning header."""

    def __init__(self) -> None:
        self.dropped: list[str] = []

    def drop(self, field: str) -> None:
        """Note that a field is left out. Of more than MAX_DROPPED no note is taken."""
        if field not in self.dropped and len(self.dropped) < MAX_DROPPED:
            self.dropped.append(field)


def text_of(parts: Sequence[Part], between: str = "") -> str:
    """The text of all `Text` parts, joined."""
    return between.join([part.text for part in parts if isinstance(part, Text)])


_NO_ID_CHARACTERS: Final = re.compile(r"[^A-Za-z0-9_-]")
MAX_ID: Final = 40


def made_id(answer: str, index: int) -> str:
    """For a call without an id: other dialects need one, and no other of the conversation may have it."""
    known = _NO_ID_CHARACTERS.sub("", answer)[-MAX_ID:]
    return f"call_{known}_{index}" if known else f"call_{index}"


_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def arguments_object(arguments: str) -> msgspec.Raw | dict[str, str]:
    """The arguments of a call as the object that they must be; what is none stands in one, under `arguments`."""
    if not arguments.strip():
        return {}
    try:
        _object(arguments)
    except (ValueError, RecursionError):
        return {"arguments": arguments}
    return msgspec.Raw(arguments.encode("utf-8", "replace"))
