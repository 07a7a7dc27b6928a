"""The idempotency store: what the edge asks it, and what it answers."""

from typing import Protocol

import msgspec

from zuebee.contracts.admission import Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Headers, Job

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
    "The answer to the request with this Idempotency-Key is too large to be given twice.",
    "Idempotency-Key",
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


class Ticket(msgspec.Struct, frozen=True):
    """One request that names itself. `id` is the same for all requests of one caller with one name.

    `fingerprint` differs as soon as anything else of the request does. `secret` opens the record; it is made of
    the request itself and stands nowhere. `owner` tells this attempt from all others.
    """

    id: str
    fingerprint: str
    secret: bytes
    owner: int


class IdempotencyRecord(msgspec.Struct, frozen=True):
    """A whole answer, as its client saw it. `events`: its body is a stream of server-sent events."""

    status: int
    headers: Headers
    body: bytes
    events: bool


class IdempotencyStore(Protocol):
    """Keeps answers, for as long as is configured, so that only the same request of the same caller can read them."""

    max_bytes: int
    """A larger body is not kept."""

    def ticket(self, principal: Principal, key: bytes, job: Job) -> Ticket:
        """What `key`, the caller and the job come to."""
        ...

    async def find(self, ticket: Ticket) -> IdempotencyRecord | Refusal | None:
        """The record; None when the request may be run; a refusal when another one has this key, it runs
        elsewhere just now, its answer was too large, or nobody can say.
        """
        ...

    async def claim(self, ticket: Ticket) -> Refusal | None:
        """Note that the request runs, before it does. The claim lives as long as its process; a dead one's is free."""
        ...

    async def keep(self, ticket: Ticket, answer: IdempotencyRecord | None) -> None:
        """Keep the answer of a claimed ticket; None: it was too large. When it returns, it is on disk.

        It raises nothing: an answer that could not be kept is reported in the log.
        """
        ...

    async def free(self, ticket: Ticket) -> None:
        """Forget a claimed ticket: its key may be used again. It raises nothing."""
        ...
