"""PURE. What callers who repeat a request are told, where they cannot have its answer."""

from zuebee.contracts.errors import Refusal

REUSED = Refusal(
    422,
    "invalid_request_error",
    "idempotency_key_reused",
    "This Idempotency-Key was used for another request.",
    "Idempotency-Key",
)
TOO_LARGE = Refusal(
    409,
    "invalid_request_error",
    "idempotency_answer_too_large",
    "The answer to the request with this Idempotency-Key was too large to be kept.",
    "Idempotency-Key",
)
LOST = Refusal(
    409,
    "invalid_request_error",
    "idempotency_answer_lost",
    "The request with this Idempotency-Key was begun, and its answer could not be kept: it is not run again.",
    "Idempotency-Key",
)
UNKNOWN = Refusal(
    503,
    "api_error",
    "idempotency_unavailable",
    "Whether this request was answered before cannot be found out just now.",
    retry_after_s=1.0,
    should_retry=True,
)


def in_progress(wait_s: float) -> Refusal:
    """409: it runs in another process, or did until that died; `wait_s` until the next look is worth it."""
    return Refusal(
        409,
        "invalid_request_error",
        "idempotency_in_progress",
        "The request with this Idempotency-Key is still running.",
        "Idempotency-Key",
        retry_after_s=max(1.0, wait_s),
        should_retry=True,
    )
