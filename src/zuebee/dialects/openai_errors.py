"""PURE. Error answers of model servers that are no OpenAI errors, made into one: SDKs read its message and code.

What is looked for is what servers and the proxies before them say: FastAPI's `detail`, TGI's and Ollama's `error` as a
text, Gemini's list, a cloud's `message`, a page of HTML, plain text, nothing at all.
"""

import html
import re
from typing import Any, Final

import msgspec

from zuebee.contracts.errors import BACKEND_ERROR, ErrorType, Refusal
from zuebee.dialects import openai

MAX_SHOWN: Final = 500
"""Characters of a message that is no field's value, but a page or a text."""

MAX_DEPTH: Final = 5
_MESSAGES: Final = ("message", "detail", "msg", "error", "errors", "error_message", "description", "title", "reason")
_CODES: Final = ("code", "error_code", "error_type", "status", "type", "__type")
_TYPES: Final[dict[int, ErrorType]] = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_TITLE: Final = re.compile(r"<title[^>]{0,200}>([^<]{1,500})", re.IGNORECASE)
_TAG: Final = re.compile(r"<(?:script|style)\b.*?</(?:script|style)\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)


def as_openai_error(body: bytes, status: int) -> bytes | None:
    """The body of an OpenAI error that says what `body` says; None: it is one as it stands."""
    try:
        said = msgspec.json.decode(body[: openai.MAX_ERROR_BYTES])  # of one that is cut nothing can be read
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        message, code, param = _of_text(body), "", None
    else:
        if type(said) is dict and _is_error(said.get("error")):
            return None
        message, code, param = _message(said), _code(said), _param(said)
    kind = _TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    message = message or f"The model server answered {status} and did not say why."
    shown = message[: openai.MAX_MESSAGE]
    return openai.render_error(Refusal(status, kind, code[: openai.MAX_CODE] or BACKEND_ERROR, shown, param))


def _is_error(error: Any) -> bool:
    return type(error) is dict and type(error.get("message")) is str


def _message(said: Any, depth: int = 0) -> str:
    if type(said) is str:
        return said.strip()
    if depth > MAX_DEPTH:
        return ""
    if type(said) is list:
        found = [text for each in said[:3] if (text := _message(each, depth + 1))]
        return "; ".join(found)
    if type(said) is dict:
        for name in _MESSAGES:
            if text := _message(said.get(name), depth + 1):
                return text
    return ""


def _code(said: Any, depth: int = 0) -> str:
    """The first word that is one for programs; where the text is deeper, so may the word be."""
    if type(said) is list and said and depth <= MAX_DEPTH:
        return _code(said[0], depth + 1)
    if type(said) is not dict or depth > MAX_DEPTH:
        return ""
    for name in _CODES:
        value = said.get(name)
        if type(value) is str and value and " " not in value:
            return value
    for name in ("error", "detail", "errors"):
        if code := _code(said.get(name), depth + 1):
            return code
    return ""


def _param(said: Any) -> str | None:
    """The field that is wrong: where FastAPI says it, and where others do."""
    if type(said) is not dict:
        return None
    for inner in (said, said.get("error")):
        if type(inner) is dict and type(inner.get("param")) is str and inner["param"]:
            return str(inner["param"])[: openai.MAX_CODE]
    detail = said.get("detail")
    if type(detail) is list and detail and type(detail[0]) is dict and type(detail[0].get("loc")) is list:
        path = [str(each) for each in detail[0]["loc"][:10] if each != "body"]
        return ".".join(path)[: openai.MAX_CODE] or None
    return None


def _of_text(body: bytes) -> str:
    text = body[: 64 * 1024].decode("utf-8", "replace").strip()
    if text.startswith("<"):
        title = _TITLE.search(text)
        text = html.unescape(title.group(1) if title is not None else _TAG.sub(" ", text))
    words = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return words[:MAX_SHOWN]
