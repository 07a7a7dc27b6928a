"""One backend as an `Inference`: sends the client's bytes, passes the answer on as it comes, reads the usage.

The body goes out as it came, but for `stream_options.include_usage` in streams. The head of a stream is held back until
its first event, so that a backend that answers 200 and then fails can still be replaced by another.
"""

import logging
import zlib
from contextlib import suppress

from msgspec import Raw

from zuebee.config import BackendSettings
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import (
    End,
    Events,
    FailureCause,
    Head,
    Headers,
    Job,
    Reply,
    Usage,
    UsageSource,
    begin,
)
from zuebee.dialects import openai
from zuebee.dialects.openai import Figures
from zuebee.dialects.openai_stream import StreamMeter
from zuebee.kit.http_client import Connection, HttpFailure, HttpPool, Timeouts
from zuebee.kit.http_connect import Origin
from zuebee.models.estimate import TokenRatios
from zuebee.models.headers import AnswerFields, downstream
from zuebee.models.long_answer import LongAnswer
from zuebee.models.request_head import RequestHead
from zuebee.models.stream import StreamRelay

MAX_HELD_BYTES = 1 << 20
DONE_WAIT_S = 0.05
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32

_log = logging.getLogger("zuebee.models")

_FAILURES: dict[str, tuple[int, str, FailureCause, str]] = {
    "connect": (503, "backend_unreachable", "connect_failure", "The model server cannot be reached."),
    "overflow": (503, "backend_busy", "overload", "The model server has too many requests."),
    "connect_timeout": (503, "backend_unreachable", "connect_failure", "The model server cannot be reached in time."),
    "first_byte_timeout": (504, "backend_timeout", "timeout", "The model server did not answer in time."),
    "idle_timeout": (504, "backend_stalled", "timeout", "The model server stopped in the middle of its answer."),
    "total_timeout": (504, "backend_timeout", "timeout", "The answer took longer than allowed."),
    "reset": (502, "backend_broken", "broken", "The model server closed the connection."),
    "truncated": (502, "incomplete_answer", "broken", "The model server's answer broke off."),
    "malformed": (502, "bad_answer", "broken", "The model server's answer is not valid."),
}


class BackendInference:
    """Runs jobs on one backend over a pool of kept connections."""

    def __init__(
        self, settings: BackendSettings, name: str, proxy_url: str | None, quiet_s: float, ratios: TokenRatios
    ) -> None:
        origin = Origin(
            settings.url, timeout_s=settings.connect_timeout_s, ca_file=settings.ca_file, proxy_url=proxy_url
        )
        self.name = name
        self.url = settings.url
        self._pool = HttpPool(origin, max_idle=settings.max_idle_connections, max_connections=settings.max_connections)
        self._head = RequestHead(
            settings.url,
            api_key=settings.api_key,
            headers=settings.headers,
            forward_headers=settings.forward_headers,
            authority=origin.authority,
            request_prefix=origin.request_prefix,
            proxy_lines=origin.request_headers,
            tell_caller=settings.tell_caller,
            timeout_s=settings.timeout_s,
        )
        self._timeouts = Timeouts(settings.first_byte_timeout_s, settings.idle_timeout_s, settings.timeout_s)
        self._quiet_s = quiet_s
        self._asks_usage = settings.include_usage != "never"
        self._may_stop_asking = settings.include_usage == "auto"
        self._ratios = ratios

    async def get(self, path: str, method: str, timeout_s: float, max_bytes: int = MAX_HELD_BYTES) -> tuple[int, bytes]:
        """Status and body of a small request of the gateway's own (probes, model lists). Raises HttpFailure."""
        timeouts = Timeouts(timeout_s, timeout_s, timeout_s)
        connection = await self._pool.send(self._head.get(path, method), b"", timeouts, is_head=method == "HEAD")
        try:
            return connection.status, await _read(connection, max_bytes)
        finally:
            connection.finish()

    def close(self) -> None:
        """Let go of the idle connections; running jobs finish."""
        self._pool.close()

    # --- answers in one piece ---

    async def run(self, job: Job) -> Reply:
        """See `Inference.run`."""
        if job.stream:
            return await begin(self._run_stream(job))
        connection = None
        try:
            connection = await self._pool.send(self._head.post(job, len(job.body)), job.body, self._timeouts)
            body = connection.take_whole()
            if body is None:
                body = await _read(connection, MAX_HELD_BYTES)
                if not connection.complete or connection.buffered_bytes:
                    long, connection = connection, None
                    return await begin(self._long_answer(job, long, body))
            return self._whole_answer(job, connection, body), None
        except HttpFailure as failure:
            return self._failed(failure), None
        finally:
            if connection is not None:
                connection.finish()

    def _whole_answer(self, job: Job, connection: Connection, body: bytes) -> Head | End:
        """An answer that is all there, or why it must not be given."""
        fields, status = _fields(connection), connection.status
        if (refused := self._unfit(status, fields)) is not None:
            return refused
        usage = None
        if status < 300 and body:
            try:
                usage = self._answer_usage(job, fields, body)
            except openai.NotJson:
                return self._failed(HttpFailure("malformed", "not JSON"))
            if usage.source == "estimate" and (error := openai.answer_error(body)) is not None:
                return self._reported(error, None)
        passed = [*fields.passed, (b"content-length", b"%d" % len(body))]
        return Head(status, passed, self.name, lambda: usage, False, None, 1, self.url, (body, self._end(usage)))

    async def _long_answer(self, job: Job, connection: Connection, begun: bytes) -> Events:
        """An answer too long to hold: passed on as it comes, its usage read from its last bytes."""
        answer = LongAnswer(job, self._prompt_estimate(job), begun) if connection.status < 300 else None

        def usage(*, whole: bool = False) -> Usage | None:
            return None if answer is None else answer.usage(whole=whole)

        try:
            fields = _fields(connection)
            if (refused := self._unfit(connection.status, fields)) is not None:
                yield refused
                return
            passed = fields.passed.copy()
            if fields.content_length:
                passed.append((b"content-length", fields.content_length))
            yield Head(connection.status, passed, self.name, usage, backend_url=self.url)
            data: bytes | None = begun
            while data:
                if answer is not None:
                    answer.passes(data)
                yield data
                data = await connection.read()
            yield self._end(usage(whole=True))
        except HttpFailure as failure:
            yield self._failed(failure, usage())
        finally:
            connection.finish()

    def _answer_usage(self, job: Job, fields: AnswerFields, body: bytes) -> Usage:
        body = _decoded(body) if fields.encoded else body
        figures = openai.answer_usage(body) if body else None
        if figures is None:
            completion_tokens = round(openai.answer_text_bytes(body) / 4)
            return Usage(self._prompt_estimate(job), completion_tokens, "estimate")
        self._ratios.learn(job.model, len(job.body), figures.prompt)
        return _reported_usage(figures)

    def _prompt_estimate(self, job: Job) -> int:
        return self._ratios.estimate(job.model, len(job.body))

    def _unfit(self, status: int, fields: AnswerFields) -> End | None:
        """What must not reach a client: redirects, pages, and the backend's opinion of the gateway's own key."""
        if status == 401:
            _log.error("%s refuses the gateway's own key: check api_key of this backend", self.name)
            refusal = Refusal(502, "api_error", "backend_refused_key", "The model server refuses the gateway's key.")
            return self._end(None, refusal, "unwelcome")
        if 300 <= status < 400 or (status < 300 and b"text/html" in fields.content_type):
            return self._failed(HttpFailure("malformed", f"status {status}, not an answer of a model server"))
        return None

    # --- streams ---

    async def _run_stream(self, job: Job) -> Events:
        connection = None
        stream = StreamRelay(StreamMeter(hide_usage=not job.stream_usage), self._quiet_s)
        meter = stream.meter
        try:
            connection, held = await self._open_stream(job)
            if held is not None:
                yield self._whole_answer(job, connection, held)
                return
            begun = await stream.begin(connection)
            if meter.chunks or meter.done:
                yield self._stream_head(job, connection, stream)
                if begun:
                    yield begun
                while (more := await stream.next_event(connection)) is not None:
                    yield more
            yield self._stream_end(job, meter)
        except HttpFailure as failure:
            if meter.whole:
                yield self._stream_end(job, meter)
            else:
                yield self._failed(failure, self._stream_usage(job, meter) if meter.chunks else None)
        finally:
            if connection is not None:
                await self._leave(connection, meter)

    async def _open_stream(self, job: Job) -> tuple[Connection, bytes | None]:
        """Send the job. The second value is the whole body where the answer is no event stream."""
        asks = self._asks_usage and not job.stream_usage
        body = openai.ask_for_usage(job.body) if asks else job.body
        connection = await self._pool.send(self._head.post(job, len(body)), body, self._timeouts)
        if connection.status == 200 and _is_event_stream(connection.headers):
            return connection, None
        try:
            held = await _read(connection, MAX_HELD_BYTES)
            if asks and self._may_stop_asking and connection.status in (400, 422) and b"stream_options" in held:
                self._asks_usage = False
                _log.warning("%s refuses stream_options: usage of its streams will be estimated", self.name)
                connection.finish()
                return await self._open_stream(job)
            if not connection.complete:
                raise HttpFailure("malformed", "not an event stream, and too long")
        except BaseException:
            connection.finish()
            raise
        return connection, held

    def _stream_head(self, job: Job, connection: Connection, stream: StreamRelay) -> Head:
        return Head(
            200,
            _fields(connection).passed.copy(),
            self.name,
            lambda: self._stream_usage(job, stream.meter),
            events=True,
            pump=lambda sink, heartbeat: stream.pump(connection, sink, heartbeat),
            backend_url=self.url,
        )

    def _stream_usage(self, job: Job, meter: StreamMeter) -> Usage:
        whole = meter.whole
        if meter.usage is not None:
            return _reported_usage(meter.usage, "provider" if whole else "partial")
        return Usage(self._prompt_estimate(job), meter.tokens, "estimate" if whole else "partial")

    def _stream_end(self, job: Job, meter: StreamMeter) -> End:
        usage = self._stream_usage(job, meter) if meter.chunks or meter.usage else None
        if meter.whole:
            if meter.usage is not None:
                self._ratios.learn(job.model, len(job.body), meter.usage.prompt)
            end = self._end(usage)
            end.last_words = meter.last_words
            return end
        if meter.error is not None:
            return self._reported(meter.error, usage)
        if meter.fault:
            return self._failed(HttpFailure("malformed", meter.fault), usage)
        return self._failed(HttpFailure("truncated", "the stream ended early"), usage)

    def _reported(self, error: Raw, usage: Usage | None) -> End:
        """A backend that answered 200 says in the answer that it failed."""
        status, code, message = openai.read_error(error)
        refusal = Refusal(
            status or 502,
            "invalid_request_error" if 400 <= status < 500 else "api_error",
            code or "backend_error",
            message or "The model server reported an error.",
        )
        return self._end(usage, refusal, "none" if 400 <= status < 500 else "overload")

    async def _leave(self, connection: Connection, meter: StreamMeter) -> None:
        """After `[DONE]` only the end of the body is missing; with it the connection can be used again."""
        try:
            if meter.done and not connection.complete and not connection.buffered_bytes:
                with suppress(HttpFailure):
                    await connection.read(DONE_WAIT_S)
        finally:
            connection.finish()

    def _failed(self, failure: HttpFailure, usage: Usage | None = None) -> End:
        status, code, cause, message = _FAILURES[failure.kind]
        _log.info("%s: %s: %s", self.name, failure.kind, failure.message)
        refusal = Refusal(
            status,
            "timeout_error" if status == 504 else "overloaded_error" if status == 503 else "api_error",
            code,
            message,
            retry_after_s=None if failure.sent else 1.0,
            should_retry=not failure.sent,
        )
        return self._end(usage, refusal, cause, sent=failure.sent)

    def _end(
        self, usage: Usage | None, refusal: Refusal | None = None, cause: FailureCause = "none", *, sent: bool = True
    ) -> End:
        return End(usage, refusal, cause, sent, self.name, backend_url=self.url)


def _fields(connection: Connection) -> AnswerFields:
    """The header fields of an answer, sorted; of those that came before, as they were sorted then."""
    memory = connection.memory
    if memory is None:
        return downstream(connection.headers)
    if (fields := memory.get(AnswerFields)) is None:
        fields = memory[AnswerFields] = downstream(connection.headers)
    return fields


def _reported_usage(figures: Figures, source: UsageSource = "provider") -> Usage:
    return Usage(figures.prompt, figures.completion, source, figures.cached)


def _decoded(body: bytes) -> bytes:
    """A compressed answer, which nobody asked for, as far as it can be read; `b""` if it cannot."""
    try:
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, 4 * MAX_HELD_BYTES)
    except zlib.error:
        return b""


def _is_event_stream(headers: Headers) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)


async def _read(connection: Connection, max_bytes: int) -> bytes:
    """The body up to its end, or until more than `max_bytes` are there."""
    data = await connection.read() or b""
    if connection.complete and not connection.buffered_bytes:
        return data
    parts = [data]
    size = len(data)
    while data and size <= max_bytes:
        data = await connection.read() or b""
        parts.append(data)
        size += len(data)
    return b"".join(parts)
