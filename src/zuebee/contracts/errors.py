"""Why a request was not answered as asked: typed, few, and fit to be shown to the caller.

Messages never hold a secret, a prompt or an address inside the house.
"""

from dataclasses import dataclass
from typing import Final, Literal

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "rate_limit_error",
    "insufficient_quota",
    "api_error",
    "overloaded_error",
    "timeout_error",
]


# No msgspec structure: whether something is one takes three times as long to find out where it is not.
@dataclass(frozen=True)
class Refusal:
    """An answer that is an error.

    `status` is an HTTP status; `code` a stable word for programs; `retry_after_s` when waiting helps;
    `should_retry` False once a try may have cost something or would fail again. `headers` go out with it. `told`: the
    object that is shown as the error, where a model server said it in its own words.
    """

    status: int
    type: ErrorType
    code: str
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    should_retry: bool = False
    headers: tuple[tuple[bytes, bytes], ...] = ()
    told: bytes = b""


def bad_request(message: str, *, param: str | None = None, code: str = "invalid_request") -> Refusal:
    """400: the request cannot be understood; `param` names the field."""
    return Refusal(400, "invalid_request_error", code, message, param)


MAX_SHOWN_NAME: Final = 200
WHICH_MODELS: Final = "`GET /v1/models` lists those that this key may use."
NAMES_NO_MODEL: Final = bad_request(f"The field `model` is required. {WHICH_MODELS}", param="model")


def no_such_model(model: str) -> Refusal:
    """404, as OpenAI has it: no server has the model that a request names."""
    if not model:
        return NAMES_NO_MODEL
    message = f"The model `{model[:MAX_SHOWN_NAME]}` does not exist here. {WHICH_MODELS}"
    return Refusal(404, "not_found_error", "model_not_found", message, "model")


NO_KEY: Final = Refusal(
    401,
    "authentication_error",
    "missing_api_key",
    "No API key was given. Send it as `Authorization: Bearer KEY`.",
)
UNKNOWN_KEY: Final = Refusal(401, "authentication_error", "invalid_api_key", "The API key is not valid.")
KEY_DISABLED: Final = Refusal(403, "permission_error", "key_disabled", "This API key is disabled.")
KEY_EXPIRED: Final = Refusal(403, "permission_error", "key_expired", "This API key has expired.")
KEY_NOT_STARTED: Final = Refusal(403, "permission_error", "key_not_started", "This API key is not valid yet.")
ADDRESS_REFUSED: Final = Refusal(
    403, "permission_error", "ip_not_allowed", "This API key may not be used from this address."
)
KEY_REVOKED: Final = Refusal(401, "authentication_error", "key_revoked", "This API key was revoked.")
BODY_NOT_SIGNED: Final = Refusal(
    401, "authentication_error", "invalid_signature", "The signature of this request does not match its body."
)
CLIENT_LEFT: Final = Refusal(499, "invalid_request_error", "client_closed_request", "The client disconnected.")
"""Nobody is told, but logs and records are: the client left before its answer had begun."""

STORE_UNAVAILABLE: Final = Refusal(
    503,
    "api_error",
    "store_unavailable",
    "The cost of this request cannot be recorded at the moment. Try again.",
    retry_after_s=1.0,
    should_retry=True,
)
OUTBOX_FULL: Final = Refusal(
    503,
    "overloaded_error",
    "usage_outbox_full",
    "Too many usage events wait to be delivered, so the gateway refuses this request. Try again later.",
    retry_after_s=10.0,
    should_retry=True,
)
BACKEND_ERROR: Final = "backend_error"
"""The code of what a model server reports without one of its own."""
BAD_ANSWER: Final = Refusal(502, "api_error", "bad_answer", "The model server's answer is not valid.")
CUT_SHORT: Final = Refusal(502, "api_error", "incomplete_answer", "The model server's answer broke off.")
UNSUPPORTED_ENDPOINT: Final = "unsupported_endpoint"
TOO_MANY_FIELDS: Final = "too_many_fields"
NOT_FOUND: Final = Refusal(404, "not_found_error", "unknown_path", "There is no such endpoint.")
DRAINED: Final = Refusal(
    503,
    "overloaded_error",
    "shutting_down",
    "The server is shutting down, so the answer was cut off.",
    should_retry=True,
)
INTERNAL: Final = Refusal(500, "api_error", "internal_error", "The gateway had an internal error.")
