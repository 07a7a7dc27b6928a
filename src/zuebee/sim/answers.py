"""PURE. Answers of the model: chat, completions, embeddings and the list of models, as replies."""

import base64
import hashlib
import math
import struct
from typing import Any

import msgspec

from zuebee.sim import tools
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
from zuebee.sim.faults import UsageKind
from zuebee.sim.generation import CHAT, TEXT, Answer, Choice, Pace, body, events, usage_json
from zuebee.sim.messages import EVENT_STREAM, Refused, Reply, json_reply
from zuebee.sim.settings import CREATED_S, SimSettings
from zuebee.sim.text import cut_at, seed_of, tokens

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
        calls = tools.choose(ask, seed + index)
        choices.append(_call_choice(ask, calls) if calls else _text_choice(ask, seed + index, size, whole))
    answer = Answer(CHAT, f"chatcmpl-{answer_id}", model, choices, ask.prompt_tokens, hostile)
    return _reply(answer, ask, settings)


def completion(
    ask: CompletionAsk, answer_id: str, model: str, settings: SimSettings, hostile: UsageKind | None
) -> Reply:
    """Continue one or more prompts, `n` times each; raise Refused for what vLLM refuses."""
    check_stream_options(ask)
    if not ask.prompts:
        raise Refused(400, "At least one prompt is needed.", param="prompt")
    count = (ask.n or 1) * len(ask.prompts)
    size, whole = answer_size(ask, max(prompt_size(prompt) for prompt in ask.prompts), count, settings)
    choices = []
    for prompt in ask.prompts:
        seed = seed_of([model, str(ask.seed or 0), str(prompt)])
        choices += [_text_choice(ask, seed + index, size, whole) for index in range(ask.n or 1)]
    answer = Answer(TEXT, f"cmpl-{answer_id}", model, choices, ask.prompt_tokens, hostile)
    return _reply(answer, ask, settings)


def _text_choice(ask: Generation, seed: int, size: int, whole: bool) -> Choice:
    found = tokens(seed, size, whole=whole)
    cut = cut_at(found, ask.stops) if ask.stops else None
    if cut is not None:
        return Choice(cut, "stop", [])
    return Choice(found, "stop" if whole else "length", [])


def _call_choice(ask: ChatAsk, calls: list[tools.ToolCall]) -> Choice:
    found = [token for place, call in enumerate(calls) for token in tools.call_tokens(call, place)]
    limit = ask.limit
    if limit is None or limit >= len(found):
        return Choice(found, "tool_calls", calls)
    return Choice(found[:limit], "length", tools.cut(calls, limit))


def _reply(answer: Answer, ask: Generation, settings: SimSettings) -> Reply:
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
        raise Refused(400, f"From 1 to {MAX_INPUTS} inputs are needed.", param="input")
    if ask.encoding_format not in ("float", "base64"):
        raise Refused(400, "`encoding_format` is `float` or `base64`.", param="encoding_format")
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
