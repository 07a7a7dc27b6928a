"""PURE. Answers of the model: chat, completions, embeddings and the list of models, as replies."""

import base64
import hashlib
import math
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from zuebee.sim import asks
from zuebee.sim.asks import (
    ChatAsk,
    CompletionAsk,
    EmbeddingAsk,
    Generation,
    TokenIds,
    answer_size,
    check_stream_options,
    prompt_size,
)
from zuebee.sim.base import (
    CREATED_S,
    DONE,
    EVENT_STREAM,
    Reply,
    Send,
    SimRefused,
    SimSettings,
    Step,
    Token,
    Wait,
    cut_at,
    json_reply,
    seed_of,
    tokens,
)
from zuebee.sim.wire import UsageKind

# An answer of one or more choices, rendered as one JSON body or as a stream of events.
#
# Everything in a frame that does not change from token to token is made once; a token costs one join of bytes.

_HOSTILE: dict[UsageKind, bytes | None] = {
    "negative": b'{"prompt_tokens":-5,"total_tokens":-12,"completion_tokens":-7}',
    "huge": b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}' % (2**63, 2**64, 2**63),
    "string": b'{"prompt_tokens":"12","total_tokens":"19","completion_tokens":"seven"}',
    "float": b'{"prompt_tokens":12.5,"total_tokens":1e300,"completion_tokens":6.5}',
    "exponent": b'{"prompt_tokens":1e308,"total_tokens":1e308,"completion_tokens":1e308}',
    # Not JSON (RFC 8259, section 6), though Python's json module writes and reads both.
    "nan": b'{"prompt_tokens":NaN,"total_tokens":NaN,"completion_tokens":NaN}',
    "infinity": b'{"prompt_tokens":Infinity,"total_tokens":Infinity,"completion_tokens":-Infinity}',
    "bool": b'{"prompt_tokens":true,"total_tokens":true,"completion_tokens":true}',
    "nested": b'{"prompt_tokens":{"prompt_tokens":-5},"total_tokens":{},"completion_tokens":{"tokens":[-7]}}',
    "list": b'[{"prompt_tokens":-5,"total_tokens":-12,"completion_tokens":-7}]',
    "null_figures": b'{"prompt_tokens":null,"total_tokens":null,"completion_tokens":null}',
    "cached": b'{"prompt_tokens":12,"total_tokens":19,"completion_tokens":7,'
    b'"prompt_tokens_details":{"cached_tokens":9223372036854775808}}',
    "null": b"null",
    "missing": None,
}


class Shape(NamedTuple):
    """How one of the two endpoints names things."""

    body: str
    frame: str
    field: bytes
    """What of a choice grows in a stream."""
    tail: bytes
    chat: bool


CHAT = Shape("chat.completion", "chat.completion.chunk", b"delta", b'"logprobs":null', True)
TEXT = Shape("text_completion", "text_completion", b"text", b'"logprobs":null', False)


class PlannedChoice(NamedTuple):
    """One choice: its tokens, how it finished, and its tool calls if it has any."""

    tokens: list[Token]
    finish: str
    calls: list[asks.ToolCall]

    @property
    def text(self) -> str:
        """What the tokens say."""
        return "".join(token.text for token in self.tokens)


class Pace(NamedTuple):
    """When tokens come."""

    first_s: float
    gap_s: float


class PlannedAnswer(NamedTuple):
    """An answer before it is rendered."""

    shape: Shape
    id: str
    model: str
    choices: list[PlannedChoice]
    prompt_tokens: int
    hostile: UsageKind | None
    cached_tokens: int | None = None

    @property
    def completion_tokens(self) -> int:
        """The tokens of all choices."""
        return sum(len(choice.tokens) for choice in self.choices)

    def usage(self, done: int) -> bytes | None:
        """Return the usage object after `done` tokens; None when there is to be none at all."""
        return usage_json(self.prompt_tokens, done, self.hostile, self.cached_tokens)


def usage_json(
    prompt_tokens: int, completion_tokens: int, hostile: UsageKind | None, cached_tokens: int | None = None
) -> bytes | None:
    """Return the usage object; None when there is to be none at all."""
    if hostile is not None:
        return _HOSTILE[hostile]
    details = b"" if cached_tokens is None else b',"prompt_tokens_details":{"cached_tokens":%d}' % cached_tokens
    return b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d%b}' % (
        prompt_tokens,
        prompt_tokens + completion_tokens,
        completion_tokens,
        details,
    )


def body(answer: PlannedAnswer) -> bytes:
    """Return the answer as one JSON body."""
    choices = []
    for index, choice in enumerate(answer.choices):
        said: dict[str, Any] = {"text": choice.text}
        if answer.shape.chat:
            message: dict[str, Any] = {"role": "assistant", "content": None if choice.calls else choice.text}
            if choice.calls:
                message["tool_calls"] = asks.message(choice.calls)
            said = {"message": message}
        choices.append({"index": index, **said, "logprobs": None, "finish_reason": choice.finish})
    value: dict[str, Any] = {
        "id": answer.id,
        "object": answer.shape.body,
        "created": CREATED_S,
        "model": answer.model,
        "choices": choices,
    }
    usage = answer.usage(answer.completion_tokens)
    if usage is not None:
        value["usage"] = msgspec.Raw(usage)
    return msgspec.json.encode(value)


class _Frames:
    """The frames of one stream."""

    def __init__(self, answer: PlannedAnswer, continuous: bool) -> None:
        shape = answer.shape
        self._start = b'data: {"id":%b,"object":%b,"created":%d,"model":%b,"choices":[' % (
            msgspec.json.encode(answer.id),
            msgspec.json.encode(shape.frame),
            CREATED_S,
            msgspec.json.encode(answer.model),
        )
        self._shape, self._answer, self._continuous = shape, answer, continuous
        self._before = [
            self._start + b'{"index":%d,"%b":' % (index, shape.field) for index in range(len(answer.choices))
        ]
        self._after = b',%b,"finish_reason":null}]' % shape.tail

    def _end(self, done: int) -> bytes:
        if self._continuous:
            usage = self._answer.usage(done)
            if usage is not None:
                return b',"usage":%b}\n\n' % usage
        return b"}\n\n"

    def role(self, index: int) -> Send:
        """Return the first event of a choice of a chat."""
        delta = b'{"role":"assistant","content":""}'
        return Send(b"".join((self._before[index], delta, self._after, self._end(0))), 1)

    def token(self, index: int, token: Token, done: int) -> Send:
        """Return the event of one token, `done` tokens being sent with it."""
        said = token.delta if self._shape.chat else token.json
        return Send(b"".join((self._before[index], said, self._after, self._end(done))), 1, 1)

    def finish(self, index: int, reason: str, done: int) -> Send:
        """Return the event that closes a choice."""
        nothing = b"{}" if self._shape.chat else b'""'
        after = b',%b,"finish_reason":"%b"}]' % (self._shape.tail, reason.encode())
        return Send(b"".join((self._before[index], nothing, after, self._end(done))), 1)

    def usage(self, done: int) -> Send | None:
        """Return the extra event with the usage of the whole answer and no choices."""
        usage = self._answer.usage(done)
        return None if usage is None else Send(b'%b],"usage":%b}\n\n' % (self._start, usage), 1)


def events(answer: PlannedAnswer, pace: Pace, *, include: bool, continuous: bool) -> Iterator[Step]:
    """Yield the events of the answer as they come: every choice says one token at a time.

    With `include`, the usage comes in an event of its own before `[DONE]`; with `continuous`, in every event.
    """
    frames, gap = _Frames(answer, continuous), Wait(pace.gap_s)
    if pace.first_s:
        yield Wait(pace.first_s)
    if answer.shape.chat:
        yield from (frames.role(index) for index in range(len(answer.choices)))
    done = 0
    for tick in range(max(len(choice.tokens) for choice in answer.choices) + 1):
        if gap.delay_s and tick:
            yield gap
        for index, choice in enumerate(answer.choices):
            if tick < len(choice.tokens):
                done += 1
                yield frames.token(index, choice.tokens[tick], done)
            elif tick == len(choice.tokens):
                yield frames.finish(index, choice.finish, done)
    last = frames.usage(done) if include else None
    if last is not None:
        yield last
    yield Send(DONE, 1)


MAX_INPUTS = 2048


def chat(ask: ChatAsk, answer_id: str, model: str, settings: SimSettings, hostile: UsageKind | None) -> Reply:
    """Answer a chat with text or tool calls; raise Refused for what vLLM refuses."""
    check_stream_options(ask)
    count = ask.n or 1
    size, whole = answer_size(ask, ask.prompt_tokens, count, settings)
    texts = (f"{message.role}: {message.text}\n" for message in ask.messages)
    seed = seed_of([model, str(ask.seed or 0), *texts])
    choices = []
    for index in range(count):
        calls = asks.choose(ask, seed + index)
        choices.append(_call_choice(ask, calls) if calls else _text_choice(ask, seed + index, size, whole))
    answer = PlannedAnswer(CHAT, f"chatcmpl-{answer_id}", model, choices, ask.prompt_tokens, hostile)
    return _reply(answer, ask, settings)


def completion(
    ask: CompletionAsk, answer_id: str, model: str, settings: SimSettings, hostile: UsageKind | None
) -> Reply:
    """Continue one or more prompts, `n` times each; raise Refused for what vLLM refuses."""
    check_stream_options(ask)
    if not ask.prompts:
        raise SimRefused(400, "At least one prompt is needed.", param="prompt")
    count = (ask.n or 1) * len(ask.prompts)
    size, whole = answer_size(ask, max(prompt_size(prompt) for prompt in ask.prompts), count, settings)
    choices = []
    for prompt in ask.prompts:
        seed = seed_of([model, str(ask.seed or 0), str(prompt)])
        choices += [_text_choice(ask, seed + index, size, whole) for index in range(ask.n or 1)]
    answer = PlannedAnswer(TEXT, f"cmpl-{answer_id}", model, choices, ask.prompt_tokens, hostile)
    return _reply(answer, ask, settings)


def _text_choice(ask: Generation, seed: int, size: int, whole: bool) -> PlannedChoice:
    found = tokens(seed, size, whole=whole)
    cut = cut_at(found, ask.stops) if ask.stops else None
    if cut is not None:
        return PlannedChoice(cut, "stop", [])
    return PlannedChoice(found, "stop" if whole else "length", [])


def _call_choice(ask: ChatAsk, calls: list[asks.ToolCall]) -> PlannedChoice:
    found = [token for place, call in enumerate(calls) for token in asks.call_tokens(call, place)]
    limit = ask.limit
    if limit is None or limit >= len(found):
        return PlannedChoice(found, "tool_calls", calls)
    return PlannedChoice(found[:limit], "length", asks.cut(calls, limit))


def _reply(answer: PlannedAnswer, ask: Generation, settings: SimSettings) -> Reply:
    wish = ask.sim
    rate = settings.tokens_per_s if wish is None or wish.tokens_per_s is None else wish.tokens_per_s
    delay_s = settings.first_token_delay_s
    if wish is not None and wish.first_token_delay_s is not None:
        delay_s = wish.first_token_delay_s
    if wish is not None:
        answer = answer._replace(cached_tokens=wish.cached_tokens)
    pace = Pace(delay_s, 1 / rate if rate else 0.0)
    if ask.stream:
        options = ask.stream_options
        include = options is not None and bool(options.include_usage)
        continuous = options is not None and include and bool(options.continuous_usage_stats)
        headers = [EVENT_STREAM, (b"cache-control", b"no-cache")]
        return Reply(headers=headers, events=events(answer, pace, include=include, continuous=continuous))
    return Reply(
        body=body(answer),
        tokens=answer.completion_tokens,
        delay_s=pace.first_s + pace.gap_s * max(len(choice.tokens) for choice in answer.choices),
    )


def embeddings(
    ask: EmbeddingAsk, answer_id: str, model: str, settings: SimSettings, hostile: UsageKind | None
) -> Reply:
    """Embed each input as a vector of length one; raise Refused for too many or an unknown encoding."""
    if not 1 <= len(ask.inputs) <= MAX_INPUTS:
        raise SimRefused(400, f"From 1 to {MAX_INPUTS} inputs are needed.", param="input")
    if ask.encoding_format not in ("float", "base64"):
        raise SimRefused(400, "`encoding_format` is `float` or `base64`.", param="encoding_format")
    size = ask.dimensions or settings.embedding_dimensions
    vectors = [_vector(text, size) for text in ask.inputs]
    packed = ask.encoding_format == "base64"
    value: dict[str, Any] = {
        "id": f"embd-{answer_id}",
        "object": "list",
        "created": CREATED_S,
        "model": model,
        "data": [
            {"object": "embedding", "index": index, "embedding": _base64(vector) if packed else vector}
            for index, vector in enumerate(vectors)
        ],
    }
    figures = usage_json(ask.prompt_tokens, 0, hostile)
    if figures is not None:
        value["usage"] = msgspec.Raw(figures)
    return json_reply(value)


def _vector(text: str | TokenIds, size: int) -> list[float]:
    digest = hashlib.shake_128(str(text).encode("utf-8", "surrogatepass")).digest(2 * size)
    numbers = [number + 0.5 for number in struct.unpack(f"<{size}h", digest)]
    length = math.sqrt(sum(number * number for number in numbers))
    return [number / length for number in numbers]


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def model_card(name: str, settings: SimSettings) -> dict[str, Any]:
    """Return one entry of the list of models."""
    return {
        "id": name,
        "object": "model",
        "created": CREATED_S,
        "owned_by": "zuebee-sim",
        "root": name,
        "parent": None,
        "max_model_len": settings.max_model_tokens,
    }


def models(settings: SimSettings) -> Reply:
    """List the models that are served."""
    return json_reply({"object": "list", "data": [model_card(name, settings) for name in settings.models]})
