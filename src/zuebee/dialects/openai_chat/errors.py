"""PURE. Error answers of servers of chat completions, and errors in their streams."""

from typing import Final

import msgspec

from zuebee.contracts.errors import BACKEND_ERROR, ErrorType, Refusal
from zuebee.dialects import openai
from zuebee.dialects.hub.canonical import FailureDelta
from zuebee.dialects.openai import Told, read_told
from zuebee.dialects.openai_errors import as_openai_error

CONTEXT_LENGTH: Final = "context_length_exceeded"
"""The code by which clients know that they must shorten the conversation; many servers say it in words only."""

_TYPES: Final[dict[int, ErrorType]] = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OVERFLOWS: Final = (
    "maximum context length",
    "context window",
    "context size",
    "exceed context limit",
    "maximum prompt length",
    "prompt is too long",
    "input is too long",
    "longer than the model's context",
)


class ToldErrorBody(msgspec.Struct):
    """An error answer."""

    error: msgspec.Raw


class ToldErrorType(msgspec.Struct):
    """What stands under `error`, as `read_told` cleans it."""

    type: str = ""


_body: Final = msgspec.json.Decoder(ToldErrorBody)
_shown: Final = msgspec.json.Decoder(ToldErrorType)


def read_error(status: int, body: bytes) -> Refusal:
    """What a server's error answer says, for clients of any dialect."""
    try:
        told = read_told(_body.decode(as_openai_error(body, status) or body[: openai.MAX_ERROR_BYTES]).error)
    except (ValueError, RecursionError):
        told = Told(0, "", "", b"")
    kind = _TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    code = _code(status, told) or BACKEND_ERROR
    return Refusal(status, kind, code, told.message or openai.NO_MESSAGE)


def failed(told: Told) -> FailureDelta:
    """A failure in the midst of a stream."""
    kind = _shown.decode(told.shown).type if told.shown else ""
    return FailureDelta(told.status, kind, _code(told.status or 400, told), told.message)


def _code(status: int, told: Told) -> str:
    said = told.message.lower()
    overflow = status in (400, 413, 422) and any(words in said for words in _OVERFLOWS)
    return CONTEXT_LENGTH if overflow else told.code
