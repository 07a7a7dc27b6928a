"""An answer in one piece: what of it goes to the client, and what it has cost."""

import zlib
from typing import Final

from zuebee.contracts.inference import End, Head, Job, Usage, UsageSource
from zuebee.dialects import openai
from zuebee.dialects.openai import Figures
from zuebee.kit.http_client import Connection, HttpFailure
from zuebee.models.answer_fields import AnswerFields, downstream
from zuebee.models.estimate import TokenRatios
from zuebee.models.outcomes import Outcomes

MAX_HELD_BYTES: Final = 1 << 20
_GZIP_OR_ZLIB: Final = zlib.MAX_WBITS | 32


class WholeAnswers:
    """Reads the answers of one backend that are all there."""

    def __init__(self, name: str, url: str, outcomes: Outcomes, ratios: TokenRatios) -> None:
        self._name = name
        self._url = url
        self._outcomes = outcomes
        self._ratios = ratios

    def read(self, job: Job, connection: Connection, body: bytes) -> Head | End:
        """An answer with its usage, or why it must not be given."""
        fields, status = sorted_fields(connection), connection.status
        outcomes = self._outcomes
        if (refused := outcomes.unfit(status, fields)) is not None:
            return refused
        usage = None
        if status < 300 and body:
            try:
                usage = self._usage(job, fields, body)
            except openai.NotJson:
                return outcomes.failed(HttpFailure("malformed", "not JSON"))
            if usage.source == "estimate" and (error := openai.answer_error(body)) is not None:
                return outcomes.reported(error, None)
        passed = [*fields.passed, (b"content-length", b"%d" % len(body))]
        return Head(status, passed, self._name, lambda: usage, False, None, 1, self._url, (body, outcomes.end(usage)))

    def _usage(self, job: Job, fields: AnswerFields, body: bytes) -> Usage:
        body = _decoded(body) if fields.encoded else body
        figures = openai.answer_usage(body) if body else None
        if figures is None:
            prompt_tokens = self._ratios.estimate(job.model, len(job.body))
            return Usage(prompt_tokens, round(openai.answer_text_bytes(body) / 4), "estimate")
        self._ratios.learn(job.model, len(job.body), figures.prompt)
        return reported_usage(figures)


def reported_usage(figures: Figures, source: UsageSource = "provider") -> Usage:
    """The usage that a backend tells of."""
    return Usage(figures.prompt, figures.completion, source, figures.cached)


def sorted_fields(connection: Connection) -> AnswerFields:
    """The header fields of an answer, sorted; of those that came before, as they were sorted then."""
    memory = connection.memory
    if memory is None:
        return downstream(connection.headers)
    if (fields := memory.get(AnswerFields)) is None:
        fields = memory[AnswerFields] = downstream(connection.headers)
    return fields


async def read_body(connection: Connection, max_bytes: int) -> bytes:
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


def _decoded(body: bytes) -> bytes:
    """A compressed answer, which nobody asked for, as far as it can be read; `b""` if it cannot."""
    try:
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, 4 * MAX_HELD_BYTES)
    except zlib.error:
        return b""
