"""The gRPC API: its methods, a call as the pipeline's `Client`, and errors as statuses."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple
from urllib.parse import unquote

from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from zuebee.contracts.admission import Caller, Settlement
from zuebee.contracts.errors import BAD_ANSWER, CUT_SHORT, Refusal
from zuebee.contracts.inference import Headers, Job, Sink
from zuebee.dialects import openai
from zuebee.dialects.hub.wires import OPENAI
from zuebee.dialects.llm_v1 import (
    INLINE_BYTES,
    NotAnAnswer,
    Piece,
    chat_body,
    read_answer,
    read_events,
    read_request,
    told_refusal,
)
from zuebee.dialects.openai_shapes import Request
from zuebee.dialects.sse import EventCutter, EventTooLarge
from zuebee.edge.client import Enter, TrustedProxies
from zuebee.edge.pipeline import Pipeline
from zuebee.edge.request_ids import RequestIds, callers_id, id_in_message
from zuebee.lib import clock
from zuebee.lib.aside import aside
from zuebee.lib.grpc.server import Call, Fields, Method
from zuebee.protos.llm_pb2 import ChatCompletionChunkResponse, ChatCompletionResponse

# A refusal as a gRPC status with details (google.rpc), and the metadata that goes with it.
#
# Sources: google/rpc/code.proto for what HTTP statuses mean; google/rpc/error_details.proto; gRFC A6 for the pushback
# that gRPC clients obey when they retry by themselves.

DOMAIN = "zuebee"
MAX_REASON = 63
MAX_MESSAGE_BYTES = 500
"""What a model server says may be long, it is said three times, and clients take 8 KiB of metadata in all."""

_BY_STATUS: dict[int, int] = {
    400: code_pb2.INVALID_ARGUMENT,
    401: code_pb2.UNAUTHENTICATED,
    402: code_pb2.RESOURCE_EXHAUSTED,
    403: code_pb2.PERMISSION_DENIED,
    404: code_pb2.NOT_FOUND,
    405: code_pb2.UNIMPLEMENTED,
    408: code_pb2.DEADLINE_EXCEEDED,
    409: code_pb2.ABORTED,
    413: code_pb2.INVALID_ARGUMENT,
    415: code_pb2.INVALID_ARGUMENT,
    422: code_pb2.INVALID_ARGUMENT,
    429: code_pb2.RESOURCE_EXHAUSTED,
    499: code_pb2.CANCELLED,
    500: code_pb2.INTERNAL,
    501: code_pb2.UNIMPLEMENTED,
    502: code_pb2.UNAVAILABLE,
    503: code_pb2.UNAVAILABLE,
    504: code_pb2.DEADLINE_EXCEEDED,
}
_BY_CODE: dict[str, int] = {BAD_ANSWER.code: code_pb2.INTERNAL, CUT_SHORT.code: code_pb2.INTERNAL}
"""What the status alone does not say: the model server is there, but cannot be understood."""


class GrpcStatus(NamedTuple):
    """How a call ends: google.rpc.Code, what it says, and the metadata behind it."""

    code: int
    message: str
    fields: tuple[tuple[str, str | bytes], ...]


def code_of(refusal: Refusal) -> int:
    """The google.rpc.Code of a refusal."""
    code = _BY_CODE.get(refusal.code) or _BY_STATUS.get(refusal.status)
    if code is not None:
        return code
    return int(code_pb2.FAILED_PRECONDITION if 400 <= refusal.status < 500 else code_pb2.INTERNAL)


def status_of(refusal: Refusal, request_id: str) -> GrpcStatus:
    """The status of a refusal.

    Details: ErrorInfo with the code as its reason, RequestInfo, RetryInfo where waiting helps, BadRequest where a field
    is to blame. `grpc-retry-pushback-ms` keeps clients that retry by themselves from what would fail or cost again.
    """
    code, message = code_of(refusal), _cut(refusal.message)
    retry = refusal.should_retry
    info = {"type": refusal.type, "http_status": str(refusal.status), "should_retry": "true" if retry else "false"}
    details: list[Message] = [ErrorInfo(reason=_reason(refusal.code), domain=DOMAIN, metadata=info)]
    if refusal.retry_after_s is not None:
        wait = Duration()
        wait.FromMilliseconds(math.ceil(refusal.retry_after_s * 1000))
        details.append(RetryInfo(retry_delay=wait))
    if refusal.param is not None:
        violation = BadRequest.FieldViolation(field=_cut(refusal.param), description=message)
        details.append(BadRequest(field_violations=[violation]))
    details.append(RequestInfo(request_id=request_id))
    status = Status(code=code, message=message, details=[_packed(detail) for detail in details])
    fields: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status.SerializeToString())]
    fields += [("x-request-id", request_id), ("x-should-retry", info["should_retry"])]
    fields += [(name.decode(), value.decode("latin-1")) for name, value in refusal.headers]
    if not retry:
        fields.append(("grpc-retry-pushback-ms", "-1"))
    elif refusal.retry_after_s is not None:
        fields.append(("grpc-retry-pushback-ms", str(math.ceil(refusal.retry_after_s * 1000))))
    return GrpcStatus(code, message, tuple(fields))


def _cut(text: str) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= MAX_MESSAGE_BYTES else data[:MAX_MESSAGE_BYTES].decode("utf-8", "ignore") + "..."


def _packed(message: Message) -> Packed:
    packed = Packed()
    packed.Pack(message)
    return packed


def _reason(code: str) -> str:
    """A code as ErrorInfo wants it: upper case, digits and underscores."""
    return re.sub(r"[^A-Z0-9]+", "_", code.upper()).strip("_")[:MAX_REASON] or "UNKNOWN"


MAX_WHOLE_BYTES = 64 << 20
"""A longer answer in one piece is not given: it must be a single message."""
_MAX_COUNT = (1 << 31) - 1
_SHOWN = (b"x-ratelimit-", b"x-request-id", b"idempotent-replayed")


class GrpcClient:
    """Reads the request and writes the answer.

    What the pipeline gives it is an answer to a chat completion as HTTP has it. Each event of a stream becomes a
    message at once; what belongs into the last one waits until all is accounted for.
    """

    wire = OPENAI  # what backends say is translated from it
    translates = True

    def __init__(self, call: Call, headers: Headers, settlement: Settlement, default_model: str) -> None:
        self.takes_comments = False
        self._call = call
        self._headers = headers
        self._settlement = settlement
        self._default_model = default_model
        self._started_s = clock.monotonic_s()
        self._first_s = 0.0
        self._status = 0
        self._answer_headers: Headers = []
        self._events = False
        self._cutter = EventCutter(MAX_WHOLE_BYTES)
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._ended = False
        self._sent = 0
        self._last = Piece()
        self._whole: Piece | Refusal | None = None
        self._is_read = False
        self.cancel = call.cancel

    async def read_job(self, enter: Enter | None = None, holder: str = "", patience_s: float = 0.0) -> Job | Refusal:
        """A call is all here when it begins."""
        call, settlement = self._call, self._settlement
        # What was made of it is all that is needed: nobody shall hold it until the call is over, and collected.
        read = partial(_read, call.request, self._default_model, stream=call.streams)
        size = len(call.request)
        call.request = b""
        named, body, request = read() if size <= INLINE_BYTES else await aside(size, read)
        if not settlement.client_request_id:
            settlement.client_request_id = named
        if isinstance(request, Refusal):
            return request
        return Job(
            settlement.request_id,
            "chat",
            settlement.route,
            b"",
            [(b"content-type", b"application/json"), *self._headers],
            body,
            request.model,
            request.stream,
            request.stream_usage,
            request.max_output_tokens,
            request.choices,
            request.prompts,
            places=request.places,
            media=request.media,
            media_bytes=request.media_bytes,
        )

    async def start(self, status: int, headers: Headers, *, events: bool) -> None:
        self._status, self._answer_headers, self._events = status, headers, events
        if status < 400:
            shown = [(name.decode(), value.decode("latin-1")) for name, value in headers if name.startswith(_SHOWN)]
            await self._call.start(shown)

    async def start_early(self, headers: Headers) -> None:
        await self.start(200, headers, events=True)

    async def write(self, data: bytes) -> None:
        if self._is_read:
            return
        if not self._events:
            self._held_bytes += len(data)
            if self._held_bytes <= MAX_WHOLE_BYTES:
                self._held.append(data)
            return
        try:
            if not (data := self._cutter.feed(data)):
                return
            long = len(data) > openai.INLINE_BYTES
            for piece in await aside(len(data), lambda: list(read_events(data))) if long else read_events(data):
                await self._pass_on(piece)
        except (NotAnAnswer, EventTooLarge):
            self._last.error = BAD_ANSWER

    async def _pass_on(self, piece: Piece) -> None:
        last = self._last
        last.finish_reason = piece.finish_reason or last.finish_reason
        last.usage = piece.usage or last.usage
        last.error = last.error or piece.error
        if piece.speaks:
            chunk = ChatCompletionChunkResponse(
                delta_text=piece.text, reasoning_delta=piece.reasoning, tool_calls=piece.tool_calls, index=self._sent
            )
            await self._send_chunk(chunk)

    async def _send_chunk(self, chunk: ChatCompletionChunkResponse) -> None:
        if not self._sent:
            self._first_s = clock.monotonic_s() - self._started_s
        self._sent += 1
        await self._call.send(chunk.SerializeToString())

    def sink(self) -> Sink | None:
        """Messages are made of events one by one: there is no shorter way."""
        return None

    def outlive(self, goes_on: Callable[[], bool]) -> None:
        self._call.goes_on = goes_on

    async def unfit(self, last: bytes) -> Refusal | None:
        await self._read_out(last)
        if self._events:
            return self._last.error
        if self._held_bytes > MAX_WHOLE_BYTES:
            return BAD_ANSWER
        self._whole = piece = await self._read_whole(b"".join(self._held))
        return piece if isinstance(piece, Refusal) else piece.error

    async def _read_out(self, last: bytes) -> None:
        await self.write(last)
        if self._cutter.rest:  # of an event whose empty line was left out
            await self.write(b"\n\n")
        self._is_read = True

    async def finish(self, last: bytes = b"") -> None:
        await self._read_out(last)
        if self._held_bytes > MAX_WHOLE_BYTES:
            self._fail(BAD_ANSWER)
        elif not self._events:
            await self._end_whole(b"".join(self._held))
        elif self._last.error is not None:
            self._fail(self._last.error)
        else:
            await self._end_stream(self._last)

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        await self.start(status, headers, events=False)
        await self._end_whole(body)

    async def refuse(self, refusal: Refusal, extra: Headers | None = None) -> None:
        self._fail(refusal)

    def close(self) -> None:
        """The pipeline is done: an answer that got no end is not whole."""
        if not self._ended:
            self._fail(CUT_SHORT)

    def _fail(self, refusal: Refusal) -> None:
        self._ended = True
        self._call.fail(*status_of(refusal, self._settlement.request_id))

    async def _read_whole(self, body: bytes) -> Piece | Refusal:
        read = partial(_read_whole, body, self._status)
        return read() if len(body) <= openai.INLINE_BYTES else await aside(len(body), read)

    async def _end_whole(self, body: bytes) -> None:
        """An answer in one piece, or an error that a model server gave."""
        piece = self._whole or await self._read_whole(body)
        if isinstance(piece, Refusal):
            fields = dict(self._answer_headers)
            retry = fields.get(b"x-should-retry") == b"true"
            told = replace(piece, retry_after_s=_retry_after_s(fields), should_retry=retry)
            self._fail(BAD_ANSWER if piece is BAD_ANSWER else told)
            return
        if piece.error is not None:
            self._fail(piece.error)
        elif self._call.streams:
            await self._pass_on(piece)
            await self._end_stream(piece)
        else:
            prompt, completion, cached, estimated = self._figures(piece)
            whole = ChatCompletionResponse(
                output_text=piece.text,
                finish_reason=piece.finish_reason,
                prompt_tokens=prompt,
                completion_tokens=completion,
                total_tokens=min(prompt + completion, _MAX_COUNT),
                latency_ms=self._latency_ms(),
                tool_calls=piece.tool_calls,
                reasoning_text=piece.reasoning,
                model=piece.model,
                request_id=self._answered_id(),
                usage_estimated=estimated,
                cached_tokens=cached,
            )
            await self._call.send(whole.SerializeToString())
            self._ended = True

    async def _end_stream(self, piece: Piece) -> None:
        prompt, completion, cached, estimated = self._figures(piece)
        chunk = ChatCompletionChunkResponse(
            # A server that does not say why it ended has ended by itself.
            finish_reason=piece.finish_reason or "stop",
            index=self._sent,
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=min(prompt + completion, _MAX_COUNT),
            latency_ms=self._latency_ms(),
            ttft_ms=round(self._first_s * 1000) if self._sent else self._latency_ms(),
            usage_estimated=estimated,
            cached_tokens=cached,
        )
        await self._send_chunk(chunk)
        self._ended = True

    def _figures(self, piece: Piece) -> tuple[int, int, int, bool]:
        """Tokens of prompt and answer, of the former from a cache, and whether nobody counted them but us."""
        if (figures := piece.usage) is not None:
            return figures.prompt, figures.completion, figures.cached, False
        usage = self._settlement.usage
        if usage is None:
            return 0, 0, 0, True
        counts = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
        prompt, completion, cached = (min(count, _MAX_COUNT) for count in counts)
        return prompt, completion, cached, usage.source != "provider"

    def _answered_id(self) -> str:
        """The id of the request that the answer was made for: of a repeated one, the first."""
        return dict(self._answer_headers).get(b"x-request-id", b"").decode("latin-1") or self._settlement.request_id

    def _latency_ms(self) -> int:
        return round((clock.monotonic_s() - self._started_s) * 1000)


def _read(data: bytes, default_model: str, *, stream: bool) -> tuple[str, bytes, Request | Refusal]:
    """The caller's own id of a request, its body as HTTP has it, and what that asks for."""
    asked = read_request(data)
    if isinstance(asked, Refusal):
        return "", b"", asked
    body = chat_body(asked, default_model, stream=stream)
    named = id_in_message(asked.meta.request_id)
    return (named, b"", body) if isinstance(body, Refusal) else (named, body, openai.read_request(body))


def _read_whole(body: bytes, status: int) -> Piece | Refusal:
    if status >= 400:
        error = openai.answer_error(body)
        return told_refusal(b"{}" if error is None else error, status)
    try:
        return read_answer(body)
    except NotAnAnswer:
        return BAD_ANSWER


def _retry_after_s(fields: Mapping[bytes, bytes]) -> float | None:
    """What a model server says of when to come again, in seconds."""
    value = fields.get(b"retry-after", b"")
    return float(value) if value.isdigit() and len(value) < 7 else None


# The gRPC edge (llm.v1): calls in, answers out, by the same pipeline as HTTP.

SERVICES = ("llm.v1.LlmService", "llm.v1.LLMService")
ROUTE = "/v1/chat/completions"
"""What a call is to permissions, limits and firewall: the same as that request over HTTP, whoever carries it."""
METHOD = "GRPC"
"""How access log and usage records tell them apart."""

_OF_HTTP = frozenset(
    {"connection", "content-encoding", "content-length", "content-type", "host", "te", "transfer-encoding"}
)
"""They are about the bytes of an HTTP request, which a call has not."""
_PEER = re.compile(r"ipv[46]:(?:\[([^\]]+)\]|([^:]+)):\d+")


class GrpcEdge:
    """The methods of the services."""

    def __init__(self, pipeline: Pipeline, *, default_model: str, proxies: TrustedProxies) -> None:
        self._pipeline = pipeline
        self._default_model = default_model
        self._proxies = proxies
        self._ids = RequestIds()

    def services(self) -> Mapping[str, Mapping[str, Method]]:
        """Each service with its methods."""
        stream = Method(self._chat, streams=True)
        whole = Method(self._chat, streams=False)
        methods = {"ChatCompletion": whole, "ChatCompletionStream": stream, "StreamGenerate": stream}
        return dict.fromkeys(SERVICES, methods)

    async def _chat(self, call: Call) -> None:
        headers = _headers(call.fields)
        fields = dict(headers)
        peer = peer_address(call.peer)
        caller = Caller(
            "POST", ROUTE, fields, self._proxies.client(peer, headers) if self._proxies else peer, ROUTE, b"", "",
            ROUTE.encode(),
        )  # fmt: skip
        settlement = Settlement(self._ids.next(), METHOD, ROUTE, caller.address, clock.wall_s())
        settlement.client_request_id = callers_id(fields)
        client = GrpcClient(call, headers, settlement, self._default_model)
        await self._pipeline.serve(caller, client, settlement)
        client.close()


def peer_address(peer: str) -> str:
    """The address in what gRPC calls a peer: `ipv4:10.0.0.1:5`, `ipv6:[::1]:5`; empty where it has none."""
    found = _PEER.fullmatch(unquote(peer))
    return (found[1] or found[2]) if found else ""


def _headers(fields: Fields) -> Headers:
    """Metadata as header fields; what is not text, and what is about HTTP's bytes, is left out."""
    return [
        (name.encode(), value.encode("latin-1", "replace"))
        for name, value in fields
        if isinstance(value, str) and name not in _OF_HTTP
    ]
