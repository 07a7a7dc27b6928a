"""The life of a request: admit, run, relay, settle. The only place that calls admission.

Each request is settled exactly once, however it ends, before its last byte is handed to the client: whoever has seen
the end of an answer finds its place free again.

All ways in which a request ends, by the place where it was then:

    identify, read, replay, admit --> run --> head --> data -----> End --> hold on disk --> settle --> last byte
       |                 |             |                 |          |           |
       1 refused         2 replayed    3 no answer       4 broken   5 whole     6 not kept
                                                                    7 cannot be told
    at any time before `settle`:  8 client leaves   9 cut by the gateway   10 a defect

     | who decides               | the client sees                 | recorded as; with the status   | charged
   --+---------------------------+---------------------------------+--------------------------------+---------------
   1 | admission, `read_job`,    | the refusal                     | refused; the refusal's         | nothing
     | the idempotency store     |                                 |                                |
   2 | `Replays`: it came before | what the first one got          | complete, or refused if that   | nothing
     |                           |                                 | is an error; the first one's   |
   3 | `inference`: an `End`     | its refusal, 502 or 504, say    | timeout, upstream_broken, or   | its usage; the
     | before a `Head`           |                                 | refused if no backend failed;  | prompt, if one
     |                           |                                 | the refusal's                  | may have worked
   4 | `inference`: an `End`     | a stream: an error event, no    | as 3; the head's               | its usage
     | with a refusal            | `[DONE]`; else the connection   |                                |
     |                           | closed before the end           |                                |
   5 | `inference`: an `End`     | all of it                       | complete, or refused if the    | its usage
     | without one               |                                 | backend's status is an error;  |
     |                           |                                 | the head's                     |
   6 | billing: no hold on disk  | 503, no byte of the answer      | refused; 503                   | nothing
   7 | `Client.unfit` (gRPC)     | an error                        | upstream_broken; the error's,  | the prompt; a
     |                           |                                 | of a stream the head's         | stream: its usage
   8 | the server: the task is   | nothing                         | client_gone; 499               | usage so far,
     | cancelled                 |                                 |                                | else the prompt
   9 | `end`: a stop, or         | the refusal                     | shutdown or cut; the refusal's | as 8
     | `attend` (key, budget)    |                                 |                                |
  10 | an exception              | 500                             | failed; 500                    | nothing, before
     |                           |                                 |                                | the `End`

* An answer has begun when the head of a stream has gone out, or the second piece of another answer: the head and the
  first piece are held back. From then on 8 to 10 are recorded with the status of the head, 9 is seen as 4, and 10 as a
  connection closed before the end. A stream may begin early (`Prelude`); then 3 is seen as 4, and its status is 200.
* 5 is `client_gone` where the client has left and its request went on (`Disconnects`); it is charged all the same. When
  the bounds of going on are passed, that is 8.
* 8 and 9 pay nothing while no backend can have seen the job: before it is admitted, and in a queue. In 8 the prompt is
  at least what was held for it. What went to disk together with its hold is 5, whoever leaves or cuts.
* A fault in the bytes of a body (400, 408, 431) is told by the server (`http/protocol.py`), and here it is 8.
* What is not let in at all (`Pipeline.refuse`, faults in a head) is recorded as 1, `serve_known` as 1 or 5 at no cost;
  of its requests those that are cancelled or fail are not recorded.
* What is released: `Admission.settle` gives back the places in the limits, posts the hold with what is charged, or
  voids it, and tells metrics and access log; of what had a grant a usage record is kept. Closing the events stops the
  backend, `Replays` keeps the answer or frees the key, `run` ends heartbeats and the count of `Disconnects`.
* A process that dies settles nothing: the ledger ends its holds later (`owner_lost`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from zuebee.config.settings_billing import DisconnectSettings
from zuebee.contracts.admission import Admission, Caller, Grant, Principal, Settlement, TerminationReason
from zuebee.contracts.errors import BACKEND_ERROR, BAD_ANSWER, BODY_NOT_SIGNED, CLIENT_LEFT, DRAINED, INTERNAL, Refusal
from zuebee.contracts.inference import End, Events, Head, Headers, Inference, Job, Reply, Usage
from zuebee.edge.client import JSON, Client, conclusion, may_have_begun, prompt_only, reason_of, relayed_headers
from zuebee.edge.detached import DETACH, DetachedRequest, Disconnects
from zuebee.edge.idempotency import HEADER, Attempt, Recording, RecordingClient, Replays, is_signed_for
from zuebee.edge.prelude import Prelude, as_stream, closing, early_headers
from zuebee.edge.uploads import early_places, enter
from zuebee.lib import clock
from zuebee.lib.tasks import Tasks


class RequestContext:
    """One request on its way. `end` cuts it short from outside."""

    __slots__ = (
        "_asked",
        "_attempt",
        "_began",
        "_client",
        "_cut_for",
        "_detached_request",
        "_events",
        "_head",
        "_job",
        "_pipeline",
        "_prelude",
        "_settled",
        "_started_s",
        "settlement",
    )  # fmt: skip

    def __init__(self, pipeline: "Pipeline", client: Client, settlement: Settlement) -> None:
        self.settlement = settlement
        self._pipeline = pipeline
        self._client = client
        self._started_s = clock.monotonic_s()
        self._settled = False
        self._cut_for: Refusal | None = None
        self._asked: Job | None = None
        self._job: Job | None = None  # since a backend may see it
        self._head: Head | None = None
        self._began = False
        self._events = False
        self._detached_request: DetachedRequest | None = None
        self._attempt: Attempt | None = None
        self._prelude: Prelude | None = None

    def end(self, reason: Refusal = DRAINED) -> None:
        """Cut it short: tell the client why, settle, and be done."""
        self._cut_for = reason
        if self._asked is not None:
            self._asked.cut_for = reason
        self._client.cancel()

    async def run(self, caller: Caller) -> None:
        """From the first look to the settlement. Raises nothing but cancellation that is not ours."""
        running = self._pipeline.running
        running.add(self)
        left, failure = False, None
        try:
            refusal = await self._admit_and_relay(caller)
            if refusal is not None:
                termination_reason = self.settlement.termination_reason
                self._settle_refused(refusal, "refused" if termination_reason == "failed" else termination_reason)
                await self._tell(refusal)
        except asyncio.CancelledError:
            left = True
        except Exception as error:
            failure = error
        # Nothing is awaited in the handlers themselves: see `closing`.
        try:
            # Settled is settled: its client had the whole answer, and is free to leave before we are done with it.
            if left and not self._settled:
                await self._cut()
            elif failure is not None and not self._settled:
                self._settle_refused(INTERNAL, "failed")
                if not self._began:
                    await self._client.refuse(INTERNAL)
        finally:
            if self._prelude is not None:
                self._prelude.stop()
            if not self._settled:
                self._settle()
            if self._detached_request is not None:
                self._detached_request.over()
            running.discard(self)
        if failure is not None:
            raise failure

    async def _admit_and_relay(self, caller: Caller) -> Refusal | None:
        settlement = self.settlement
        principal = await self._pipeline.admission.identify(caller)
        if not isinstance(principal, Principal):
            return principal
        settlement.principal = principal
        entering = partial(enter, self._pipeline.admission, caller, principal, settlement)
        job = await self._client.read_job(entering, principal.key_id or caller.address, self._pipeline.patience_s)
        if not isinstance(job, Job):
            return job
        if (aliases := self._pipeline.aliases) and (meant := aliases.get(job.model)) is not None:
            job.model = meant
        settlement.model = job.model
        settlement.stream = job.stream
        settlement.request_bytes = len(job.body)
        job.early = settlement.early
        self._asked = job
        if HEADER not in caller.fields or not principal.key_id or (replays := self._pipeline.replays) is None:
            return await self._run_job(caller, principal, job)
        if not await is_signed_for(caller, job.body):
            return BODY_NOT_SIGNED
        # Who names a request wants its outcome, also when the connection is lost meanwhile.
        self._go_on(DETACH)
        run = partial(self._run_job, caller, principal, job)
        return await replays.answer(caller.fields[HEADER], principal, job, settlement.request_id, run, self._play)

    async def _run_job(
        self, caller: Caller, principal: Principal, job: Job, attempt: Attempt | None = None
    ) -> Refusal | None:
        settlement = self.settlement
        grant = await self._pipeline.admission.admit(caller, principal, job)
        if isinstance(grant, Refusal):
            return grant
        settlement.grant = grant
        if attempt is not None:
            self._attempt = attempt
            self._client = RecordingClient(self._client, attempt.recording)
            if (refusal := await attempt.claim()) is not None:
                return refusal
        elif self._pipeline.disconnects.rules and (policy := self._pipeline.disconnects.policy(job.model)) is not None:
            self._go_on(policy)
        self._job = job
        job.priority = principal.priority
        job.sender = principal
        job.prompt_tokens = grant.prompt_tokens
        job.answer_bound = grant.answer_bound
        first, rest = await self._pipeline.inference.run(job) if not job.stream else await self._run_stream(job)
        if isinstance(first, End):
            return await self._finish(first)
        if rest is None:
            # The backend's place is free before the answer is accounted for.
            self._head = first
            return await self._answer(first)
        return await closing(rest, self._pass_on(first, rest))

    async def _run_stream(self, job: Job) -> Reply:
        """Run a job that asks for a stream, whose reader shall not wait in silence for its first event."""
        pipeline = self._pipeline
        if not pipeline.keepalive_s or not self._client.takes_comments:
            return await pipeline.inference.run(job)
        prelude = Prelude(
            pipeline.keepalive_s,
            self._begin_early,
            partial(self._client.write, self._client.wire.keepalive),
            pipeline.tasks,
        )
        self._prelude = prelude
        reply = await pipeline.inference.run(job)
        prelude.stop()
        return await as_stream(reply, self._client.wire, usage=job.stream_usage) if self._began else reply

    async def _begin_early(self) -> bool:
        """Begin a stream before there is anything of it; False: its hold is not on disk yet."""
        settlement, grant = self.settlement, self.settlement.grant
        if grant is not None and grant.hold is not None and not grant.hold.secured:
            return False
        self._began = self._events = True
        settlement.status = 200
        limits = grant.permit.headers() if grant is not None and grant.permit is not None else []
        await self._client.start_early(early_headers(limits, settlement.request_id))
        return True

    async def _pass_on(self, head: Head, events: Events) -> Refusal | None:
        """Pass an answer on as it comes."""
        settlement, client, detached_request = self.settlement, self._client, self._detached_request
        refusal, ended = None, False
        if head.events and (refusal := await self._secure()) is not None:
            return refusal
        await self._start(head)
        async for event in events:
            if isinstance(event, bytes):
                if detached_request is not None:
                    detached_request.passed(len(event))
                if self._events:
                    settlement.response_bytes += len(event)
                    await self._first_events(event)
                    continue
                if settlement.response_bytes and (refusal := await self._secure()) is not None:
                    return refusal  # the first piece was held back, and with it the head
                self._began = settlement.response_bytes > 0
                settlement.response_bytes += len(event)
                await client.write(event)
            elif isinstance(event, End):
                # Not left here: a reply that runs out ends more cheaply than one that is closed.
                refusal, ended = await self._finish(event), True
            elif self._events:
                await client.write(client.wire.keepalive)
        assert ended, "a reply ended without an End"
        return refusal

    async def _answer(self, head: Head) -> Refusal | None:
        """Give an answer that is all there."""
        assert head.rest is not None
        body, end = head.rest
        settlement = self.settlement
        if head.status < 400 and self._client.translates and (unfit := await self._client.unfit(body)) is not None:
            self._begin(head)
            return self._untold(unfit)
        settlement.response_bytes += len(body)
        if self._attempt is not None:
            await self._start(head)
            await self._client.write(body)
            return await self._finish(end)
        headers = self._begin(head)
        settlement.usage = end.usage
        self._conclude(end)
        settlement.duration_s = clock.monotonic_s() - self._started_s
        try:
            # First, for whoever is refused is not charged: what was settled is never taken back.
            refusal = await self._secure(settlement)
        except asyncio.CancelledError:
            if (grant := settlement.grant) is None or grant.hold is None or not grant.hold.joined:
                raise
            self._settle()  # it is on disk as what it is
            if self._cut_for is None:
                raise
            refusal = None
        if refusal is not None:
            settlement.usage, settlement.termination_reason = None, "failed"
            return refusal
        stored = self._settle()
        if stored is not None:
            await stored
        await self._client.answer(head.status, headers, body)
        return None

    def _go_on(self, policy: DisconnectSettings) -> None:
        """Let the request go on when its client leaves, within the bounds of the policy."""
        self._detached_request = DetachedRequest(self._pipeline.disconnects, policy, self._client.cancel)
        self._client.outlive(self._detached_request.client_left)

    async def _play(self, recording: Recording) -> Refusal | None:
        """Give an answer that another request got, or is getting; at no cost."""
        settlement = self.settlement
        self._client.outlive(lambda: False)
        if settlement.early is not None:
            self._pipeline.admission.leave(settlement.early)  # what others run is counted there

        def on_start(status: int, events: bool) -> None:
            self._began, self._events = True, events
            settlement.status = status

        def on_end(size: int) -> None:
            settlement.response_bytes = size
            settlement.termination_reason = "complete" if settlement.status < 400 else "refused"
            settlement.code = "" if settlement.status < 400 else BACKEND_ERROR
            self._settle()

        return await recording.play(self._client, self._pipeline.keepalive_s, on_start, on_end)

    async def _secure(self, settlement: Settlement | None = None) -> Refusal | None:
        """Wait until the hold is on disk: no byte of an answer leaves before it. `settlement`: see `Hold.wait`."""
        grant = self.settlement.grant
        if grant is None or grant.hold is None or grant.hold.secured:
            return None
        return await grant.hold.wait(settlement)

    async def _first_events(self, block: bytes) -> None:
        """Pass events on; the first ones tell when the first token came, and open the short way for the rest."""
        await self._client.write(block)
        if self.settlement.first_token_s < 0:
            self.settlement.first_token_s = clock.monotonic_s() - self._started_s
            sink = self._client.sink()
            if self._detached_request is not None:
                sink = self._detached_request.sink(sink)
            if self._head is not None and self._head.pump is not None and sink is not None:
                try:
                    await self._head.pump(sink, self._client.wire.keepalive)
                finally:
                    self.settlement.response_bytes += sink.written_bytes

    async def _start(self, head: Head) -> None:
        early = self._began
        headers = self._begin(head)
        if not early:
            await self._client.start(head.status, headers, events=head.events)

    def _begin(self, head: Head) -> Headers:
        """Take note of a head; the header fields that go to the client."""
        self._head = head
        self._began = self._events = head.events  # the head of another answer is held back
        settlement = self.settlement
        settlement.status = head.status
        settlement.backend = head.backend
        settlement.backend_url = head.backend_url
        settlement.attempts = head.attempts
        limits: Headers = []
        if (grant := settlement.grant) is not None:
            if head.events:  # of an answer in one piece the work is done: cutting it would save nothing
                grant.usage_so_far = head.usage_so_far
            if grant.permit is not None:
                limits = grant.permit.headers()
        return relayed_headers(head, limits, settlement.request_id)

    async def _finish(self, end: End) -> Refusal | None:
        settlement = self.settlement
        if self._head is None:
            settlement.usage = end.usage
            settlement.backend = end.backend
            settlement.backend_url = end.backend_url
            settlement.attempts = end.attempts
            settlement.termination_reason = reason_of(end)
            if end.usage is None and may_have_begun(end):
                settlement.usage = prompt_only(settlement)
            return end.refusal or INTERNAL
        if not self._events and (refusal := await self._secure()) is not None:
            return refusal
        unfit = None
        if self._client.translates and end.refusal is None and settlement.status < 400:
            unfit = await self._client.unfit(end.last_words)
            if unfit is not None and not self._events:
                return self._untold(unfit)
        settlement.usage = end.usage
        if self._attempt is not None and (end.refusal is None or self._events):
            await self._attempt.decide(
                end.last_words if end.refusal is None else self._client.wire.render_error_event(end.refusal)
            )
        self._conclude(end)
        if unfit is not None:
            settlement.termination_reason, settlement.code = "upstream_broken", _known_code(unfit)
        settlement.response_bytes += len(end.last_words)
        stored = self._settle()
        if stored is not None:
            await stored
        if end.refusal is not None:
            await self._break_off(end.refusal)
        else:
            await self._client.finish(end.last_words)
        return None

    def _untold(self, unfit: Refusal) -> Refusal:
        """Nobody sees anything of this answer: it is accounted for like one that makes no sense to begin with."""
        self._began = False
        self.settlement.usage = prompt_only(self.settlement)
        self._settle_refused(unfit, "upstream_broken", _known_code(unfit))
        return unfit

    def _conclude(self, end: End) -> None:
        settlement = self.settlement
        gone = self._detached_request is not None and self._detached_request.gone
        settlement.termination_reason, settlement.code = conclusion(end, settlement.status, client_gone=gone)

    async def _tell(self, refusal: Refusal) -> None:
        """Refuse, by what is left to do so."""
        if self._began:
            await self._break_off(refusal)
        else:
            await self._client.refuse(refusal)

    async def _break_off(self, refusal: Refusal) -> None:
        """The rest is missing: an event stream can say so; any other answer must not look whole."""
        if self._events:
            await self._client.finish(self._client.wire.render_error_event(refusal))

    async def _cut(self) -> None:
        """The task was cancelled: by `end`, or because the client left."""
        if self._prelude is not None:
            self._prelude.stop()
        settlement, job = self.settlement, self._job
        reason = self._cut_for
        if job is not None and reason is None and settlement.grant is not None:
            # Who leaves before the backend has counted the prompt pays what was held for it: to leave saves nothing.
            job.prompt_tokens = max(job.prompt_tokens, settlement.grant.prompt_held)
        if self._head is not None:
            settlement.usage = self._head.usage_so_far()
        elif job is not None and not job.waiting:
            # The backend may have read the prompt; nobody can say what that cost.
            settlement.usage = Usage(job.prompt_tokens, 0, "estimate")
        if reason is None:
            self._settle_refused(CLIENT_LEFT, "client_gone")
            return
        self._settle_refused(reason, "shutdown" if reason is DRAINED else "cut")
        await self._tell(reason)

    def _settle_refused(self, refusal: Refusal, termination_reason: TerminationReason, code: str = "") -> None:
        """Settle a request whose answer, or the rest of it, is a refusal; once it is settled, it stays as it is."""
        if self._settled:
            return
        settlement = self.settlement
        settlement.termination_reason, settlement.code = termination_reason, code or refusal.code
        if not self._began:
            settlement.status, settlement.response_bytes = refusal.status, 0
        self._settle()

    def _settle(self) -> Awaitable[None] | None:
        if self._settled:
            return None
        self._settled = True
        self.settlement.duration_s = clock.monotonic_s() - self._started_s
        return self._pipeline.admission.settle(self.settlement)


def _known_code(unfit: Refusal) -> str:
    """A code for the record, which has none that a model server made up."""
    return unfit.code if unfit.code == BAD_ANSWER.code else BACKEND_ERROR


class Pipeline:
    """What all exchanges share. `inference` may be replaced at any time (reload); running exchanges keep theirs.

    `replays`: what answers repeated requests, None: nothing does. `keepalive_s`: the longest silence in a stream.
    """

    def __init__(
        self, admission: Admission, inference: Inference, replays: Replays | None = None, keepalive_s: float = 15.0
    ) -> None:
        self.admission = admission
        self.inference = inference
        self.replays = replays
        self.keepalive_s = keepalive_s
        self.patience_s = 0.0  # how long a body is waited for before it takes a place
        self.disconnects = Disconnects()
        self.tasks = Tasks()
        self.running: set[RequestContext] = set()
        self.aliases: dict[str, str] = {}

    def serve(self, caller: Caller, client: Client, settlement: Settlement) -> Coroutine[Any, Any, None]:
        """Answer one request."""
        return RequestContext(self, client, settlement).run(caller)

    async def refuse(
        self, client: Client, settlement: Settlement, refusal: Refusal, extra: Headers | None = None
    ) -> None:
        """Refuse a request that is none of the known ones."""
        self.note_refusal(settlement, refusal)
        await client.refuse(refusal, extra)

    def note_refusal(self, settlement: Settlement, refusal: Refusal) -> None:
        """Settle a request that is refused without having been let in."""
        settlement.status, settlement.code, settlement.termination_reason = refusal.status, refusal.code, "refused"
        self.admission.settle(settlement)

    async def serve_known(
        self,
        caller: Caller,
        client: Client,
        settlement: Settlement,
        answer: Callable[[Principal], Awaitable[tuple[int, bytes] | Refusal]],
    ) -> None:
        """Give a JSON answer, at no cost, to callers who are known."""
        started_s = clock.monotonic_s()
        principal = await self.admission.identify(caller)
        reply = await answer(principal) if isinstance(principal, Principal) else principal
        if isinstance(principal, Principal):
            settlement.principal = principal
        settlement.duration_s = clock.monotonic_s() - started_s
        if isinstance(reply, Refusal):
            await self.refuse(client, settlement, reply)
            return
        settlement.status, settlement.termination_reason = reply[0], "complete"
        self.admission.settle(settlement)
        request_id = (b"x-request-id", settlement.request_id.encode())
        await client.answer(reply[0], [JSON, (b"content-length", b"%d" % len(reply[1])), request_id], reply[1])

    async def attend(self) -> None:
        """Look after the running exchanges, once a second: renew what they hold, cut those that may not go on."""
        granted: list[tuple[RequestContext, Grant]] = [
            (exchange, grant) for exchange in self.running if (grant := exchange.settlement.grant) is not None
        ]
        for grant, refusal in await self.admission.attend([grant for _, grant in granted], early_places(self.running)):
            for exchange, other in granted:
                if other is grant and exchange in self.running:
                    exchange.end(refusal)

    def end_all(self) -> None:
        """Cut all running exchanges short."""
        for exchange in list(self.running):
            exchange.end()
