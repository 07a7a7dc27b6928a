"""OpenAI's wire format, as far as a gateway must know it: what a request asks for, errors, usage.

Reference: OpenAI API, "Chat", "Completions", "Embeddings". Bodies pass as they came; only these fields are looked at.
"""

import re
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from zuebee.contracts.errors import Refusal, bad_request
from zuebee.dialects.openai_shapes import (
    MAX_TOKENS,
    Answer,
    Choices,
    Peek,
    Request,
    StreamOptions,
    UsageFigures,
    UsualAnswer,
)

MAX_CODE: Final = 64
MAX_MESSAGE: Final = 2000
_PEEKED: Final = ("model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "best_of", "prompt")
_QUOTED: Final = tuple(f'"{name}"'.encode() for name in _PEEKED[:-1])  # `prompt` is looked for where there is one


Json: TypeAlias = Any
"""Bytes or `msgspec.Raw`. Its stubs say that the latter is a kind of the former, which it is not: a compiler that
believes them would refuse it.
"""

_peek: Final = msgspec.json.Decoder(Peek)
_stream_options: Final = msgspec.json.Decoder(StreamOptions | None)
_raw_list: Final = msgspec.json.Decoder(list[Raw])
_ESCAPED_LETTER: Final = re.compile(rb"\\u00[5-7]")  # the letters, and the underscore


def read_request(body: bytes) -> Request | Refusal:
    """Look at the few fields that matter. A key given twice is refused: two readers could read it differently."""
    try:
        if not body.isascii():
            body.decode()  # msgspec does not look at the bytes of what it skips
        peek = _peek.decode(body)
        options = _stream_options.decode(peek.stream_options) if peek.stream_options is not UNSET else None
    except msgspec.ValidationError as error:
        text = str(error)
        param = text.rpartition("$.")[2].rstrip("`") if "$." in text else None
        return bad_request(f"The request is not valid: {text.partition(' - at')[0]}.", param=param)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return bad_request(f"The body is not valid JSON: {error}", code="invalid_json")
    prompts = 1 if peek.prompt is UNSET else _count_prompts(peek.prompt)
    if _may_repeat(body, names_prompt=peek.prompt is not UNSET) and (repeated := _repeated_key(body)):
        return bad_request(f"The field `{repeated}` is given more than once.", param=repeated)
    bound = peek.max_tokens
    if peek.max_completion_tokens is not None:
        # Servers differ in which of the two they obey: the larger one is the bound.
        bound = max(-1 if bound is None else bound, peek.max_completion_tokens or -1)
    return Request(
        peek.model,
        peek.stream is True,
        options is not None and options.include_usage is True,
        None if bound is not None and bound < 0 else bound,
        1 if peek.n is peek.best_of is None else max(peek.n or 1, peek.best_of or 1),
        prompts,
    )


def _count_prompts(prompt: Raw) -> int:
    """How many prompts stand in a list of texts, or of lists of tokens; a list of tokens is one prompt."""
    if not bytes(prompt).startswith(b"["):
        return 1
    items = _raw_list.decode(prompt)
    return len(items) if items and bytes(items[0]).startswith((b'"', b"[")) else 1


def _may_repeat(body: bytes, *, names_prompt: bool) -> bool:
    # Cheap and never wrong in the safe direction: a repeated key is here twice, or spelled with an escape.
    if max(map(body.count, _QUOTED)) > 1:
        return True
    return (names_prompt and body.count(b'"prompt"') > 1) or _ESCAPED_LETTER.search(body) is not None


def _repeated_key(body: bytes) -> str | None:
    seen = set()
    for key, _, _ in top_level_items(body):
        if key in seen and key in _PEEKED:
            return key
        seen.add(key)
    return None


_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],]', re.DOTALL)
_COLON: Final = re.compile(rb"[ \t\n\r]*:[ \t\n\r]*")
_BLANK: Final = b" \t\n\r"
_read_key: Final = msgspec.json.Decoder(str).decode


def top_level_items(data: bytes) -> list[tuple[str, int, int]]:
    """Each key of a JSON object with the place of its value, from and to. `data` must be a valid object.

    Works through any depth of nesting and any length of numbers: nothing but the keys is decoded.
    """
    items: list[tuple[str, int, int]] = []
    depth = start = 0
    key = None
    for token in _TOKEN.finditer(data):
        at = token.start()
        mark = data[at : at + 1]
        if mark == b'"':
            if depth == 1 and key is None:
                key = _read_key(token[0])
                colon = _COLON.match(data, token.end())
                start = colon.end() if colon else token.end()
            continue
        if depth == 1 and key is not None and mark in (b",", b"}"):
            items.append((key, start, start + len(data[start:at].rstrip(_BLANK))))
            key = None
        depth += (mark in (b"{", b"[")) - (mark in (b"}", b"]"))
    return items


def ask_for_usage(body: bytes) -> bytes:
    """The body of a stream request with `stream_options.include_usage` on, every other byte as it came."""
    start = body.index(b"{") + 1
    if b'"stream_options"' in body or _ESCAPED_LETTER.search(body) is not None:
        for key, value_start, value_end in top_level_items(body):
            if key == "stream_options":
                value = _with_include_usage(body[value_start:value_end])
                return body[:value_start] + value + body[value_end:]
    return body[:start] + b'"stream_options":{"include_usage":true},' + body[start:]


def _with_include_usage(options: bytes) -> bytes:
    if options == b"null":
        return b'{"include_usage":true}'
    items = top_level_items(options)
    for key, start, end in reversed(items):  # of a key given twice, the last one counts
        if key == "include_usage":
            return options[:start] + b"true" + options[end:]
    return b'{"include_usage":true' + (b"," if items else b"") + options[1:]


# --- answers ---


class Figures(NamedTuple):
    """Tokens as a server reports them, each from 0 to MAX_TOKENS. `cached` of the prompt came from its cache."""

    prompt: int
    completion: int
    cached: int = 0


_answer: Final = msgspec.json.Decoder(Answer)
_usual_answer: Final = msgspec.json.Decoder(UsualAnswer)
_choices: Final = msgspec.json.Decoder(Choices)
_figures: Final = msgspec.json.Decoder(UsageFigures | None)
_USAGE_OBJECT: Final = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


class NotJson(Exception):
    """An answer that says it is JSON and is not."""


def answer_usage(body: bytes) -> Figures | None:
    """The tokens that an answer reports, None if it reports none. Raises NotJson."""
    try:
        try:
            return _believed(_usual_answer.decode(body).usage)
        except msgspec.ValidationError:
            _answer.decode(body)  # its usage is none, but is the rest JSON?
    except msgspec.ValidationError:
        pass  # not an object
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotJson(str(error)) from None
    return None


def answer_error(body: bytes) -> Raw | None:
    """What stands under `error` in an answer, for `read_error`; None if it tells of none."""
    try:
        error = _answer.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if error is UNSET or bytes(error) == b"null" else error


def tail_usage(tail: bytes) -> Figures | None:
    """The same from the last bytes of an answer too long to keep."""
    found = _USAGE_OBJECT.findall(tail)
    return usage_figures(found[-1]) if found else None


def usage_figures(usage: Json | UnsetType) -> Figures | None:
    """The tokens of a usage object; None if there is none, it is not whole, or it cannot be true.

    Nothing at all for an answer is not true: servers that do not count say so with zeros.
    What it says of the cache is believed only where the rest is, and never for more than the prompt has.
    """
    if usage is UNSET:
        return None
    try:
        figures = _figures.decode(usage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return _believed(figures)


def _believed(figures: UsageFigures | None) -> Figures | None:
    if figures is None or figures.prompt_tokens is None:
        return None
    prompt, completion, details = figures.prompt_tokens, figures.completion_tokens, figures.prompt_tokens_details
    if completion is None and _plausible(prompt) and _plausible(figures.total_tokens):
        completion = max(0, figures.total_tokens - prompt)
    if not (_plausible(prompt) and _plausible(completion) and prompt + completion):
        return None
    if details is None:
        return Figures(prompt, completion)
    cached = details.get("cached_tokens") if type(details) is dict else 0
    return Figures(prompt, completion, min(cached, prompt) if cached and _plausible(cached) else 0)


def _plausible(tokens: object) -> bool:
    return type(tokens) is int and 0 <= tokens <= MAX_TOKENS  # bool is a type of its own


def answer_text_bytes(body: bytes) -> int:
    """How many bytes of text the choices of an answer hold; 0 where that cannot be told."""
    try:
        choices = _choices.decode(body).choices
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0
    return sum(len(msgspec.json.encode(choice.message or choice.text or "")) for choice in choices)


# --- errors ---


def render_error(refusal: Refusal) -> bytes:
    """The body of an error answer."""
    error = {
        "message": refusal.message,
        "type": refusal.type,
        "param": refusal.param,
        "code": refusal.code,
    }
    return msgspec.json.encode({"error": error})


def render_error_event(refusal: Refusal) -> bytes:
    """The event that tells a stream's reader that the rest is missing. OpenAI's SDKs raise it as an APIError."""
    return b"data: " + render_error(refusal) + b"\n\n"


def read_error(raw: Json) -> tuple[int, str, str]:
    """Status (0 if none), code and message (both cut to a sensible length) of what stands under `error`."""
    try:
        error = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0, "", ""
    if isinstance(error, str):
        return 0, "", error[:MAX_MESSAGE]
    if not isinstance(error, dict):
        return 0, "", ""
    code = error.get("code")
    status = code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code <= 599 else 0
    name = str(error.get("type") or code or "")
    return status, name[:MAX_CODE], str(error.get("message") or "")[:MAX_MESSAGE]
