"""The HTTP edge, a plain ASGI application: a table of routes, requests in, answers out."""

from collections.abc import Coroutine
from typing import Any, Final, NamedTuple

from zuebee.contracts.admission import Caller, Settlement
from zuebee.contracts.errors import Refusal
from zuebee.contracts.heads import Dialect, HeadMemo, Operation
from zuebee.contracts.inference import Headers
from zuebee.dialects import registry
from zuebee.edge.asgi import ATTACHMENT, FIELDS, UNBOUNDED, AsgiClient, Endpoint, Receive, Scope, Send
from zuebee.edge.client import TrustedProxies, unread_reply, wrong_method
from zuebee.edge.cors import Cors, is_preflight
from zuebee.edge.operator import COUNT_TOKENS, Operator, tidy
from zuebee.edge.pipeline import Pipeline
from zuebee.edge.request_ids import RequestIds, callers_id
from zuebee.edge.uploads import Uploads
from zuebee.http.head_cache import Attachment
from zuebee.lib import clock


class Route(NamedTuple):
    """One endpoint: its canonical path, the job it makes (None: the operator answers), and its other spellings."""

    method: str
    path: str
    operation: Operation | None
    aliases: tuple[str, ...]
    meaning: str
    dialect: Dialect = "openai"


ROUTES: Final = (
    Route("POST", "/v1/chat/completions", "chat", ("/chat/completions",), "Chat, also streamed."),
    Route("POST", "/v1/completions", "completions", ("/completions",), "Text completion, also streamed."),
    Route("POST", "/v1/embeddings", "embeddings", ("/embeddings",), "Embeddings."),
    Route("POST", "/v1/messages", "chat", ("/messages",), "Anthropic's Messages API, also streamed.", "anthropic"),
    Route("GET", "/v1/models", None, ("/models",), "The models of all backends; with `/ID` behind it, one of them."),
    Route("POST", "/v1/messages/count_tokens", None, (), "How many tokens a message has: counted, or estimated."),
    Route("GET", "/v1/providers", None, (), "The backends: health, breaker, models; no secrets."),
    Route("HEAD", "/", None, (), "200: clients ask whether anybody is there."),
    Route("GET", "/health", None, (), "200 when requests can be served, else 503 with the reason."),
    Route("GET", "/health/liveliness", None, ("/health/live",), "200 while the process runs."),
    Route("GET", "/health/readiness", None, ("/health/ready",), "As /health; 503 as soon as a stop begins."),
    Route("GET", "/metrics", None, (), "Prometheus metrics; path and token are settings."),
)

_INFERENCE: Final = {path: route for route in ROUTES if route.operation for path in (route.path, *route.aliases)}
_OTHER: Final = "other"
_NO_CORS: Final = Cors()
_ORIGIN_NOT_ALLOWED: Final = Refusal(
    403,
    "permission_error",
    "origin_not_allowed",
    "Pages of this origin may not call this gateway: its operator names them in `server.cors.origins`.",
)


_ENDPOINTS: Final[dict[tuple[Operation, Dialect], Endpoint]] = {}


def _endpoint(operation: Operation, dialect: Dialect) -> Endpoint:
    found = _ENDPOINTS[operation, dialect] = Endpoint(operation, registry.wire(dialect))
    return found


def _memo_of(scope: Scope) -> HeadMemo | None:
    """The memo of a head that came before on its connection."""
    attachment: Attachment | None = scope.get(ATTACHMENT)
    if attachment is None:
        return None
    memo = attachment.value
    if not isinstance(memo, HeadMemo):
        memo = attachment.value = HeadMemo()
    return memo


class HttpEdge:
    """The ASGI application."""

    def __init__(
        self,
        pipeline: Pipeline,
        operator: Operator,
        *,
        max_body_bytes: int,
        proxies: TrustedProxies,
        uploads: Uploads = UNBOUNDED,
        cors: Cors = _NO_CORS,
    ) -> None:
        self._pipeline = pipeline
        self._operator = operator
        self._max_body_bytes = max_body_bytes
        self._proxies = proxies
        self._uploads = uploads
        self._cors = cors
        self._has_cors = cors.enabled
        self._ids = RequestIds()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Answer one request."""
        request_id = self._ids.next()
        fields: dict[bytes, bytes] = scope.get(FIELDS) or dict(scope["headers"])
        memo = _memo_of(scope)
        known = memo.caller if memo is not None and memo.caller_by is self else None
        if memo is not None and known is not None and known.fields is fields and not known.body_sha256:
            caller, operation, dialect = known, memo.operation, memo.dialect
            client_request_id = memo.client_request_id
        else:
            caller = self._caller(scope, fields, memo)
            route = _INFERENCE.get(caller.path)
            if route is None or route.operation is None or caller.method != "POST":
                limit = self._max_body_bytes if caller.route == COUNT_TOKENS else 0
                other = AsgiClient(scope, caller, receive, send, request_id, limit, self._uploads)
                if route is not None and route.operation is not None:
                    other.endpoint = _endpoint(route.operation, route.dialect)
                if self._has_cors:
                    other.added = self._cors.fields(fields.get(b"origin"))
                return self._answer_others(other, caller, request_id)
            operation, dialect = route.operation, route.dialect
            client_request_id = callers_id(fields)
            if memo is not None:
                memo.caller_by, memo.caller = self, caller
                memo.operation, memo.dialect, memo.client_request_id = operation, dialect, client_request_id
        settlement = Settlement(request_id, caller.method, caller.route, caller.address, clock.wall_s())
        settlement.client_request_id = client_request_id
        client = AsgiClient(scope, caller, receive, send, request_id, self._max_body_bytes, self._uploads)
        client.endpoint = _ENDPOINTS.get((operation, dialect)) or _endpoint(operation, dialect)
        if self._has_cors:
            client.added = self._cors.fields(fields.get(b"origin"))
        return self._pipeline.serve(caller, client, settlement)

    async def _answer_others(self, client: AsgiClient, caller: Caller, request_id: str) -> None:
        """Answer what asks for nothing to be run."""
        settlement = Settlement(request_id, caller.method, caller.route, caller.address, clock.wall_s())
        if self._has_cors and is_preflight(caller.method, caller.fields):
            await self._answer_preflight(client, caller, settlement)
            return
        if caller.path not in _INFERENCE:
            await self._operator.answer(caller.path, caller, client, settlement)
            return
        settlement.client_request_id = callers_id(caller.fields)
        refusal = self._pipeline.admission.screen(caller) or wrong_method("POST")
        await self._pipeline.refuse(client, settlement, refusal, [(b"allow", b"POST")])

    async def _answer_preflight(self, client: AsgiClient, caller: Caller, settlement: Settlement) -> None:
        """Tell a browser what a page may send."""
        refusal, headers = self._pipeline.admission.screen(caller), self._cors.preflight(caller.fields)
        if refusal is not None or headers is None:
            await self._pipeline.refuse(client, settlement, refusal or _ORIGIN_NOT_ALLOWED)
            return
        client.added = []
        await client.answer(204, headers, b"")

    def _caller(self, scope: Scope, fields: dict[bytes, bytes], memo: HeadMemo | None) -> Caller:
        path: str = scope["path"]
        route = _INFERENCE.get(path)
        if route is None:
            path = tidy(path)
            route = _INFERENCE.get(path)
        peer = scope["client"][0] if scope["client"] else ""
        caller = Caller(
            scope["method"],
            (self._operator.route_of(path) or _OTHER) if route is None else route.path,
            fields,
            self._proxies.client(peer, scope["headers"]) if self._proxies else peer,
            path,
            scope["query_string"],
            "",
            scope.get("raw_path", b""),
        )
        caller.memo = memo
        return caller

    def refuse_unread(self, status: int, code: str, message: str, peer: str) -> tuple[Headers, bytes]:
        """Headers and body for a request that the server would not read to its end; it is counted like any other."""
        request_id = self._ids.next()
        refusal, headers, body = unread_reply(status, code, message, request_id)
        if peer:
            self._pipeline.note_refusal(Settlement(request_id, "", _OTHER, peer, clock.wall_s()), refusal)
        return headers, body
