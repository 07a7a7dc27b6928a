"""Answers that are passed on while they come: event streams, and answers too long to hold.

The head of a stream is held back until its first event, so that a backend that answers 200 and then fails can still be
replaced by another.
"""

import logging
from contextlib import aclosing, suppress
from typing import NamedTuple

from zuebee.contracts.inference import End, Events, Head, Headers, Job, Usage
from zuebee.dialects.meter import Meter
from zuebee.dialects.openai import Bound
from zuebee.dialects.sse import begins_events
from zuebee.http.pool import Connection, HttpFailure, HttpPool, Timeouts
from zuebee.models.added_fields import REFUSED, Bounds, UsageOption
from zuebee.models.answer import (
    DROPPED,
    LongAnswer,
    Outcomes,
    StreamRelay,
    WholeAnswers,
    read_body,
    reported_usage,
    sorted_fields,
    without_coding,
)
from zuebee.models.estimate import PromptSizes
from zuebee.models.header_policy import AnswerFields, RequestHead
from zuebee.models.lanes import Lane, NotSaid
from zuebee.models.unpacking import READABLE, SELDOM_READ, Unpacker

DONE_WAIT_S = 0.05

_log = logging.getLogger("zuebee.models")


class _Opened(NamedTuple):
    """An answer whose beginning is known: `held` is the whole of it where it is no stream of events, else None, and
    `begun` what was read of the stream.
    """

    connection: Connection
    held: bytes | None = None
    begun: bytes = b""


class Streams:
    """Runs the jobs of one backend whose answers are passed on piece by piece.

    `include_usage`: see `UsageOption`.
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
        sizes: PromptSizes,
        bounds: Bounds,
        *,
        include_usage: str,
        quiet_s: float,
        max_event_bytes: int,
    ) -> None:
        self._name = name
        self._url = url
        self._pool = pool
        self._head = head
        self._timeouts = timeouts
        self._outcomes = outcomes
        self._whole_answers = whole_answers
        self._sizes = sizes
        self._bounds = bounds
        self._quiet_s = quiet_s
        self._max_event_bytes = max_event_bytes
        self._usage_option = UsageOption(include_usage)

    async def long_answer(self, job: Job, connection: Connection, begun: bytes) -> Events:
        """An answer too long to hold: passed on as it comes, its usage read from its last bytes."""

        fields = sorted_fields(connection)
        answer = LongAnswer(job, begun, coding=fields.coding) if connection.status < 300 else None
        unpacker = Unpacker(fields.coding) if fields.coding in SELDOM_READ else None

        def usage(*, whole: bool = False) -> Usage | None:
            return None if answer is None else answer.usage(whole=whole)

        try:
            if (refused := self._outcomes.unfit(connection.status, fields, begun)) is not None:
                yield refused
                return
            passed = fields.passed.copy()
            chunked = any(name == b"transfer-encoding" for name, _ in connection.headers)
            if unpacker is not None:
                passed = without_coding(passed)
            elif fields.content_length and not chunked:  # of both, the chunks count (RFC 9112, section 6.3)
                passed.append((b"content-length", fields.content_length))
            yield Head(connection.status, passed, self._name, usage, backend_url=self._url)
            data: bytes | None = begun
            while data:
                if answer is not None:
                    answer.passes(data)
                if unpacker is None:
                    yield data
                else:
                    for piece in unpacker.pieces(data):
                        yield piece
                    if unpacker.broken:
                        raise HttpFailure("malformed", "it cannot be unpacked")
                data = await connection.read()
            yield self._outcomes.end(usage(whole=True))
        except HttpFailure as failure:
            yield self._outcomes.failed(failure, usage())
        finally:
            connection.finish()

    async def run(self, job: Job, lane: Lane) -> Events:
        """The answer to a job that asks for an event stream."""
        connection = None
        stream = StreamRelay(lane.meter(job, self._max_event_bytes), self._quiet_s)
        meter, started = stream.meter, False
        try:
            connection, held, read = await self._open(job, lane)
            if held is not None:
                if connection.status >= 400 or (connection.complete and not connection.buffered_bytes):
                    yield self._whole_answers.read(job, connection, held, lane)
                    return
                if lane.translates:
                    raise HttpFailure("malformed", "too long to be translated")
                async with aclosing(self.long_answer(job, connection, held)) as events:
                    async for event in events:
                        yield event
                return
            if (fields := sorted_fields(connection)).coding:
                stream.unpack(fields.coding)
            begun = await stream.begin(connection, read)
            if not fields.coding and (body := _no_stream(connection, meter, begun)) is not None:
                yield self._whole_answers.read(job, connection, body, lane)
                return
            if meter.chunks or meter.done:
                started = True
                yield self._stream_head(job, connection, stream, lane)
                if begun:
                    yield begun
                while (more := await stream.next_event(connection)) is not None:
                    yield more
            yield self._end(job, meter)
        except NotSaid as unsaid:
            yield self._outcomes.end(None, unsaid.refusal, sent=False)
        except HttpFailure as failure:
            if started and (last := meter.end()):
                yield last
            if meter.whole or meter.told is not None:
                yield self._end(job, meter)
            else:
                yield self._outcomes.failed(failure, self._usage(job, meter) if meter.chunks else None)
        finally:
            if connection is not None:
                await _leave(connection, meter)

    async def _open(self, job: Job, lane: Lane) -> _Opened:
        """Send the job."""
        asks = self._usage_option.asks(asked=lane.asks_usage(job))
        return await self._send(job, lane, self._bounds.of(job), asks=asks)

    async def _send(self, job: Job, lane: Lane, bound: Bound | None, *, asks: bool, again: bool = False) -> _Opened:
        body = lane.body(job, usage=asks, bound=bound)
        head = self._head.post(job, len(body), lane.path(job), lane.query(job))
        connection = await self._pool.send(head, body, self._timeouts, request=job)
        good = connection.status < 300
        if good and _is_event_stream(connection.headers) and _is_readable(sorted_fields(connection)):
            return _Opened(connection)
        try:
            # What is called something else, or nothing at all, may be the stream that was asked for.
            begun = await _begun(connection) if good else b""
            if good and sorted_fields(connection).coding:
                return _Opened(connection, begun)  # it passes as it comes
            if good and begins_events(begun):
                return _Opened(connection, begun=begun)
            held = await read_body(connection, lane.max_held_bytes, begun)
            if asks and self._usage_option.may_be_refused(connection.status, held):
                connection.finish()
                opened = await self._send(job, lane, bound, asks=False, again=again)
                if opened.connection.status == 200 and self._usage_option.taken_without(job):
                    _log.warning("%s refuses stream_options: usage of its streams will be estimated", self._name)
                return opened
            if bound is not None and not again and connection.status in REFUSED:
                connection.finish()
                return await self._send(job, lane, self._bounds.another(job, held), asks=asks, again=True)
            if not connection.complete and 300 <= connection.status < 400:
                raise HttpFailure("malformed", "not an event stream, and too long")
        except BaseException:
            connection.finish()
            raise
        return _Opened(connection, held)

    def _stream_head(self, job: Job, connection: Connection, stream: StreamRelay, lane: Lane) -> Head:
        fields = sorted_fields(connection)
        passed = without_coding(fields.passed) if fields.coding else fields.passed.copy()
        if lane.translates and (warnings := lane.warnings(job)):
            passed.append((DROPPED, warnings))
        return Head(
            connection.status,
            passed,
            self._name,
            lambda: self._usage(job, stream.meter),
            events=True,
            pump=lambda sink, keepalive: stream.pump(connection, sink, keepalive),
            backend_url=self._url,
        )

    def _usage(self, job: Job, meter: Meter) -> Usage:
        whole = meter.whole
        if (figures := meter.figures) is not None:
            return reported_usage(figures, "provider" if whole else "partial")
        tokens = meter.tokens
        if meter.unread and job.max_output_tokens is not None:  # its size says less than its bound
            tokens = min(tokens, job.max_output_tokens * job.choices * job.prompts)
        return Usage(job.prompt_tokens, tokens, "estimate" if whole else "partial")

    def _end(self, job: Job, meter: Meter) -> End:
        usage = self._usage(job, meter) if meter.chunks or meter.usage else None
        if meter.whole:
            if (figures := meter.figures) is not None:
                self._sizes.learn(job, figures.prompt)
            end = self._outcomes.end(usage)
            end.last_words = meter.close()
            return end
        if (told := meter.told) is not None:
            return self._outcomes.reported(told, usage)
        if meter.fault:
            return self._outcomes.failed(HttpFailure("malformed", meter.fault), usage)
        return self._outcomes.failed(HttpFailure("ended_early", "the stream ended early"), usage)


async def _leave(connection: Connection, meter: Meter) -> None:
    """After `[DONE]` only the end of the body is missing; with it the connection can be used again."""
    try:
        if meter.done and not connection.complete and not connection.buffered_bytes:
            with suppress(HttpFailure):
                await connection.read(DONE_WAIT_S)
    finally:
        connection.finish()


def _is_readable(fields: AnswerFields) -> bool:
    return not fields.coding or fields.coding in READABLE


async def _begun(connection: Connection) -> bytes:
    """The beginning of a body, as much of it as tells whether it is a stream of events."""
    begun = b""
    while data := await connection.read():
        begun += data
        if begins_events(begun) is not None:
            break
    return begun


def _no_stream(connection: Connection, meter: Meter, begun: bytes) -> bytes | None:
    """The whole answer, where what called itself a stream of events is a JSON object."""
    if meter.chunks or meter.over or not connection.complete:
        return None
    body = begun + meter.begun_event
    return body if body.lstrip().startswith(b"{") else None


def _is_event_stream(headers: Headers) -> bool:
    for name, value in headers:
        if name == b"content-type":
            return value.lstrip()[:17].lower() == b"text/event-stream"  # RFC 9110, section 8.3.1
    return False
