"""Answers, whole, too long to hold or streamed: what goes to the client, what they cost, how they end."""

import logging
import math
from collections.abc import Callable
from typing import Final

from zuebee.contracts.errors import BACKEND_ERROR, BAD_ANSWER, CUT_SHORT, Refusal
from zuebee.contracts.inference import QUIET, End, FailureCause, Head, Headers, Job, Quiet, Sink, Usage, UsageSource
from zuebee.dialects import openai
from zuebee.dialects.meter import Meter
from zuebee.dialects.openai import Told
from zuebee.dialects.openai_usage import TokenCounts
from zuebee.http.pool import Connection, HttpFailure
from zuebee.lib import clock
from zuebee.models.estimate import PromptSizes
from zuebee.models.header_policy import AnswerFields, downstream
from zuebee.models.lanes import Lane
from zuebee.models.unpacking import READABLE, SELDOM_READ, Unpacker

# How a job on a backend ended, in the pipeline's words.


_FAILURES: Final[dict[str, tuple[int, str, FailureCause, str]]] = {
    "connect": (503, "backend_unreachable", "connect_failure", "The model server cannot be reached."),
    "overflow": (503, "backend_busy", "overload", "The model server has too many requests."),
    "connect_timeout": (503, "backend_unreachable", "connect_failure", "The model server cannot be reached in time."),
    "first_byte_timeout": (504, "backend_timeout", "timeout", "The model server did not answer in time."),
    "idle_timeout": (504, "backend_stalled", "timeout", "The model server stopped in the middle of its answer."),
    "total_timeout": (504, "backend_timeout", "timeout", "The answer took longer than allowed."),
    "reader_timeout": (408, "client_too_slow", "none", "The answer was taken too slowly."),
    "reset": (502, "backend_broken", "died", "The model server closed the connection."),
    "truncated": (502, CUT_SHORT.code, "died", CUT_SHORT.message),
    "ended_early": (502, CUT_SHORT.code, "broken", CUT_SHORT.message),
    "malformed": (502, BAD_ANSWER.code, "broken", BAD_ANSWER.message),
}

_SENT_ELSEWHERE: Final = frozenset({301, 302, 307, 308})
"""Redirects of a request that nobody acted upon (RFC 9110, section 15.4). They are not followed."""


class Outcomes:
    """The ends of the jobs of one backend."""

    def __init__(self, name: str, url: str) -> None:
        self._name = name
        self._url = url

    def end(
        self, usage: Usage | None, refusal: Refusal | None = None, cause: FailureCause = "none", *, sent: bool = True
    ) -> End:
        """An end of this backend; without a refusal a good one."""
        return End(usage, refusal, cause, sent, self._name, backend_url=self._url)

    def failed(self, failure: HttpFailure, usage: Usage | None = None) -> End:
        """The connection, or what came over it, failed."""
        status, code, cause, message = _FAILURES[failure.kind]
        if cause == "connect_failure" and failure.sent:
            cause = "gone"
        _log.info("%s: %s: %s", self._name, failure.kind, failure.message)
        refusal = Refusal(
            status,
            "timeout_error" if status in (408, 504) else "overloaded_error" if status == 503 else "api_error",
            code,
            message,
            retry_after_s=None if failure.sent else 1.0,
            should_retry=not failure.sent,
        )
        return self.end(usage, refusal, cause, sent=failure.sent)

    def reported(self, told: Told, usage: Usage | None) -> End:
        """A backend that answered 200 says in the answer that it failed."""
        if told.status == 401:
            return self._refuses_us(usage)
        refusal = Refusal(
            told.status or 502,
            "invalid_request_error" if 400 <= told.status < 500 else "api_error",
            told.code or BACKEND_ERROR,
            told.message or openai.NO_MESSAGE,
            told=told.shown,
        )
        return self.end(usage, refusal, "none" if 400 <= told.status < 500 else "overload")

    def _refuses_us(self, usage: Usage | None) -> End:
        _log.error("%s refuses the gateway's own key: check api_key of this backend", self._name)
        refusal = Refusal(502, "api_error", "backend_refused_key", "The model server refuses the gateway's key.")
        return self.end(usage, refusal, "unwelcome")

    def unfit(self, status: int, fields: AnswerFields, body: bytes) -> End | None:
        """What must not reach a client: redirects, pages, and the backend's opinion of the gateway's own key.

        What calls itself a page and begins as an answer does is an answer.
        """
        if status == 401:
            return self._refuses_us(None)
        page = status < 300 and fields.is_page and not body.lstrip().startswith(b"{")
        if 300 <= status < 400 or page:
            failure = HttpFailure("malformed", f"status {status}, not an answer of a model server")
            end = self.failed(failure, Usage(0, 0, "estimate"))  # whoever said that did no work
            if status in _SENT_ELSEWHERE:
                end.cause = "unwelcome"
            return end
        return None


# An answer too long to hold, on its way through: what it has cost so far, and what it says itself in the end.

TAIL_BYTES = openai.TAIL_BYTES
BYTES_PER_TOKEN = 4
BYTES_PER_TOKEN_WITH_LOGPROBS = 100


class LongAnswer:
    """Counts what passes. Usage stands at the end of an answer, as a rule, else before it; `begun` is its beginning.

    `coding`: how it is compressed. What cannot be unpacked counts by the size in which it comes.
    """

    def __init__(self, job: Job, begun: bytes, *, coding: bytes = b"") -> None:
        self._job = job
        self._unpacker = Unpacker(coding) if coding in READABLE else None
        self._looks_at_beginning = self._unpacker is not None
        self._begun = None if self._looks_at_beginning else openai.tail_usage(begun)
        self._tail = b""
        self._passed_bytes = 0
        self._per_token = 0

    def passes(self, data: bytes) -> None:
        """A piece of it goes to the client."""
        if self._unpacker is None or self._unpacker.broken:
            self._count(data)
            return
        for piece in self._unpacker.pieces(data):
            if self._looks_at_beginning:
                self._begun, self._looks_at_beginning = openai.tail_usage(piece), False
            self._count(piece)

    def _count(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        self._passed_bytes += len(data)

    def usage(self, *, whole: bool) -> Usage:
        """The figures of the answer where they have come by, else an estimate from its size."""
        figures = openai.tail_usage(self._tail) or self._begun
        if figures is not None:
            return reported_usage(figures, "provider" if whole else "partial")
        return Usage(self._job.prompt_tokens, self._completion_estimate(), "estimate" if whole else "partial")

    def _completion_estimate(self) -> int:
        job = self._job
        if job.operation == "embeddings":
            return 0
        if not self._per_token:  # looked for once: this is asked every second
            self._per_token = BYTES_PER_TOKEN_WITH_LOGPROBS if b'"logprobs"' in job.body else BYTES_PER_TOKEN
        tokens = self._passed_bytes // self._per_token
        if job.max_output_tokens is None:
            return tokens
        return min(tokens, job.max_output_tokens * job.choices * job.prompts)


def reported_usage(figures: TokenCounts, source: UsageSource = "provider") -> Usage:
    """The usage that a backend tells of."""
    f = figures
    return Usage(f.prompt, f.completion, source, f.cached, f.written, f.reasoning, odd=f.odd)


DROPPED: Final = b"x-zuebee-dropped-fields"
"""Names the fields of a request that its backend's dialect has no place for."""

MAX_UNPACKED_BYTES: Final = 4 << 20
"""A compressed answer that has more is looked at piece by piece, as long ones are."""

MAX_PASSED_PLAIN_BYTES: Final = 16 << 20
"""One in a coding that many cannot read is passed as it came only if it has more."""

MAX_ID_BYTES: Final = 200
_log: Final = logging.getLogger("zuebee.models")


class WholeAnswers:
    """Reads the answers of one backend that are all there."""

    def __init__(self, name: str, url: str, outcomes: Outcomes, sizes: PromptSizes) -> None:
        self._name = name
        self._url = url
        self._outcomes = outcomes
        self._sizes = sizes

    def read(self, job: Job, connection: Connection, body: bytes, lane: Lane) -> Head | End:
        """An answer with its usage, or why it must not be given."""
        fields, status = sorted_fields(connection), connection.status
        outcomes = self._outcomes
        if (refused := outcomes.unfit(status, fields, body)) is not None:
            return refused
        usage, allowed, coding = None, fields.passed, fields.coding
        if coding in SELDOM_READ and (read := _decoded(body, coding, MAX_PASSED_PLAIN_BYTES)):
            body, coding, allowed = read, b"", without_coding(allowed)
        if status >= 400:
            theirs = next((value for name, value in connection.headers if name == b"x-request-id"), b"")
            name = theirs[:MAX_ID_BYTES].decode("latin-1")
            _log.info("%s: %s: status %d, its request id %r", self._name, job.request_id, status, name)
            body, allowed = _as_error(job, lane, status, allowed, coding, body)
        elif status < 300 and (body or lane.translates):
            plain = _decoded(body, coding) if coding else body
            try:
                if lane.translates and not plain:
                    raise openai.InvalidJsonAnswer("empty, or packed")
                usage = self._usage(job, plain, lane) if plain else _usage_of_packed(job, body, coding)
                if usage.source == "estimate" and (told := lane.error_in(plain)) is not None:
                    return outcomes.reported(told, None)
                if lane.translates:
                    body, allowed = lane.answer(job, plain), as_json(allowed, lane.warnings(job))
            except openai.InvalidJsonAnswer:
                return outcomes.failed(HttpFailure("malformed", "not what its dialect says"), usage)
        passed = [*allowed, (b"content-length", b"%d" % len(body))]
        return Head(status, passed, self._name, lambda: usage, False, None, 1, self._url, (body, outcomes.end(usage)))

    def _usage(self, job: Job, body: bytes, lane: Lane) -> Usage:
        figures = lane.usage(job, body)
        if figures is None:
            tokens = round(lane.text_bytes(job, body) / 4)
            return Usage(job.prompt_tokens, tokens, "estimate")
        self._sizes.learn(job, figures.prompt)
        return reported_usage(figures)


def sorted_fields(connection: Connection) -> AnswerFields:
    """The header fields of an answer, sorted; of those that came before, as they were sorted then."""
    attachment = connection.attachment
    if attachment is None:
        return downstream(connection.headers)
    fields = attachment.value
    if not isinstance(fields, AnswerFields):
        fields = attachment.value = downstream(connection.headers)
    return fields


async def read_body(connection: Connection, max_bytes: int, begun: bytes = b"") -> bytes:
    """The body up to its end, or until more than `max_bytes` are there; `begun` was read already."""
    data = begun or await connection.read() or b""
    if connection.complete and not connection.buffered_bytes:
        return data
    parts = [data]
    size = len(data)
    while data and size <= max_bytes:
        data = await connection.read() or b""
        parts.append(data)
        size += len(data)
    return b"".join(parts)


def without_coding(passed: Headers) -> Headers:
    """The header fields of an answer that is passed on unpacked."""
    return [field for field in passed if field[0] != b"content-encoding"]


def _as_error(job: Job, lane: Lane, status: int, passed: Headers, coding: bytes, body: bytes) -> tuple[bytes, Headers]:
    """An error answer as SDKs can read it; what is one already passes as it came."""
    plain = _decoded(body, coding) if coding else body
    error = lane.error(job, status, plain)
    return (body, passed) if error is None else (error, as_json(passed, b""))


def as_json(passed: Headers, warnings: bytes) -> Headers:
    """The header fields of an answer that the gateway has written anew."""
    kept = [field for field in passed if field[0] not in (b"content-type", b"content-encoding")]
    if warnings:
        kept.append((DROPPED, warnings))
    return [(b"content-type", b"application/json"), *kept]


def _usage_of_packed(job: Job, body: bytes, coding: bytes) -> Usage:
    """What an answer has cost that is too large unpacked, or cannot be unpacked."""
    answer = LongAnswer(job, body, coding=coding)
    answer.passes(body)
    return answer.usage(whole=True)


def _decoded(body: bytes, coding: bytes, max_bytes: int = MAX_UNPACKED_BYTES) -> bytes:
    """A compressed answer, which nobody asked for, as far as it is held; `b""` if it cannot be read."""
    if coding not in READABLE:
        return b""
    unpacker, parts, size = Unpacker(coding), [], 0
    for piece in unpacker.pieces(body):
        parts.append(piece)
        size += len(piece)
        if size > max_bytes:
            return b""
    return b"" if unpacker.broken else b"".join(parts)


# An event stream between the socket and its reader: metered, and pulled or pushed.

MAX_BEGUN_BYTES: Final = 1 << 20
"""Comments before the first event are held back with the head; nobody needs more of them."""


FINISHED_WAIT_S: Final = 3.0
"""Behind the last finish reason come usage and `[DONE]`, at once. Some servers say nothing more, and hold the line."""


class StreamRelay:
    """One event stream on its way through its meter. `quiet_s`: silence of which readers are told; 0: of none."""

    def __init__(self, meter: Meter, quiet_s: float, finished_wait_s: float = FINISHED_WAIT_S) -> None:
        self.meter = meter
        self._feed: Callable[[bytes], bytes] = meter.feed
        self._quiet_s = quiet_s
        # Silence is looked at this often, so that all the time that a reader waits is a multiple of it.
        self._look_s = quiet_s / math.ceil(quiet_s / finished_wait_s) if quiet_s else finished_wait_s
        self._finished_wait_s = finished_wait_s
        self._silent_s = 0.0
        self._finished_at_s = 0.0
        self._failure: HttpFailure | None = None

    def unpack(self, coding: bytes) -> None:
        """The body is compressed: what is read and passed on is what it unpacks to."""
        unpacker, feed = Unpacker(coding), self.meter.feed

        def unpacked(data: bytes) -> bytes:
            return b"".join([feed(piece) for piece in unpacker.pieces(data)])

        self._feed = unpacked

    async def begin(self, connection: Connection, begun_body: bytes = b"") -> bytes:
        """All up to and with the first event that counts; `begun_body` was read already. Raises HttpFailure."""
        begun = b""
        while not (self.meter.chunks or self.meter.over):
            data, begun_body = begun_body or await connection.read(), b""
            if not data:
                begun += self.meter.end()
                break
            begun += self._feed(data)
            if len(begun) > MAX_BEGUN_BYTES and not self.meter.chunks:
                raise HttpFailure("malformed", "comments without end before the first event")
        return begun

    async def next_event(self, connection: Connection) -> bytes | Quiet | None:
        """The next events that pass, None at the end. Raises HttpFailure."""
        if self._failure is not None:
            raise self._failure
        while not self.meter.over:
            data = await connection.read(self._look_s)
            if data is None:
                is_quiet = self._is_quiet()
                if self._has_finished():
                    return None
                if is_quiet:
                    return QUIET
                continue
            self._silent_s = 0.0
            if not data:
                return self.meter.end() or None
            if block := self._feed(data):
                return None if block.startswith(b":") and self._has_finished() else block
        return None

    async def pump(self, connection: Connection, sink: Sink, keepalive: bytes) -> None:
        """Push all that is still to come into `sink`, straight from the socket.

        It raises nothing: a failure is for `next_event` to tell.
        """
        meter, feed, write = self.meter, self._feed, sink.write

        def take(data: bytes) -> bool:
            block = feed(data)
            return (not block or (write(block) and not block.startswith(b":"))) and not meter.over

        try:
            while not meter.over:
                poured = await connection.pour(take, self._look_s)
                if poured is None:
                    if self._is_quiet():
                        write(keepalive)
                elif not poured:
                    return
                else:
                    self._silent_s = 0.0
                if self._has_finished():
                    return
                await sink.drain()
        except HttpFailure as failure:
            self._failure = failure

    def _is_quiet(self) -> bool:
        """Nothing came since the last look: whether the reader is to be told now."""
        self._silent_s += self._look_s
        if not self._quiet_s or self.meter.amid_event:
            return False
        looks = round(self._silent_s / self._look_s)
        return looks % max(round(self._quiet_s / self._look_s), 1) == 0

    def _has_finished(self) -> bool:
        """Whether it is whole, and nothing but comments or silence followed for a while."""
        if not self.meter.whole:
            self._finished_at_s = 0.0
            return False
        if not self._finished_at_s:
            self._finished_at_s = clock.monotonic_s() - self._silent_s
        return clock.monotonic_s() - self._finished_at_s >= self._finished_wait_s
