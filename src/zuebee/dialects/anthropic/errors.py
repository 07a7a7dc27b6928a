"""PURE. Errors as Anthropic's clients read them, and as its servers write them.

Clients act on the status, and on the type that belongs to it; within a stream on the type alone.
"""

from typing import Final, Literal

import msgspec

from zuebee.contracts.errors import BACKEND_ERROR, ErrorType, Refusal
from zuebee.dialects import openai
from zuebee.dialects.openai_errors import as_openai_error

PING: Final = b'event: ping\ndata: {"type": "ping"}\n\n'
"""Keeps a quiet stream alive."""
TOO_LONG: Final = "prompt is too long"
"""The words by which Claude Code knows that it must shorten the conversation."""
CONTEXT_LENGTH: Final = "context_length_exceeded"
"""OpenAI's word for it."""

_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_KINDS: Final[dict[str, tuple[int, ErrorType]]] = {
    "invalid_request_error": (400, "invalid_request_error"),
    "authentication_error": (401, "authentication_error"),
    "billing_error": (402, "insufficient_quota"),
    "permission_error": (403, "permission_error"),
    "not_found_error": (404, "not_found_error"),
    "conflict_error": (409, "invalid_request_error"),
    "request_too_large": (413, "invalid_request_error"),
    "rate_limit_error": (429, "rate_limit_error"),
    "api_error": (500, "api_error"),
    "timeout_error": (504, "timeout_error"),
    "overloaded_error": (529, "overloaded_error"),
}
_OVERFLOWS: Final = (TOO_LONG, "exceed context limit", "maximum context length", "context window")


class ToldError(msgspec.Struct):
    """What stands under `error`."""

    type: str
    message: str


class ErrorBody(msgspec.Struct):
    """An error answer."""

    error: ToldError


class TypedErrorBody(ErrorBody):
    """One that calls itself so."""

    type: Literal["error"]


class OpenAIError(msgspec.Struct):
    """The same in OpenAI's words; what stands there may be left out."""

    message: str | None = ""
    code: str | int | None = None


class OpenAIErrorBody(msgspec.Struct):
    """An error answer in OpenAI's words."""

    error: OpenAIError


_body: Final = msgspec.json.Decoder(ErrorBody).decode
_typed_body: Final = msgspec.json.Decoder(TypedErrorBody).decode
_other_body: Final = msgspec.json.Decoder(OpenAIErrorBody).decode


def status_of(kind: str) -> int:
    """The status that an error of this type has as an answer; 0 if nobody knows the type."""
    return _KINDS[kind][0] if kind in _KINDS else 0


def error_type(status: int) -> str:
    """The type that goes with a status."""
    return _TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")


def is_error(body: bytes) -> bool:
    """Whether a body is an error as this dialect's clients read them."""
    try:
        _typed_body(body)
    except (ValueError, RecursionError):
        return False
    return True


def render_error(refusal: Refusal, request_id: str = "") -> bytes:
    """The body of an error answer. `request_id`: the name by which an operator finds the request."""
    message = refusal.message
    if refusal.code == CONTEXT_LENGTH and TOO_LONG not in message.lower():
        message = f"{TOO_LONG}: {message}"
    return msgspec.json.encode(
        {
            "type": "error",
            "error": {"type": error_type(refusal.status), "message": message},
            "request_id": request_id or None,
        }
    )


def render_error_event(refusal: Refusal) -> bytes:
    """The event that tells a stream's reader that the rest is missing."""
    return b"event: error\ndata: " + render_error(refusal) + b"\n\n"


def read_error(status: int, body: bytes) -> Refusal:
    """What a server's error answer says, for clients of any dialect."""
    try:
        told = _body(body[: openai.MAX_ERROR_BYTES]).error
    except (ValueError, RecursionError):
        return _read_other(status, body)
    kind = _KINDS[told.type][1] if told.type in _KINDS else _kind_of(status)
    message = told.message[: openai.MAX_MESSAGE] or openai.NO_MESSAGE
    code = CONTEXT_LENGTH if _overflows(status, message) else told.type[: openai.MAX_CODE] or BACKEND_ERROR
    return Refusal(status, kind, code, message)


def _read_other(status: int, body: bytes) -> Refusal:
    """Of what stands between the gateway and the server, and of servers with errors in OpenAI's form."""
    code, message = BACKEND_ERROR, openai.NO_MESSAGE
    try:
        told = _other_body(as_openai_error(body, status) or body).error
    except (ValueError, RecursionError):
        return Refusal(status, _kind_of(status), code, message)
    message = (told.message or message)[: openai.MAX_MESSAGE]
    if isinstance(told.code, str):
        code = told.code[: openai.MAX_CODE] or code
    return Refusal(status, _kind_of(status), CONTEXT_LENGTH if _overflows(status, message) else code, message)


def _kind_of(status: int) -> ErrorType:
    kind = error_type(status)
    return _KINDS[kind][1]


def _overflows(status: int, message: str) -> bool:
    said = message.lower()
    return status in (400, 413) and any(words in said for words in _OVERFLOWS)
