"""One HTTP request on ASGI, as the pipeline's `Client`."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from zuebee.contracts.admission import Caller
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Headers, Job, Operation, Sink
from zuebee.dialects import openai
from zuebee.edge.replies import error_reply

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# What our own server adds to the scope (kit/http_guard.py): short ways that ASGI has no words for.
CYCLE: Final = "zuebee.cycle"
CANCEL: Final = "zuebee.cancel"
FIELDS: Final = "zuebee.fields"
MEMORY: Final = "zuebee.memory"

TOO_LARGE: Final = "request_too_large"


class AsgiClient:
    """Reads the request and writes the answer.

    An answer in one piece is sent in one piece, when it is finished; an event stream goes out as it comes.
    """

    __slots__ = (
        "_caller", "_cycle", "_events", "_headers", "_held", "_max_body_bytes", "_operation", "_receive", "_scope",
        "_send", "_status", "_whole_body_read", "request_id",
    )  # fmt: skip

    def __init__(
        self,
        scope: Scope,
        caller: Caller,
        receive: Receive,
        send: Send,
        request_id: str,
        max_body_bytes: int,
        operation: Operation = "chat",
    ) -> None:
        self.request_id = request_id
        self._scope = scope
        self._caller = caller
        self._cycle = scope.get(CYCLE)
        self._receive = receive
        self._send = send
        self._max_body_bytes = max_body_bytes
        self._operation: Operation = operation
        self._whole_body_read = False
        self._events = False
        self._status = 0
        self._headers: Headers | None = None
        self._held = b""

    async def read_job(self) -> Job | Refusal:
        """See `Client.read_job`."""
        caller, body = self._caller, None
        if self._cycle is not None and b"content-encoding" not in caller.fields:
            body = self._cycle.take_whole_body(self._max_body_bytes)
            self._whole_body_read = body is not None
        if body is None:
            body = await self._read_body()
            if isinstance(body, Refusal):
                return body
        request = openai.read_request(body)
        if isinstance(request, Refusal):
            return request
        return Job(
            self.request_id,
            self._operation,
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
            memory=caller.memory,
        )

    async def _read_body(self) -> bytes | Refusal:
        limit = self._max_body_bytes
        if int(self._caller.fields.get(b"content-length", 0)) > limit:
            return _too_large(limit)
        encoding = self._caller.fields.get(b"content-encoding")
        if encoding is not None and encoding.strip().lower() not in (b"", b"identity"):
            return Refusal(415, "invalid_request_error", "unsupported_encoding", "Compressed bodies are not read.")
        message = await self._receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            parts = [body]
            size = len(body)
            while message.get("more_body"):
                message = await self._receive()
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limit:
                    return _too_large(limit)
            body = b"".join(parts)
        elif len(body) > limit:
            return _too_large(limit)
        self._whole_body_read = True
        return body

    async def start(self, status: int, headers: Headers, *, events: bool) -> None:
        """See `Client.start`."""
        self._events = events
        self._status, self._headers = status, headers
        if events:
            await self._send_head()

    async def _send_head(self) -> None:
        await self._send({"type": "http.response.start", "status": self._status, "headers": self._headers})
        self._headers = None

    async def write(self, data: bytes) -> None:
        """See `Client.write`."""
        if self._events:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
            return
        if self._held:
            if self._headers is not None:
                await self._send_head()
            await self._send({"type": "http.response.body", "body": self._held, "more_body": True})
        self._held = data

    def sink(self) -> Sink | None:
        """See `Client.sink`."""
        sink: Sink | None = self._cycle
        return sink

    def cancel(self) -> None:
        """See `Client.cancel`."""
        self._scope[CANCEL]()

    def outlive(self, goes_on: Callable[[], bool]) -> None:
        """See `Client.outlive`. Only our own server asks."""
        if self._cycle is not None:
            self._cycle.goes_on = goes_on

    async def finish(self, last: bytes = b"") -> None:
        """See `Client.finish`."""
        if self._headers is not None:
            await self._respond(self._status, self._headers, self._held)
        else:
            await self._send({"type": "http.response.body", "body": self._held + last, "more_body": False})

    async def _respond(self, status: int, headers: Headers, body: bytes) -> None:
        if self._cycle is not None:
            self._cycle.respond(status, headers, body)
        else:
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
            await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def refuse(self, refusal: Refusal, extra: Headers | None = None) -> None:
        """See `Client.refuse`."""
        status, headers, body = error_reply(refusal, self.request_id)
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
