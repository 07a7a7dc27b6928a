"""An answer in one piece: what of it goes to the client, and what it has cost."""

import logging
from typing import Final

from zuebee.contracts.inference import End, Head, Headers, Job, Usage
from zuebee.dialects import openai
from zuebee.dialects.openai_errors import as_openai_error
from zuebee.kit.http_client import Connection, HttpFailure
from zuebee.models.answer_fields import AnswerFields, downstream
from zuebee.models.estimate import PromptSizes
from zuebee.models.long_answer import LongAnswer, reported_usage
from zuebee.models.outcomes import Outcomes
from zuebee.models.unpacking import READABLE, SELDOM_READ, Unpacker

MAX_HELD_BYTES: Final = 1 << 20
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

    def read(self, job: Job, connection: Connection, body: bytes) -> Head | End:
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
            told = theirs[:MAX_ID_BYTES].decode("latin-1")
            _log.info("%s: %s: status %d, its request id %r", self._name, job.request_id, status, told)
            body, allowed = _as_error(status, allowed, coding, body)
        elif status < 300 and body:
            plain = _decoded(body, coding) if coding else body
            try:
                usage = self._usage(job, plain) if plain else _usage_of_packed(job, body, coding)
            except openai.NotJson:
                return outcomes.failed(HttpFailure("malformed", "not JSON"))
            if usage.source == "estimate" and (error := openai.answer_error(plain)) is not None:
                return outcomes.reported(error, None)
        passed = [*allowed, (b"content-length", b"%d" % len(body))]
        return Head(status, passed, self._name, lambda: usage, False, None, 1, self._url, (body, outcomes.end(usage)))

    def _usage(self, job: Job, body: bytes) -> Usage:
        figures = openai.answer_usage(body)
        if figures is None:
            tokens = round(openai.answer_text_bytes(body) / 4)
            return Usage(job.prompt_tokens, tokens, "estimate")
        self._sizes.learn(job, figures.prompt)
        return reported_usage(figures)


def sorted_fields(connection: Connection) -> AnswerFields:
    """The header fields of an answer, sorted; of those that came before, as they were sorted then."""
    memory = connection.memory
    if memory is None:
        return downstream(connection.headers)
    if (fields := memory.get(AnswerFields)) is None:
        fields = memory[AnswerFields] = downstream(connection.headers)
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


def _as_error(status: int, passed: Headers, coding: bytes, body: bytes) -> tuple[bytes, Headers]:
    """An error answer as SDKs can read it; what is one already passes as it came."""
    plain = _decoded(body, coding) if coding else body
    error = as_openai_error(plain, status)
    if error is None:
        return body, passed
    kept = [field for field in passed if field[0] not in (b"content-type", b"content-encoding")]
    return error, [(b"content-type", b"application/json"), *kept]


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
