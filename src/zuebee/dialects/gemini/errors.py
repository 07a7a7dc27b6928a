"""PURE. Errors of Google's servers: an object, or a list with one in it, which says a code, a status and a message."""

import re
from typing import Any, Final

import msgspec
from msgspec import Raw

from zuebee.contracts.errors import BACKEND_ERROR, ErrorType, Refusal
from zuebee.dialects import openai
from zuebee.dialects.openai_errors import as_openai_error

CONTEXT_LENGTH: Final = "context_length_exceeded"
MAX_RETRY_S: Final = 86400.0

_STATUSES: Final = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_KINDS: Final[dict[int, ErrorType]] = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_DELAY: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s\Z")
_OVERFLOW: Final = "exceeds the maximum number of tokens"


class GeminiError(msgspec.Struct, rename="camel"):
    """What stands under `error`."""

    message: str
    code: Any = None
    status: Any = None
    details: Any = None

    @property
    def word(self) -> str:
        """The status in letters, which programs read."""
        return self.status[: openai.MAX_CODE] if isinstance(self.status, str) else ""

    @property
    def http_status(self) -> int:
        """The status in digits; 0 if it is none."""
        if type(self.code) is int and 400 <= self.code <= 599:
            return self.code
        return _STATUSES.get(self.word, 0)

    @property
    def retry_after_s(self) -> float | None:
        """When to ask again (`RetryInfo`)."""
        for detail in self.details if isinstance(self.details, list) else ():
            delay = detail.get("retryDelay") if isinstance(detail, dict) else None
            if isinstance(delay, str) and (found := _DELAY.match(delay)) is not None:
                return min(float(found[1]), MAX_RETRY_S)
        return None


class GeminiErrorBody(msgspec.Struct):
    """An error answer."""

    error: GeminiError


_said: Final = msgspec.json.Decoder(GeminiError).decode
_body: Final = msgspec.json.Decoder(GeminiErrorBody | list[GeminiErrorBody]).decode


def error_of(raw: bytes | Raw) -> GeminiError | None:
    """The error under that name; None if it is not one as Google writes them."""
    try:
        return _said(raw)
    except (ValueError, RecursionError):
        return None


def error_in(body: bytes) -> GeminiError | None:
    """The error that a body is."""
    try:
        found = _body(body[: openai.MAX_ERROR_BYTES])
    except (ValueError, RecursionError):
        return None
    first: GeminiErrorBody | None = (found[0] if found else None) if isinstance(found, list) else found
    return None if first is None else first.error


def read_error(status: int, body: bytes) -> Refusal:
    """What a server's error answer says, for clients of any dialect."""
    said = error_in(body)
    if said is None:
        return _read_other(status, body)
    message = said.message[: openai.MAX_MESSAGE] or openai.NO_MESSAGE
    code = CONTEXT_LENGTH if status == 400 and _OVERFLOW in message else said.word or BACKEND_ERROR
    return Refusal(status, kind_of(status), code, message, retry_after_s=said.retry_after_s)


def _read_other(status: int, body: bytes) -> Refusal:
    """Of what stands between the gateway and the server."""
    made = as_openai_error(body, status)
    said = error_in(made) if made is not None else None
    message = said.message if said is not None else openai.NO_MESSAGE
    return Refusal(status, kind_of(status), BACKEND_ERROR, message[: openai.MAX_MESSAGE])


def kind_of(status: int) -> ErrorType:
    """The type that goes with a status."""
    return _KINDS.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
