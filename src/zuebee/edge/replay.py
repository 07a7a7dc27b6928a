"""Requests with an `Idempotency-Key`: the first one runs, the others get its answer.

What is kept: whatever ended by itself and may have been billed, an error of the backend included. What is not: refusals
before the backend was asked, answers that were cut from outside (shutdown, a revoked key), and what may safely be tried
again; then the key is free. The answer is kept before its last byte goes out and before it is settled: whoever repeats
a request whose end was lost is never charged twice.
"""

import hmac
from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import sha256

from zuebee.contracts.admission import Caller, Principal
from zuebee.contracts.answers import Answers, KeptAnswer, Ticket
from zuebee.contracts.errors import INTERNAL, Refusal, bad_request
from zuebee.contracts.inference import Job
from zuebee.dialects.openai import INLINE_BYTES
from zuebee.edge.recording import LOST, Recording
from zuebee.edge.replies import error_reply
from zuebee.kit.aside import aside
from zuebee.kit.tasks import Tasks

HEADER = b"idempotency-key"
MAX_KEY_BYTES = 255
FREE_WAIT_S = 2.0

INVALID_KEY = bad_request(
    f"The header Idempotency-Key must have 1 to {MAX_KEY_BYTES} printable ASCII characters.",
    param="Idempotency-Key",
    code="invalid_idempotency_key",
)
TWO_KEYS = bad_request(
    "The header Idempotency-Key is given more than once.", param="Idempotency-Key", code="invalid_idempotency_key"
)
REUSED = Refusal(
    422,
    "invalid_request_error",
    "idempotency_key_reused",
    "This Idempotency-Key was used for another request.",
    "Idempotency-Key",
)


class Attempt:
    """The one that runs."""

    __slots__ = ("_answers", "_claimed", "recording")

    def __init__(self, answers: Answers, recording: Recording) -> None:
        self.recording = recording
        self._claimed = False
        self._answers = answers

    @property
    def undecided(self) -> bool:
        """Whether the key is still claimed, and its answer neither kept nor given up."""
        return self._claimed

    async def claim(self) -> Refusal | None:
        """Note that it runs; a refusal when it may not, for it runs elsewhere."""
        self._claimed = True
        return await self._answers.claim(self.recording.ticket)

    async def decide(self, last: bytes = b"") -> None:
        """The answer is over but for its end: keep it, with `last` behind it, or free the key if it is not worth it."""
        head = self.recording.head
        if head is not None and _may_have_cost(head[0]):
            await self._keep(self.recording.answer(last))
        else:
            await self.free()

    async def decide_refusal(self, refusal: Refusal, request_id: str) -> None:
        """It ended in an error: keep that, if a backend may have worked for it, else free the key."""
        head_sent = self.recording.head is not None and not self.recording.early
        if refusal.status < 500 or refusal.should_retry or refusal is INTERNAL or head_sent:
            await self.free()
        elif self._claimed:
            status, headers, body = error_reply(refusal, request_id)
            await self._keep(KeptAnswer(status, headers, body, events=False))

    async def free(self) -> None:
        """Let the key be used again."""
        if self._claimed:
            await self._answers.free(self.recording.ticket)
            self._claimed = False

    async def _keep(self, answer: KeptAnswer | None) -> None:
        self._claimed = False  # from here on it is kept, whatever becomes of this request
        await self._answers.keep(self.recording.ticket, answer)


Execute = Callable[[Attempt], Awaitable[Refusal | None]]
Play = Callable[[Recording], Awaitable[Refusal | None]]


class Replays:
    """All requests with a key that run in this process, and the answers that are kept."""

    def __init__(self, answers: Answers) -> None:
        self.counts = dict.fromkeys(("run", "joined", "replayed", "refused"), 0)
        self._answers = answers
        self._running: dict[str, Recording] = {}
        self._tasks = Tasks()

    async def aclose(self) -> None:
        """Wait for the keys that are being freed, but not for long."""
        await self._tasks.wait(FREE_WAIT_S)
        await self._tasks.aclose()

    async def answer(
        self, key: bytes, principal: Principal, job: Job, request_id: str, execute: Execute, play: Play
    ) -> Refusal | None:
        """Answer a request by `execute`, or with what another one got, by `play`. Both may refuse."""
        if not (0 < len(key) <= MAX_KEY_BYTES and key.isascii() and key.decode().isprintable()):
            return INVALID_KEY
        if sum(name == HEADER for name, _ in job.headers) > 1:
            return TWO_KEYS
        if len(job.body) <= INLINE_BYTES:
            ticket = self._answers.ticket(principal, key, job)
        else:
            ticket = await aside(len(job.body), partial(self._answers.ticket, principal, key, job))
        running = self._running.get(ticket.id)
        if running is None:
            return await self._first(ticket, request_id, execute, play)
        if running.ticket.fingerprint != ticket.fingerprint:
            self.counts["refused"] += 1
            return REUSED
        self.counts["joined"] += 1
        return await play(running)

    async def _first(self, ticket: Ticket, request_id: str, execute: Execute, play: Play) -> Refusal | None:
        recording = self._running[ticket.id] = Recording(ticket, self._answers.max_bytes)
        attempt = Attempt(self._answers, recording)
        refusal: Refusal | None = LOST
        try:
            found = await self._answers.find(ticket)
            if found is None:
                self.counts["run"] += 1
                refusal = await execute(attempt)
                if refusal is not None:
                    await attempt.decide_refusal(refusal, request_id)
            elif isinstance(found, Refusal):
                self.counts["refused"] += 1
                refusal = found
            else:
                self.counts["replayed"] += 1
                recording.load(found)
                refusal = await play(recording)
            return refusal
        finally:
            recording.end(None if recording.whole else refusal or LOST)
            if attempt.undecided:
                # Cut short, perhaps in the middle of a wait: the key is freed by somebody with time.
                self._tasks.spawn(self._free(attempt), "free an idempotency key")
            else:
                self._running.pop(ticket.id)

    async def _free(self, attempt: Attempt) -> None:
        try:
            await attempt.free()
        finally:
            self._running.pop(attempt.recording.ticket.id, None)


async def is_signed_for(caller: Caller, body: bytes) -> bool:
    """Whether the caller's signature, if it gave one, is for this body: admission asks only about what is to run."""
    if not caller.body_sha256:
        return True
    digest = sha256(body) if len(body) <= INLINE_BYTES else await aside(len(body), partial(sha256, body))
    return hmac.compare_digest(caller.body_sha256.lower(), digest.hexdigest())


def _may_have_cost(status: int) -> bool:
    """Whether an answer of a backend may have been billed; a 503 says that it did not begin."""
    return status < 400 or (status >= 500 and status != 503)
