"""Jobs whose client speaks another dialect than their backend: read into the hub form, and written anew."""

from functools import partial
from typing import Final

from zuebee.config.providers import PROVIDERS
from zuebee.config.settings import BackendSettings
from zuebee.contracts.errors import BACKEND_ERROR, UNSUPPORTED_ENDPOINT, Refusal, bad_request
from zuebee.contracts.heads import Dialect
from zuebee.contracts.inference import Job
from zuebee.dialects import registry
from zuebee.dialects.hub.base import StreamReader, StreamWriter
from zuebee.dialects.hub.canonical import (
    Begin,
    ChatAnswer,
    ChatRequest,
    Counts,
    Delta,
    FailureDelta,
    FinishDelta,
    FunctionCall,
    Malformed,
    NotCarried,
    Omissions,
    Over,
    Part,
    Text,
    Thinking,
    UsageDelta,
)
from zuebee.dialects.meter import Meter
from zuebee.dialects.openai import INLINE_BYTES, Bound, InvalidJsonAnswer, Told, answer_error, read_told
from zuebee.dialects.openai_usage import TokenCounts
from zuebee.dialects.sse import EventCutter, EventTooLarge, event_data, event_type, split_events
from zuebee.lib import clock
from zuebee.lib.aside import aside
from zuebee.models.lanes import Lane, NotSaid

MAX_TRANSLATED_BYTES: Final = 32 << 20
"""A longer answer in one piece is not translated: it has to be held."""

BYTES_PER_TOKEN: Final = 4
MAX_SHOWN: Final = 64
_CHAT_ONLY: Final = "This model's provider speaks chat only; use a chat endpoint."


class Translation:
    """What is known of a job that is translated: its hub form, and the fields that were left out."""

    def __init__(self, request: ChatRequest) -> None:
        self.request: Final = request
        self.max_tokens: Final = request.max_tokens  # as the caller bounds it
        self.notes = Omissions()
        self.answer: ChatAnswer | None = None


async def translate(job: Job) -> Refusal | None:
    """Read a job's body into the hub form, once for all its backends; a refusal: it cannot be read."""
    if job.translation is not None:
        return None
    if job.operation != "chat":
        return Refusal(404, "not_found_error", UNSUPPORTED_ENDPOINT, _CHAT_ONLY, "model")
    read = partial(registry.client(job.dialect).read_request, job.body)
    try:
        request = read() if len(job.body) <= INLINE_BYTES else await aside(len(job.body), read)
    except Malformed as fault:
        return bad_request(str(fault), param=fault.field or None)
    job.translation = Translation(request)
    return None


def translation_of(job: Job) -> Translation:
    """What `translate` has read."""
    assert isinstance(job.translation, Translation)
    return job.translation


class TranslatedLane(Lane):
    """From the dialect of a job's client into `theirs`, the backend's, and back."""

    def __init__(self, theirs: Dialect, names: dict[str, str]) -> None:
        super().__init__(names, translates=True, max_held_bytes=MAX_TRANSLATED_BYTES)
        self._theirs: Final = theirs

    def asks_usage(self, job: Job) -> bool:
        return self._theirs != "openai"

    def path(self, job: Job) -> str:
        return registry.path(self._theirs, self._names.get(job.model, job.model), stream=job.stream)

    def query(self, job: Job) -> bytes:
        return registry.query(self._theirs, stream=job.stream)

    def body(self, job: Job, *, usage: bool, bound: Bound | None) -> bytes:
        translation = translation_of(job)
        request = translation.request
        request.stream_usage, request.model = usage, self._names.get(job.model, job.model)
        request.max_tokens = translation.max_tokens if bound is None else bound.tokens
        try:
            return registry.backend(self._theirs).write_request(request, translation.notes)
        except NotCarried as fault:
            raise NotSaid(bad_request(str(fault), param=fault.field, code="not_supported")) from None
        finally:
            request.stream_usage, request.model = job.stream_usage, job.model

    def meter(self, job: Job, max_event_bytes: int) -> Meter:
        writer = registry.client(job.dialect).stream_writer(translation_of(job).request)
        keepalive = registry.wire(job.dialect).keepalive
        return TranslatingMeter(registry.backend(self._theirs).stream_reader(), writer, keepalive, max_event_bytes)

    def usage(self, job: Job, answer: bytes) -> TokenCounts | None:
        translation = translation_of(job)
        translation.answer = None
        try:
            read = translation.answer = self._read(answer)
        except InvalidJsonAnswer:
            if self.error_in(answer) is None:
                raise
            return None
        return None if read.usage is None else counted(read.usage)

    def error_in(self, answer: bytes) -> Told | None:
        error = answer_error(answer)  # in all dialects it stands under `error`
        return None if error is None else read_told(error)

    def text_bytes(self, job: Job, answer: bytes) -> int:
        read = translation_of(job).answer
        if read is None:
            return 0
        return sum(text_size(part) for choice in read.choices for part in choice.parts)

    def answer(self, job: Job, answer: bytes) -> bytes:
        read = translation_of(job).answer or self._read(answer)
        if not read.created_s:
            read.created_s = int(clock.wall_s())
        return registry.client(job.dialect).write_answer(read, translation_of(job).request)

    def error(self, job: Job, status: int, answer: bytes) -> bytes | None:
        refusal = registry.backend(self._theirs).read_error(status, answer)
        return registry.wire(job.dialect).render_error(refusal, job.request_id)

    def warnings(self, job: Job) -> bytes:
        return ", ".join(map(_shown, translation_of(job).notes.dropped)).encode()

    def _read(self, answer: bytes) -> ChatAnswer:
        try:
            return registry.backend(self._theirs).read_answer(answer)
        except Malformed as fault:
            raise InvalidJsonAnswer(str(fault)) from None


def _shown(field: str) -> str:
    """A field's name in a header: whoever wrote the body chose it, line breaks and all."""
    return "".join(letter if " " < letter < "\x7f" and letter != "," else "?" for letter in field[:MAX_SHOWN])


def counted(counts: Counts) -> TokenCounts:
    """Figures of the hub form as those of a server."""
    return TokenCounts(counts.prompt, counts.completion, counts.cached, counts.written, counts.reasoning)


def text_size(part: Part) -> int:
    """How much text, thoughts or arguments a part has; its letters say how many tokens it may be."""
    if isinstance(part, Text | Thinking):
        return len(part.text)
    return len(part.arguments) if isinstance(part, FunctionCall) else 0


class TranslatingMeter(Meter):
    """Reads each event of a backend's stream once: it is counted, and written in the client's dialect."""

    def __init__(self, reader: StreamReader, writer: StreamWriter, keepalive: bytes, max_event_bytes: int) -> None:
        super().__init__()
        self._reader = reader
        self._writer = writer
        self._keepalive = keepalive
        self._cutter = EventCutter(max_event_bytes)
        self._failed: Told | None = None
        self._stopped = False
        self._text_bytes = 0

    def feed(self, data: bytes) -> bytes:
        if self.over:
            return b""
        try:
            block = self._cutter.feed(data)
        except EventTooLarge:
            self._give_up("an event is too large")
            return b""
        written: list[bytes] = []
        comments = False
        for event in split_events(block):
            payload = event_data(event)
            if not payload:
                comments = True
                continue
            try:
                deltas = self._reader.read(event_type(event), payload)
            except Malformed as fault:
                self._give_up(str(fault))
                break
            if not self._write(deltas, written):
                break
        if comments and not written and not self.over and self.chunks:
            return self._keepalive
        return b"".join(written)

    def end(self) -> bytes:
        if self.over:
            return b""
        written = [self.feed(b"\n\n")] if bytes(self._cutter.rest).strip() else []
        if not self.over:
            try:
                self._write(self._reader.end(), written)
            except Malformed as fault:
                self._give_up(str(fault))
        return b"".join(written)

    def close(self) -> bytes:
        return self.last_words or self._writer.write(Over())

    @property
    def told(self) -> Told | None:
        return self._failed

    @property
    def tokens(self) -> int:
        return max(self.chunks - (1 if self._stopped else 0), self._text_bytes // BYTES_PER_TOKEN)

    @property
    def whole(self) -> bool:
        return self.done or (self._stopped and not self.fault and self._failed is None)

    @property
    def begun_event(self) -> bytes:
        return bytes(self._cutter.rest)

    def _write(self, deltas: list[Delta], written: list[bytes]) -> bool:
        """Write what they tell; whether the stream goes on."""
        for delta in deltas:
            if isinstance(delta, FailureDelta):
                self._failed = Told(delta.status, delta.code or BACKEND_ERROR, delta.message, b"")
                self.over = True
                return False
            if isinstance(delta, Over):
                self.done = self.over = True
                self.last_words = self._writer.write(delta)
                return False
            self._count(delta)
            if block := self._writer.write(delta):
                written.append(block)
        return True

    def _count(self, delta: Delta) -> None:
        if isinstance(delta, UsageDelta | Begin):
            if delta.usage is not None:
                self.usage = counted(delta.usage)
            return
        self.chunks += 1
        if isinstance(delta, FinishDelta):
            self._stopped = True
            return
        text = getattr(delta, "text", "") or getattr(delta, "arguments", "")
        self._text_bytes += len(text)

    def _give_up(self, fault: str) -> None:
        self.fault = fault
        self.over = True


def lanes_of(settings: BackendSettings) -> dict[Dialect, Lane]:
    """How a backend is spoken to, for each dialect that a client may speak."""
    from zuebee.models.anthropic_lane import AnthropicLane

    spoken = settings.dialects or PROVIDERS[settings.type].dialects
    names = settings.model_names
    lanes: dict[Dialect, Lane] = {}
    for dialect in registry.CLIENTS:
        if dialect not in spoken:
            lanes[dialect] = TranslatedLane(spoken[0], names)
        else:
            lanes[dialect] = Lane(names) if dialect == "openai" else AnthropicLane(names)
    return lanes
