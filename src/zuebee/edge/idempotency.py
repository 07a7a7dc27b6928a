"""Requests with an `Idempotency-Key`: the first one runs, the others get its answer.

What is kept: whatever ended by itself and may have been billed, an error of the backend included. What is not: refusals
before the backend was asked, answers that were cut from outside (shutdown, a revoked key), and what may safely be tried
again; then the key is free. The answer is kept before its last byte goes out and before it is settled: whoever repeats
a request whose end was lost is never charged twice.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256

from zuebee.contracts.admission import Caller, Principal
from zuebee.contracts.errors import INTERNAL, Refusal, bad_request
from zuebee.contracts.idempotency import REUSED, TOO_LARGE, IdempotencyRecord, IdempotencyStore, Ticket, in_progress
from zuebee.contracts.inference import Headers, Job, Sink
from zuebee.dialects import registry
from zuebee.dialects.hub.wires import OPENAI, Wire
from zuebee.dialects.openai import INLINE_BYTES
from zuebee.edge.client import Client, error_reply
from zuebee.lib.aside import aside
from zuebee.lib.tasks import Tasks

# An answer that several clients read: one runs it, others join, all get the same bytes.

REPLAYED = (b"idempotent-replayed", b"true")
PIECE_BYTES = 1 << 16

LOST = replace(
    in_progress(0.0),
    message="The request with this Idempotency-Key was stopped before it was answered; it may be sent again.",
)


class Recording:
    """What was said so far of one answer, up to `max_bytes`; beyond, it is `outgrown` and forgotten.

    `early`: its head is there, but nothing yet that was answered.
    """

    def __init__(self, ticket: Ticket, max_bytes: int) -> None:
        self.ticket = ticket
        self.outgrown = False
        self.over = False
        self.whole = False
        self.refusal: Refusal | None = None
        self.head: tuple[int, Headers, bool] | None = None
        self.early = False
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._size = 0
        self._waiting: list[asyncio.Future[None]] = []

    # --- for who runs it ---

    def begin(self, status: int, headers: Headers, *, events: bool, early: bool = False) -> None:
        """The head of the answer."""
        self.head, self.early = (status, list(headers), events), early
        self._tell()

    def add(self, data: bytes) -> None:
        """More of its body."""
        if self.outgrown or self.over:
            return
        self.early = False
        self._size += len(data)
        if self._size > self._max_bytes:
            self.outgrown = True
            self._pieces.clear()
        else:
            self._pieces.append(data)
        if self._waiting:
            self._tell()

    def load(self, answer: IdempotencyRecord) -> None:
        """Fill it with the answer of a record."""
        self.begin(answer.status, answer.headers, events=answer.events)
        body = answer.body
        self.whole = True
        self._pieces = [body[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES)]
        self.end(None)

    def end(self, refusal: Refusal | None) -> None:
        """It is over; `refusal`: without an answer, or without the rest of it. Later calls change nothing."""
        if not self.over:
            self.over = True
            self.refusal = refusal
            self._tell()

    def answer(self, last: bytes) -> IdempotencyRecord | None:
        """The whole answer, its body ending with `last`; None if it was too large."""
        assert self.head is not None
        self._size += len(last)
        if self.outgrown or self._size > self._max_bytes:
            return None
        status, headers, events = self.head
        return IdempotencyRecord(status, headers, b"".join((*self._pieces, last)), events)

    def _tell(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    # --- for who joins ---

    async def play(
        self, client: Client, keepalive_s: float, on_start: Callable[[int, bool], None], on_end: Callable[[int], None]
    ) -> Refusal | None:
        """Give the answer to a client, as far as it is there and then as it comes; a refusal: nothing was sent.

        `on_start` is told its status and whether it is a stream, `on_end` its bytes, before the last of it goes out.
        """
        while (head := self._playable()) is None:
            if self.outgrown or self.over:
                return TOO_LARGE if self.outgrown else self.refusal or LOST
            await self._change(0.0)
        status, headers, events = head
        on_start(status, events)
        await client.start(status, _replayed(headers, self._pieces, events=events), events=events)
        given = size = 0
        while True:
            while given < len(self._pieces):
                await client.write(piece := self._pieces[given])
                given, size = given + 1, size + len(piece)
            if self._stopped():
                break
            if not await self._change(keepalive_s):
                await client.write(client.wire.keepalive)
        if (broken := TOO_LARGE if self.outgrown else self.refusal) is not None:
            await client.write(client.wire.render_error_event(broken))
        on_end(size)
        await client.finish()
        return None

    def _playable(self) -> tuple[int, Headers, bool] | None:
        """The head, once it may go out: of a stream at once, of another answer when all of it is there."""
        if self.head is None or self.outgrown or self.refusal is not None:
            return None
        return self.head if self.head[2] or self.over else None

    def _stopped(self) -> bool:
        return self.outgrown or self.over

    async def _change(self, timeout_s: float) -> bool:
        """Wait for news; False when there was none for `timeout_s` (0: wait for ever, as the run has its deadlines)."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(timeout_s or None):
                await waiting
        except TimeoutError:
            return False
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
        return True


def _replayed(headers: Headers, pieces: list[bytes], *, events: bool) -> Headers:
    fields = [*headers, REPLAYED]
    if not events and all(name != b"content-length" for name, _ in headers):
        fields.append((b"content-length", b"%d" % sum(map(len, pieces))))
    return fields


class RecordingClient:
    """A client whose answer is recorded on its way. Heartbeats are no part of it."""

    def __init__(self, client: Client, recording: Recording) -> None:
        self._client = client
        self._recording = recording
        self.takes_comments = client.takes_comments
        self.wire = client.wire
        self.translates = client.translates
        self.unfit = client.unfit
        self.read_job = client.read_job
        self.cancel = client.cancel
        self.outlive = client.outlive
        self.refuse = client.refuse
        self.answer = client.answer

    async def start(self, status: int, headers: Headers, *, events: bool) -> None:
        self._recording.begin(status, headers, events=events)
        await self._client.start(status, headers, events=events)

    async def start_early(self, headers: Headers) -> None:
        self._recording.begin(200, headers, events=True, early=True)
        await self._client.start_early(headers)

    async def write(self, data: bytes) -> None:
        if data is not self.wire.keepalive:
            self._recording.add(data)
        await self._client.write(data)

    async def finish(self, last: bytes = b"") -> None:
        if last:
            self._recording.add(last)
        self._recording.whole = True
        await self._client.finish(last)

    def sink(self) -> Sink | None:
        sink = self._client.sink()
        return None if sink is None else _RecordingSink(sink, self._recording, self.wire.keepalive)


class _RecordingSink:
    def __init__(self, sink: Sink, recording: Recording, keepalive: bytes) -> None:
        self._keepalive = keepalive
        self._sink = sink
        self._recording = recording

    @property
    def written_bytes(self) -> int:
        return self._sink.written_bytes

    def write(self, data: bytes) -> bool:
        if data is not self._keepalive:
            self._recording.add(data)
        return self._sink.write(data)

    async def drain(self) -> None:
        await self._sink.drain()


HEADER = b"idempotency-key"
MAX_KEY_BYTES = 255
FREE_WAIT_S = 2.0

INVALID_KEY = bad_request(
    f"The header Idempotency-Key must have 1 to {MAX_KEY_BYTES} printable ASCII characters.",
    param="Idempotency-Key",
    code="invalid_idempotency_key",
)
TWO_KEYS = replace(INVALID_KEY, message="The header Idempotency-Key is given more than once.")


class Attempt:
    """The one that runs."""

    __slots__ = ("_answers", "_claimed", "recording")

    def __init__(self, answers: IdempotencyStore, recording: Recording) -> None:
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

    async def decide_refusal(self, refusal: Refusal, request_id: str, wire: Wire = OPENAI) -> None:
        """It ended in an error: keep that, if a backend may have worked for it, else free the key."""
        head_sent = self.recording.head is not None and not self.recording.early
        if refusal.status < 500 or refusal.should_retry or refusal is INTERNAL or head_sent:
            await self.free()
        elif self._claimed:
            status, headers, body = error_reply(refusal, request_id, wire)
            await self._keep(IdempotencyRecord(status, headers, body, events=False))

    async def free(self) -> None:
        """Let the key be used again."""
        if self._claimed:
            await self._answers.free(self.recording.ticket)
            self._claimed = False

    async def _keep(self, answer: IdempotencyRecord | None) -> None:
        self._claimed = False  # from here on it is kept, whatever becomes of this request
        await self._answers.keep(self.recording.ticket, answer)


Execute = Callable[[Attempt], Awaitable[Refusal | None]]
Play = Callable[[Recording], Awaitable[Refusal | None]]


class Replays:
    """All requests with a key that run in this process, and the answers that are kept."""

    def __init__(self, answers: IdempotencyStore) -> None:
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
            return await self._first(ticket, request_id, registry.wire(job.dialect), execute, play)
        if running.ticket.fingerprint != ticket.fingerprint:
            self.counts["refused"] += 1
            return REUSED
        self.counts["joined"] += 1
        return await play(running)

    async def _first(self, ticket: Ticket, request_id: str, wire: Wire, execute: Execute, play: Play) -> Refusal | None:
        recording = self._running[ticket.id] = Recording(ticket, self._answers.max_bytes)
        attempt = Attempt(self._answers, recording)
        refusal: Refusal | None = LOST
        try:
            found = await self._answers.find(ticket)
            if found is None:
                self.counts["run"] += 1
                refusal = await execute(attempt)
                if refusal is not None:
                    await attempt.decide_refusal(refusal, request_id, wire)
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
