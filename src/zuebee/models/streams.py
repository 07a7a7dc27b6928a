"""Answers that are passed on while they come: event streams, and answers too long to hold.

The head of a stream is held back until its first event, so that a backend that answers 200 and then fails can still be
replaced by another.
"""

import logging
from contextlib import suppress

from zuebee.contracts.inference import End, Events, Head, Headers, Job, Usage
from zuebee.dialects import openai
from zuebee.dialects.openai_stream import StreamMeter
from zuebee.kit.http_client import Connection, HttpFailure, HttpPool, Timeouts
from zuebee.models.estimate import TokenRatios
from zuebee.models.long_answer import LongAnswer
from zuebee.models.outcomes import Outcomes
from zuebee.models.request_head import RequestHead
from zuebee.models.stream import StreamRelay
from zuebee.models.whole_answer import MAX_HELD_BYTES, WholeAnswers, read_body, reported_usage, sorted_fields

DONE_WAIT_S = 0.05

_log = logging.getLogger("zuebee.models")


class Streams:
    """Runs the jobs of one backend whose answers are passed on piece by piece.

    `include_usage`: `always`, `never`, or `auto`, which stops asking streams for their usage once the backend refuses.
    """

    def __init__(
        self,
        name: str,
        url: str,
        pool: HttpPool,
        head: RequestHead,
        timeouts: Timeouts,
        outcomes: Outcomes,
        whole_answers: WholeAnswers,
        ratios: TokenRatios,
        *,
        include_usage: str,
        quiet_s: float,
    ) -> None:
        self._name = name
        self._url = url
        self._pool = pool
        self._head = head
        self._timeouts = timeouts
        self._outcomes = outcomes
        self._whole_answers = whole_answers
        self._ratios = ratios
        self._quiet_s = quiet_s
        self._asks_usage = include_usage != "never"
        self._may_stop_asking = include_usage == "auto"

    async def long_answer(self, job: Job, connection: Connection, begun: bytes) -> Events:
        """An answer too long to hold: passed on as it comes, its usage read from its last bytes."""
        answer = LongAnswer(job, self._prompt_estimate(job), begun) if connection.status < 300 else None

        def usage(*, whole: bool = False) -> Usage | None:
            return None if answer is None else answer.usage(whole=whole)

        try:
            fields = sorted_fields(connection)
            if (refused := self._outcomes.unfit(connection.status, fields)) is not None:
                yield refused
                return
            passed = fields.passed.copy()
            if fields.content_length:
                passed.append((b"content-length", fields.content_length))
            yield Head(connection.status, passed, self._name, usage, backend_url=self._url)
            data: bytes | None = begun
            while data:
                if answer is not None:
                    answer.passes(data)
                yield data
                data = await connection.read()
            yield self._outcomes.end(usage(whole=True))
        except HttpFailure as failure:
            yield self._outcomes.failed(failure, usage())
        finally:
            connection.finish()

    async def run(self, job: Job) -> Events:
        """The answer to a job that asks for an event stream."""
        connection = None
        stream = StreamRelay(StreamMeter(hide_usage=not job.stream_usage), self._quiet_s)
        meter = stream.meter
        try:
            connection, held = await self._open(job)
            if held is not None:
                yield self._whole_answers.read(job, connection, held)
                return
            begun = await stream.begin(connection)
            if meter.chunks or meter.done:
                yield self._stream_head(job, connection, stream)
                if begun:
                    yield begun
                while (more := await stream.next_event(connection)) is not None:
                    yield more
            yield self._end(job, meter)
        except HttpFailure as failure:
            if meter.whole:
                yield self._end(job, meter)
            else:
                yield self._outcomes.failed(failure, self._usage(job, meter) if meter.chunks else None)
        finally:
            if connection is not None:
                await _leave(connection, meter)

    async def _open(self, job: Job) -> tuple[Connection, bytes | None]:
        """Send the job. The second value is the whole body where the answer is no event stream."""
        asks = self._asks_usage and not job.stream_usage
        body = openai.ask_for_usage(job.body) if asks else job.body
        connection = await self._pool.send(self._head.post(job, len(body)), body, self._timeouts)
        if connection.status == 200 and _is_event_stream(connection.headers):
            return connection, None
        try:
            held = await read_body(connection, MAX_HELD_BYTES)
            if asks and self._may_stop_asking and connection.status in (400, 422) and b"stream_options" in held:
                self._asks_usage = False
                _log.warning("%s refuses stream_options: usage of its streams will be estimated", self._name)
                connection.finish()
                return await self._open(job)
            if not connection.complete:
                raise HttpFailure("malformed", "not an event stream, and too long")
        except BaseException:
            connection.finish()
            raise
        return connection, held

    def _stream_head(self, job: Job, connection: Connection, stream: StreamRelay) -> Head:
        return Head(
            200,
            sorted_fields(connection).passed.copy(),
            self._name,
            lambda: self._usage(job, stream.meter),
            events=True,
            pump=lambda sink, heartbeat: stream.pump(connection, sink, heartbeat),
            backend_url=self._url,
        )

    def _prompt_estimate(self, job: Job) -> int:
        return self._ratios.estimate(job.model, len(job.body))

    def _usage(self, job: Job, meter: StreamMeter) -> Usage:
        whole = meter.whole
        if meter.usage is not None:
            return reported_usage(meter.usage, "provider" if whole else "partial")
        return Usage(self._prompt_estimate(job), meter.tokens, "estimate" if whole else "partial")

    def _end(self, job: Job, meter: StreamMeter) -> End:
        usage = self._usage(job, meter) if meter.chunks or meter.usage else None
        if meter.whole:
            if meter.usage is not None:
                self._ratios.learn(job.model, len(job.body), meter.usage.prompt)
            end = self._outcomes.end(usage)
            end.last_words = meter.last_words
            return end
        if meter.error is not None:
            return self._outcomes.reported(meter.error, usage)
        if meter.fault:
            return self._outcomes.failed(HttpFailure("malformed", meter.fault), usage)
        return self._outcomes.failed(HttpFailure("truncated", "the stream ended early"), usage)


async def _leave(connection: Connection, meter: StreamMeter) -> None:
    """After `[DONE]` only the end of the body is missing; with it the connection can be used again."""
    try:
        if meter.done and not connection.complete and not connection.buffered_bytes:
            with suppress(HttpFailure):
                await connection.read(DONE_WAIT_S)
    finally:
        connection.finish()


def _is_event_stream(headers: Headers) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)
