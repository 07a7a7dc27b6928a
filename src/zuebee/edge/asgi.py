"""One HTTP request on ASGI, as the pipeline's `Client`."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from io import BytesIO
from typing import Any, Final, NamedTuple, TypeAlias

from zuebee.contracts.admission import Caller
from zuebee.contracts.errors import Refusal
from zuebee.contracts.heads import Operation
from zuebee.contracts.inference import Headers, Job, Sink
from zuebee.dialects import openai
from zuebee.dialects.hub.wires import OPENAI, Wire
from zuebee.edge.client import Enter, error_reply
from zuebee.edge.uploads import Upload, Uploads
from zuebee.lib.aside import aside
from zuebee.lib.networks import network_of

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# What our own server adds to the scope (http/reader.py): short ways that ASGI has no words for.
CYCLE: Final = "zuebee.cycle"
CANCEL: Final = "zuebee.cancel"
FIELDS: Final = "zuebee.fields"
ATTACHMENT: Final = "zuebee.attachment"

TOO_LARGE: Final = "request_too_large"
TOO_MANY_UPLOADS: Final = Refusal(
    503,
    "overloaded_error",
    "too_many_uploads",
    "Too many large requests are on their way: there was no room for this one in time.",
    retry_after_s=1.0,
    should_retry=True,
)


class Endpoint(NamedTuple):
    """What a client asks for, and in which dialect."""

    operation: Operation
    wire: Wire


CHAT: Final = Endpoint("chat", OPENAI)
UNBOUNDED: Final = Uploads(1 << 62, 3600.0)


class AsgiClient:
    """Reads the request and writes the answer.

    An answer in one piece is sent in one piece, when it is finished; an event stream goes out as it comes.
    """

    __slots__ = (
        "_caller", "_cycle", "_events", "_headers", "_held", "_max_body_bytes", "_receive", "_scope", "_send",
        "_status", "_upload", "_uploads", "_whole_body_read", "added", "endpoint", "request_id", "takes_comments",
    )  # fmt: skip
    translates = False

    def __init__(
        self,
        scope: Scope,
        caller: Caller,
        receive: Receive,
        send: Send,
        request_id: str,
        max_body_bytes: int,
        uploads: Uploads = UNBOUNDED,
    ) -> None:
        self.request_id = request_id
        self.takes_comments = True
        self.endpoint = CHAT  # the edge says which
        self.added: Headers | None = None  # header fields of each answer to this client
        self._scope = scope
        self._caller = caller
        self._cycle = scope.get(CYCLE)
        self._receive = receive
        self._send = send
        self._max_body_bytes = max_body_bytes
        self._uploads = uploads
        self._upload: Upload | None = None
        self._whole_body_read = False
        self._events = False
        self._status = 0
        self._headers: Headers | None = None
        self._held = b""

    @property
    def wire(self) -> Wire:
        """The client's dialect."""
        return self.endpoint.wire

    async def read_job(self, enter: Enter | None = None, holder: str = "", patience_s: float = 0.0) -> Job | Refusal:
        caller, body = self._caller, None
        if self._cycle is not None and b"content-encoding" not in caller.fields:
            body = self._cycle.take_whole_body(self._max_body_bytes)
            self._whole_body_read = body is not None
        try:
            if body is None:
                body = await self._read_body(enter, holder, patience_s)
                if isinstance(body, Refusal):
                    return body
            if len(body) <= openai.INLINE_BYTES:
                request = self.wire.read_request(body)
            else:
                request = await aside(len(body), partial(self.wire.read_request, body))
        finally:
            if self._upload is not None:
                self._uploads.end(self._upload)
        if isinstance(request, Refusal):
            return request
        return Job(
            self.request_id,
            self.endpoint.operation,
            caller.route,
            caller.query,
            self._scope["headers"],
            body,
            request.model,
            request.stream,
            request.stream_usage,
            request.max_output_tokens,
            request.choices,
            request.prompts,
            memo=caller.memo,
            media=request.media,
            media_bytes=request.media_bytes,
            places=request.places,
            dialect=self.wire.name,
        )

    async def _read_body(self, enter: Enter | None, holder: str, patience_s: float) -> bytes | Refusal:
        limit = self._max_body_bytes
        if int(self._caller.fields.get(b"content-length", 0)) > limit:
            return _too_large(limit)
        encoding = self._caller.fields.get(b"content-encoding")
        if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
            return Refusal(415, "invalid_request_error", "unsupported_encoding", "Compressed bodies are not read.")
        message: MutableMapping[str, Any] | None = None
        if patience_s:
            try:
                async with asyncio.timeout(patience_s):
                    message = await self._receive()
            except TimeoutError:
                pass
        if enter is not None and (message is None or message.get("more_body")):
            refusal = await enter()
            if refusal is not None:
                return refusal
        if message is None:
            message = await self._receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            read = await self._read_rest(body, holder)
            if isinstance(read, Refusal):
                return read
            body = read
        if len(body) > limit:
            return _too_large(limit)
        self._whole_body_read = True
        return body

    async def _read_rest(self, begun: bytes, holder: str) -> bytes | Refusal:
        """A body of several parts, once there is room for all of it."""
        limit = self._max_body_bytes
        try:
            declared = self._caller.fields.get(b"content-length")
            self._upload = await self._uploads.begin(network_of(holder), limit if declared is None else int(declared))
        except TimeoutError:
            return TOO_MANY_UPLOADS
        whole = BytesIO()  # which gives what it holds without a second copy
        size = whole.write(begun)
        more = True
        while more:
            message = await self._receive()
            size += whole.write(message.get("body", b""))
            if size > limit:
                return _too_large(limit)
            more = bool(message.get("more_body"))
        return whole.getvalue()

    async def start(self, status: int, headers: Headers, *, events: bool) -> None:
        self._events = events
        self._status, self._headers = status, headers
        if events:
            await self._send_head()

    async def start_early(self, headers: Headers) -> None:
        await self.start(200, headers, events=True)

    async def _send_head(self) -> None:
        headers = self._headers
        if self.added and headers is not None:
            headers = [*headers, *self.added]
        await self._send({"type": "http.response.start", "status": self._status, "headers": headers})
        self._headers = None

    async def write(self, data: bytes) -> None:
        if self._events:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
            return
        if self._held:
            if self._headers is not None:
                await self._send_head()
            await self._send({"type": "http.response.body", "body": self._held, "more_body": True})
        self._held = data

    def sink(self) -> Sink | None:
        sink: Sink | None = self._cycle
        return sink

    async def unfit(self, last: bytes) -> Refusal | None:
        return None

    def cancel(self) -> None:
        self._scope[CANCEL]()

    def outlive(self, goes_on: Callable[[], bool]) -> None:
        """Only our own server asks."""
        if self._cycle is not None:
            self._cycle.goes_on = goes_on

    async def finish(self, last: bytes = b"") -> None:
        if self._headers is not None:
            await self._respond(self._status, self._headers, self._held)
        else:
            await self._send({"type": "http.response.body", "body": self._held + last, "more_body": False})

    async def _respond(self, status: int, headers: Headers, body: bytes) -> None:
        if self.added:
            headers = [*headers, *self.added]
        if self._cycle is not None:
            self._cycle.respond(status, headers, body)
        else:
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
            await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def refuse(self, refusal: Refusal, extra: Headers | None = None) -> None:
        status, headers, body = error_reply(refusal, self.request_id, self.wire)
        if extra:
            headers += extra
        await self.answer(status, headers, body)

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Send an answer in one piece."""
        if not self._whole_body_read and self._scope["method"] not in ("GET", "HEAD"):
            # What the client still sends of its body must not be taken for its next request.
            headers = [*headers, (b"connection", b"close")]
        await self._respond(status, headers, body)


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "invalid_request_error", TOO_LARGE, f"The body is larger than {limit} bytes.")
