"""OpenAI's wire format, as far as a gateway must know it: what a request asks for, errors, usage.

Reference: OpenAI API, "Chat", "Completions", "Embeddings". Bodies pass as they came; only these fields are looked at.
"""

import re
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

import msgspec
from msgspec import UNSET, Raw

from zuebee.contracts.errors import TOO_MANY_FIELDS, Refusal, bad_request
from zuebee.dialects import json_text
from zuebee.dialects.json_text import BOM, is_object_from_outside, mend, mend_halves
from zuebee.dialects.media import media_of
from zuebee.dialects.openai_shapes import (
    MAX_CHOICES,
    Answer,
    Choice,
    Choices,
    Peek,
    Request,
    StreamOptions,
    UsualAnswer,
    typed,
)
from zuebee.dialects.openai_usage import Json, TokenCounts, believed, usage_figures

MAX_CODE: Final = 64
MAX_MESSAGE: Final = 2000
MAX_ERROR_BYTES: Final = 1 << 18
MAX_TEXTS: Final = MAX_CHOICES
MAX_PROMPTS: Final = 2048
MAX_MODEL: Final = 1024
MAX_KNOWN_BYTES: Final = 6 * MAX_MODEL + 2  # a name, all of its letters escaped
TAIL_BYTES: Final = 1 << 16
"""Usage is looked for at the end of what cannot be read whole."""

SMALL_BYTES: Final = 5 * json_text.MAX_FIELDS
"""A body for which it is cheaper to look for the words than to go from field to field. It cannot have too many."""
INLINE_BYTES: Final = 1 << 18
"""No body up to here takes longer than a few milliseconds, whatever stands in it."""

_PEEKED: Final = ("model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "best_of", "prompt")
# Where a body has no `prompt` that one need not be looked for: many a text has the word.
_NAMED: Final = re.compile(rb'"(stream(?:_options)?|m(?:odel|ax_(?:completion_)?tokens)|n|best_of)(?=")')
_NAMED_PROMPT: Final = re.compile(rb'"(stream(?:_options)?|m(?:odel|ax_(?:completion_)?tokens)|n|best_of|prompt)(?=")')


_peek: Final = msgspec.json.Decoder(Peek)
_stream_options: Final = msgspec.json.Decoder(StreamOptions | None)
_REPLACED: Final = "\ufffd"
_ESCAPED_LETTER: Final = re.compile(rb"\\u00[5-7]")  # the letters, and the underscore


def read_request(body: bytes) -> Request | Refusal:
    """Look at the few fields that matter. A key given twice is refused: two readers could read it differently."""
    try:
        json_text.check_utf8(body)  # msgspec does not look at the bytes of what it skips
        request = _read(body)
        if isinstance(request, Request):
            request.media, request.media_bytes = media_of(body)
        return request
    except msgspec.ValidationError as error:
        return not_valid(str(error))
    except json_text.TooMany:
        return bad_request(f"The body has more than {json_text.MAX_FIELDS} fields.", code=TOO_MANY_FIELDS)
    except (json_text.NotJson, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return not_json(error)


def not_json(error: Exception) -> Refusal:
    """The refusal of a body that nobody can read."""
    return bad_request(f"The body is not valid JSON: {error or 'malformed'}", code="invalid_json")


def not_valid(said: str) -> Refusal:
    """What a strict reader says of a value, as `Expected `int`, got `str` - at `$.max_tokens``."""
    what, _, place = said.partition(" - at ")
    param = place.strip("`").removeprefix("$").removeprefix(".") or None
    if param is None:
        return bad_request(f"The request is not valid: {what}.")
    return bad_request(f"The field `{param}` is not valid: {what[:1].lower()}{what[1:]}.", param=param)


def _read(body: bytes) -> Request | Refusal:
    try:
        return _read_typed(body)
    except msgspec.ValidationError:
        raise
    except (json_text.NotJson, msgspec.DecodeError):
        if body.startswith(BOM) and not body.startswith(BOM, len(BOM)):
            return _behind_mark(body)
        # Half a character, as it is left where a text was cut, is JSON, too. Not every reader takes it: ours does not.
        mended = mend_halves(body)
        if mended == body:
            raise
    request = _read_typed(mended)
    if isinstance(request, Request) and _REPLACED in request.model:
        return bad_request("The field `model` has half a character in it.", param="model")
    return request


def _behind_mark(body: bytes) -> Request | Refusal:
    """A body that begins with a mark of its encoding, which goes on with it."""
    request = _read(body[len(BOM) :])
    if isinstance(request, Request) and request.places is not None:
        request.places = {name: (start + len(BOM), end + len(BOM)) for name, (start, end) in request.places.items()}
    return request


def _read_typed(body: bytes) -> Request | Refusal:
    """By the types that OpenAI names, or else by those that servers take for them."""
    try:
        return _read_small(body) if len(body) <= SMALL_BYTES else _read_large(body)
    except msgspec.ValidationError:
        return _read_large(body, loosely=True)


def _read_small(body: bytes) -> Request | Refusal:
    peek = _peek.decode(body)
    options = None if peek.stream_options is UNSET else _options(peek.stream_options)
    prompts = 1 if peek.prompt is UNSET else _count_prompts(bytes(peek.prompt), 0)
    asked = peek.stream_options is UNSET or (options is not None and options.include_usage is True)
    places: dict[str, tuple[int, int]] | Refusal | None = None
    if (
        _may_repeat(body, names_prompt=peek.prompt is not UNSET)
        or not asked
        or _bounds_nothing(peek.max_tokens)
        or _bounds_nothing(peek.max_completion_tokens)
    ):
        places = _places(json_text.fields(body))
    return places if isinstance(places, Refusal) else _request(peek, options, prompts, places)


def _read_large(body: bytes, *, loosely: bool = False) -> Request | Refusal:
    """The same from field to field: nothing is made of those that do not matter."""
    try:
        found = json_text.fields(body)
    except json_text.NotJson:
        _peek.decode(body)  # for what msgspec says of it
        raise
    places = _places(found)
    if isinstance(places, Refusal):
        return places
    known = []
    for name, (start, end) in places.items():
        if name != "prompt":
            if end - start > MAX_KNOWN_BYTES:
                return bad_request(f"The field `{name}` is too long.", param=name)
            value = body[start:end]
            known.append(b'"%b":%b' % (name.encode(), typed(name, value) if loosely else value))
    peek = _peek.decode(b"{%b}" % b",".join(known))
    options = None if peek.stream_options is UNSET else _options(peek.stream_options)
    return _request(peek, options, _count_prompts(body, places["prompt"][0]) if "prompt" in places else 1, places)


def _options(raw: Raw) -> StreamOptions | None:
    try:
        return cast(StreamOptions | None, _stream_options.decode(raw))
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$")
        raise msgspec.ValidationError(f"{what} - at `$.stream_options{place or '`'}") from None


def _request(
    peek: Any, options: StreamOptions | None, prompts: int, places: dict[str, tuple[int, int]] | None
) -> Request | Refusal:
    if prompts > MAX_PROMPTS:
        return bad_request(f"The field `prompt` has more than {MAX_PROMPTS} prompts.", param="prompt")
    if len(peek.model) > MAX_MODEL:
        return bad_request(f"The field `model` has more than {MAX_MODEL} characters.", param="model")
    bound = peek.max_tokens if isinstance(peek.max_tokens, int) else None
    if isinstance(peek.max_completion_tokens, int):
        # Servers differ in which of the two they obey: the larger one is the bound.
        bound = max(-1 if bound is None else bound, peek.max_completion_tokens or -1)
    return Request(
        peek.model,
        peek.stream is True,
        options is not None and options.include_usage is True,
        None if bound is not None and bound < 0 else bound,
        1 if peek.n is peek.best_of is None else max(peek.n or 1, peek.best_of or 1),
        prompts,
        places,
    )


def _bounds_nothing(bound: Any) -> bool:
    """Whether a bound is there, and is none."""
    return bound is not UNSET and (bound is None or bound < 0)


def _count_prompts(data: bytes, start: int) -> int:
    """How many prompts stand in a list of texts, or of lists of tokens; a list of tokens is one prompt.

    Counted up to one more than MAX_PROMPTS.
    """
    if data[start : start + 1] != b"[":
        return 1
    first = json_text.inside(data, start, b"[")
    return len(json_text.elements(data, start, MAX_PROMPTS)) if data[first : first + 1] in (b'"', b"[") else 1


def _may_repeat(body: bytes, *, names_prompt: bool) -> bool:
    # Cheap and never wrong in the safe direction: a repeated key is here twice, or spelled with an escape.
    if body.find(b"\\") >= 0 and _ESCAPED_LETTER.search(body) is not None:
        return True
    if (
        body.count(b'"model"') < 2
        and body.count(b'"max_') < 2
        and body.count(b'"stream') < 2
        and body.count(b'"n"') < 2
        and body.count(b'"best_of"') < 2
        and not (names_prompt and body.count(b'"prompt"') > 1)
    ):
        return False
    names = (_NAMED_PROMPT if names_prompt else _NAMED).findall(body)
    return len(set(names)) < len(names)


def _places(found: list[tuple[str, int, int]]) -> dict[str, tuple[int, int]] | Refusal:
    """Where the values of the fields that matter stand; a refusal when one is there twice."""
    places: dict[str, tuple[int, int]] = {}
    for name, start, end in found:
        if name in _PEEKED:
            if name in places:
                return bad_request(f"The field `{name}` is given more than once.", param=name)
            places[name] = start, end
    return places


def usage_asked(options: bytes) -> bytes:
    """The value of `stream_options` with `include_usage` on, every other byte as it came."""
    if options == b"null":
        return b'{"include_usage":true}'
    items = json_text.fields(mend_halves(options))
    for key, start, end in reversed(items):  # of a key given twice, the last one counts
        if key == "include_usage":
            return options[:start] + b"true" + options[end:]
    return b'{"include_usage":true' + (b"," if items else b"") + options[1:]


# --- answers ---


_answer: Final = msgspec.json.Decoder(Answer)
_usual_answer: Final = msgspec.json.Decoder(UsualAnswer)
_choices: Final = msgspec.json.Decoder(Choices)
_choice: Final = msgspec.json.Decoder(Choice)
_anything: Final = msgspec.json.Decoder(Any)
_NO_ERRORS: Final = (b"null", b"false", b'""', b"{}", b"[]", b"0")
_USAGE_OBJECT: Final = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')


class InvalidJsonAnswer(Exception):
    """An answer that says it is JSON and is not."""


def answer_usage(body: bytes) -> TokenCounts | None:
    """The tokens that an answer reports, None if it reports none. Raises NotJson where it is no object either."""
    try:
        try:
            return believed(_usual_answer.decode(body).usage)
        except msgspec.ValidationError:
            _answer.decode(body)  # its usage is none, but is the rest an object?
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not is_object_from_outside(body):
            raise InvalidJsonAnswer(str(error)) from None
        return _usage_of_odd(body)
    return None


def _usage_of_odd(body: bytes) -> TokenCounts | None:
    """The same of an answer that a strict reader refuses."""
    try:
        return usage_figures(_answer.decode(mend(body)).usage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return tail_usage(body[-TAIL_BYTES:])


def answer_error(body: bytes) -> Raw | None:
    """What an answer says went wrong, for `read_told`: under `error`, or all of an `"object": "error"`; else None."""
    try:
        answer = _decoded(_answer, body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if tells_of_error(answer.error):
        return cast(Raw, answer.error)
    return Raw(body) if is_error_object(answer.object) else None


def tells_of_error(error: Json) -> bool:
    """Whether what stands under `error` is one: some servers say in each event that there is none."""
    return error is not UNSET and bytes(error).translate(None, b" \t\r\n") not in _NO_ERRORS


def is_error_object(said: Json) -> bool:
    """Whether what stands under `object` says that the whole of it is an error."""
    return said is not UNSET and bytes(said).lower() == b'"error"'


def _decoded(decoder: Any, body: bytes) -> Any:
    """Read it strictly, or else mended."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return decoder.decode(mend(body))


def tail_usage(tail: bytes) -> TokenCounts | None:
    """The same from the last bytes of an answer too long to keep."""
    found = _USAGE_OBJECT.findall(tail)
    return usage_figures(found[-1]) if found else None


def answer_text_bytes(body: bytes) -> int:
    """How many bytes of text the choices of an answer hold: all its bytes where that cannot be told."""
    try:
        choices = bytes(_decoded(_choices, body).choices)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return len(body) if is_object_from_outside(body) else 0
    try:
        places = json_text.elements(choices, 0, MAX_TEXTS)
        if len(places) > MAX_TEXTS:
            return len(choices)
        return sum(_text_bytes(_choice.decode(choices[start:end])) for start, end in places)
    except (msgspec.DecodeError, json_text.NotJson, UnicodeDecodeError, RecursionError):
        return 0


def _text_bytes(choice: Any) -> int:
    for raw in (choice.message, choice.text):
        if raw is not UNSET and (text := bytes(raw)) != b"null":
            return len(text)
    return 0


# --- errors ---

NO_MESSAGE: Final = "The model server reported an error."
_STATUS: Final = re.compile(r"[45][0-9]{2}")
_STATUSES: Final = {
    # Of OpenAI and those that speak as it does, of vLLM (Python's names of OpenAI's errors) and of Anthropic.
    "badrequesterror": 400,
    "contentfilter": 400,
    "contentpolicyviolation": 400,
    "contextlengthexceeded": 400,
    "contextwindowexceedederror": 400,
    "invalidprompt": 400,
    "invalidrequest": 400,
    "invalidrequesterror": 400,
    "stringabovemaxlength": 400,
    "authenticationerror": 401,
    "invalidapikey": 401,
    "permissiondeniederror": 403,
    "permissionerror": 403,
    "modelnotfound": 404,
    "notfounderror": 404,
    "requesttoolarge": 413,
    "unprocessableentityerror": 422,
    "insufficientquota": 429,
    "ratelimiterror": 429,
    "ratelimitexceeded": 429,
    "engineoverloaded": 503,
    "overloadederror": 503,
    "serviceunavailableerror": 503,
}
"""By the code or the type of an error, without its underscores."""


def render_error(refusal: Refusal) -> bytes:
    """The body of an error answer."""
    if refusal.told:
        return b'{"error":%b}' % refusal.told
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


class Told(NamedTuple):
    """What a model server says of its failure.

    `status`: as if it had said so at once, 0 if that cannot be told. `code`: the word that programs look for. `shown`:
    the object that stands under `error`, with no other fields than OpenAI's, each with its own value; empty where that
    is no object.
    """

    status: int
    code: str
    message: str
    shown: bytes


_NOTHING_TOLD: Final = Told(0, "", "", b"")


def read_told(raw: Json) -> Told:
    """What stands under `error`."""
    if len(bytes(raw)) > MAX_ERROR_BYTES:
        return _NOTHING_TOLD
    try:
        error = _decoded(_anything, bytes(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _NOTHING_TOLD
    if isinstance(error, str):
        return Told(0, "", error[:MAX_MESSAGE], b"")
    if not isinstance(error, dict):
        return _NOTHING_TOLD
    status, message = _status_of(error), str(error.get("message") or "")[:MAX_MESSAGE]
    code, kind, param = error.get("code"), error.get("type"), error.get("param")
    word = code if isinstance(code, str) and not code.isdigit() else ""
    shown = {
        "message": message or NO_MESSAGE,
        "type": _cut(kind) or ("invalid_request_error" if 400 <= status < 500 else "api_error"),
        "param": _cut(param),
        "code": code if type(code) is int else _cut(code),
    }
    return Told(status, (word or str(kind or code or ""))[:MAX_CODE], message, msgspec.json.encode(shown))


def _cut(value: Any) -> str | None:
    return value[:MAX_CODE] if isinstance(value, str) else None


def _status_of(error: dict[str, Any]) -> int:
    """The status that an error would have had as an answer, as it says itself, or else by its code or its type."""
    for name in ("code", "status", "status_code", "http_status"):
        value = error.get(name)
        number = int(value) if isinstance(value, str) and _STATUS.fullmatch(value) else value
        if type(number) is int and 400 <= number <= 599:
            return number
    for name in ("code", "type"):
        value = error.get(name)
        if isinstance(value, str) and (status := _STATUSES.get(value.lower().replace("_", ""))):
            return status
    return 0


def read_error(raw: Json) -> tuple[int, str, str]:
    """Status (0 if none), code and message (both cut to a sensible length) of what stands under `error`."""
    told = read_told(raw)
    return told.status, told.code, told.message


# What the gateway writes into an OpenAI body: that it wants a stream's usage, and how long an answer may be.
#
# Every other byte stays as it came.

BoundField: TypeAlias = Literal["max_tokens", "max_completion_tokens"]
Places: TypeAlias = dict[str, tuple[int, int]]

_BOUNDS: Final = ("max_tokens", "max_completion_tokens")
_NOWHERE: Final[Places] = {}


def _place_of_model(body: bytes) -> tuple[int, int]:
    """Where the value of `model` stands in a body that was read, and has one."""
    for name, start, end in json_text.fields(mend_halves(body)):
        if name == "model":
            return start, end
    raise ValueError("the body names no model")


class Bound(NamedTuple):
    """How long each answer may be, and in which field that is said."""

    field: BoundField
    tokens: int


def write_fields(body: bytes, places: Places | None, *, usage: bool, bound: Bound | None, model: str = "") -> bytes:
    """The body with `stream_options.include_usage` on, if `usage` is wanted, with a bound, if there is one, and with
    the name of another `model`, unless that is empty.

    `places`: those of `Request`. With a bound its caller has set none, but may have said so with `null` or -1: that
    is replaced, in both fields that there are, for servers differ in which one they obey.
    """
    if not usage and bound is None and not model:
        return body
    known = _NOWHERE if places is None else places
    front = b""
    edits: list[tuple[int, int, bytes]] = []
    if model:
        start, end = known["model"] if "model" in known else _place_of_model(body)
        edits.append((start, end, msgspec.json.encode(model)))
    if usage:
        if (place := known.get("stream_options")) is None:
            front = b'"stream_options":{"include_usage":true},'
        else:
            edits.append((place[0], place[1], usage_asked(body[place[0] : place[1]])))
    if bound is not None:
        for name in _BOUNDS:
            if (place := known.get(name)) is not None:
                edits.append((place[0], place[1], b"%d" % bound.tokens if name == bound.field else b"null"))
        if bound.field not in known:
            front += b'"%b":%d,' % (bound.field.encode(), bound.tokens)
    view = memoryview(body)
    at = body.index(b"{") + 1
    pieces: list[bytes | memoryview] = [view[:at], front]
    for start, end, value in sorted(edits):
        pieces.append(view[at:start])
        pieces.append(value)
        at = end
    pieces.append(view[at:])
    return b"".join(pieces)
