"""OpenAI's wire format, as far as a gateway must know it: what a request asks for, errors, usage.

Reference: OpenAI API, "Chat", "Completions", "Embeddings". Bodies pass as they came; only these fields are looked at.
"""

import json
import re
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from zuebee.contracts.errors import Refusal, bad_request

MAX_TOKENS = 10**9
_PEEKED = ("model", "stream", "stream_options")


class _Peek(msgspec.Struct):
    model: str = ""
    stream: bool | None = None
    stream_options: Raw | UnsetType = UNSET


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Request(msgspec.Struct):
    """What a request asks for: its model, whether it wants a stream, and usage in it."""

    model: str
    stream: bool
    stream_usage: bool


_peek = msgspec.json.Decoder(_Peek)
_stream_options = msgspec.json.Decoder(_StreamOptions | None)
_ESCAPED_LETTER = re.compile(rb"\\u00[67]")


def read_request(body: bytes) -> Request | Refusal:
    """Look at the few fields that matter. A key given twice is refused: two readers could read it differently."""
    try:
        peek = _peek.decode(body)
        options = _stream_options.decode(peek.stream_options) if peek.stream_options is not UNSET else None
    except msgspec.ValidationError as error:
        text = str(error)
        param = text.rpartition("$.")[2].rstrip("`") if "$." in text else None
        return bad_request(f"The request is not valid: {text.partition(' - at')[0]}.", param=param)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return bad_request(f"The body is not valid JSON: {error}", code="invalid_json")
    if not (body.isascii() or _is_utf8(body)):
        return bad_request("The body is not valid UTF-8.", code="invalid_json")
    if _may_repeat(body) and (repeated := _repeated_key(body)):
        return bad_request(f"The field `{repeated}` is given more than once.", param=repeated)
    return Request(peek.model, bool(peek.stream), bool(options is not None and options.include_usage))


def _is_utf8(body: bytes) -> bool:
    # The decoder does not look into fields that it skips.
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _may_repeat(body: bytes) -> bool:
    # Cheap and never wrong in the safe direction: a repeated key is here twice, or spelled with an escape.
    if body.count(b'"model"') > 1 or _ESCAPED_LETTER.search(body) is not None:
        return True
    # Two may be one `stream` and its options.
    return body.count(b'"stream') > 1 and (body.count(b'"stream"') > 1 or body.count(b'"stream_options"') > 1)


def _repeated_key(body: bytes) -> str | None:
    seen = set()
    for key, _, _ in top_level_items(body.decode()):
        if key in seen and key in _PEEKED:
            return key
        seen.add(key)
    return None


_decoder = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\n\r]*")


def top_level_items(text: str) -> list[tuple[str, int, int]]:
    """Each key of a JSON object with the place of its value, from and to. The text must be a valid object."""
    items: list[tuple[str, int, int]] = []
    at = text.index("{") + 1
    while True:
        at = _skip_blank(text, at)
        if text[at] == ",":
            at = _skip_blank(text, at + 1)
        if text[at] == "}":
            return items
        key, at = _decoder.raw_decode(text, at)
        start = _skip_blank(text, text.index(":", at) + 1)
        _, at = _decoder.raw_decode(text, start)
        items.append((key, start, at))


def _skip_blank(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return match.end() if match else at


def ask_for_usage(body: bytes) -> bytes:
    """The body of a stream request with `stream_options.include_usage` on, every other byte as it came."""
    start = body.index(b"{") + 1
    if b'"stream_options"' not in body and _ESCAPED_LETTER.search(body) is None:
        return body[:start] + b'"stream_options":{"include_usage":true},' + body[start:]
    text = body.decode()
    for key, value_start, value_end in top_level_items(text):
        if key == "stream_options":
            value = _with_include_usage(text[value_start:value_end])
            return (text[:value_start] + value + text[value_end:]).encode()
    return body[:start] + b'"stream_options":{"include_usage":true},' + body[start:]


def _with_include_usage(options: str) -> str:
    if options == "null":
        return '{"include_usage":true}'
    items = top_level_items(options)
    for key, start, end in items:
        if key == "include_usage":
            return options[:start] + "true" + options[end:]
    return '{"include_usage":true' + ("," if items else "") + options[1:].lstrip()


# --- answers ---


class _Answer(msgspec.Struct):
    usage: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class _UsageFigures(msgspec.Struct):
    prompt_tokens: Any = None
    completion_tokens: Any = None


class _Choice(msgspec.Struct):
    text: Any = None
    message: Any = None


class _Choices(msgspec.Struct):
    choices: list[_Choice] = []


_answer = msgspec.json.Decoder(_Answer)
_choices = msgspec.json.Decoder(_Choices)
_figures = msgspec.json.Decoder(_UsageFigures | None)
_USAGE_OBJECT = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


class NotJson(Exception):
    """An answer that says it is JSON and is not."""


def answer_usage(body: bytes) -> tuple[int, int] | None:
    """Prompt and completion tokens that an answer reports, None if it reports none. Raises NotJson."""
    try:
        answer = _answer.decode(body)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotJson(str(error)) from None
    return usage_figures(answer.usage)


def answer_error(body: bytes) -> Raw | None:
    """What stands under `error` in an answer, for `read_error`; None if it tells of none."""
    try:
        error = _answer.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if error is UNSET or bytes(error) == b"null" else error


def tail_usage(tail: bytes) -> tuple[int, int] | None:
    """The same from the last bytes of an answer too long to keep."""
    found = _USAGE_OBJECT.findall(tail)
    return usage_figures(found[-1]) if found else None


def usage_figures(usage: Raw | bytes | UnsetType) -> tuple[int, int] | None:
    """Prompt and completion tokens of a usage object; None if there is none or it cannot be true."""
    if usage is UNSET:
        return None
    try:
        figures = _figures.decode(usage)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if figures is None or figures.prompt_tokens is None:
        return None
    prompt = figures.prompt_tokens
    completion = 0 if figures.completion_tokens is None else figures.completion_tokens
    return (prompt, completion) if _plausible(prompt) and _plausible(completion) else None


def _plausible(tokens: object) -> bool:
    return isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens <= MAX_TOKENS


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


def read_error(raw: Raw | bytes) -> tuple[int, str, str]:
    """Status (0 if none), code and message of what stands under `error` in an answer or event."""
    try:
        error = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0, "", ""
    if isinstance(error, str):
        return 0, "", error
    if not isinstance(error, dict):
        return 0, "", ""
    code = error.get("code")
    status = code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code <= 599 else 0
    name = str(error.get("type") or code or "")
    return status, name, str(error.get("message") or "")
