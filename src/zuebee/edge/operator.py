"""What is no inference: model lists, health, metrics, also while the store is waited for."""

import hmac
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from zuebee.contracts.admission import Caller, Principal, Settlement
from zuebee.contracts.errors import (
    NOT_FOUND,
    STORE_UNAVAILABLE,
    UNKNOWN_KEY,
    UNSUPPORTED_ENDPOINT,
    Refusal,
    no_such_model,
)
from zuebee.contracts.inference import Headers, Job
from zuebee.dialects import registry
from zuebee.dialects.hub.wires import Wire
from zuebee.edge.asgi import AsgiClient, Endpoint, Receive, Scope, Send
from zuebee.edge.client import JSON, unread_reply, wrong_method
from zuebee.edge.pipeline import Pipeline
from zuebee.edge.request_ids import RequestIds

# What a path means that is not written as in the table of routes.

_SLASHES: Final = re.compile(r"/{2,}")
_A_MODEL: Final = re.compile(r"(/v1)?/models/[^/]")
_KNOWN: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models")
"""What a base URL with too much in it ends in."""

MAX_SHOWN: Final = 200

_NOT_YET: Final = (
    (re.compile(r"(/v1)?/messages/batches.*"), "Anthropic's API for batches"),
    (re.compile(r"(/v1)?/responses(/.*)?"), "The OpenAI Responses API"),
    (re.compile(r"/v1(beta|alpha)?/models/[^/]+:\w+"), "The Gemini API"),
    (re.compile(r"/api/(chat|generate|tags|embed|embeddings|show|version|ps)"), "Ollama's own API"),
    (re.compile(r"(/v1)?/audio/.+"), "OpenAI's API for sounds"),
    (re.compile(r"(/v1)?/images/.+"), "OpenAI's API for images"),
    (
        re.compile(r"(/v1)?/(batches|files|assistants|threads|vector_stores|fine_tuning|uploads|videos)(/.*)?"),
        "This API",
    ),
    (re.compile(r"(/v1|/v2)?/(rerank|score|moderations|realtime)"), "This API"),
)
"""What clients ask for, and whose it is."""


def tidy(path: str) -> str:
    """The path without what joining a base URL and a path by hand leaves in it: doubled slashes, one at the end."""
    if _A_MODEL.match(path):
        return path  # its name is its own
    if "//" in path:
        path = _SLASHES.sub("/", path)
    return path[:-1] if len(path) > 1 and path.endswith("/") else path


def no_such_path(path: str) -> Refusal:
    """404, saying what is there instead."""
    for pattern, name in _NOT_YET:
        if pattern.fullmatch(path):
            message = f"{name} ({path[:MAX_SHOWN]}) is not served by this gateway yet. Use /v1/chat/completions."
            return Refusal(404, "not_found_error", UNSUPPORTED_ENDPOINT, message)
    for each in _KNOWN:
        if path.endswith(each):
            base = path[: -len(each)]
            shown = base[:MAX_SHOWN]
            message = f"There is no endpoint {shown}{each}, but {each}: take `{shown}` out of the client's base URL."
            return replace(NOT_FOUND, message=message)
    return NOT_FOUND


_MODELS = ("/v1/models", "/models")
ANTHROPIC_VERSION = b"anthropic-version"
"""A header field that all of Anthropic's clients send."""

PROVIDERS = "/v1/providers"
_DECLARED = {"id": "", "object": "model", "created": 0, "owned_by": "zuebee"}
COUNT_TOKENS = "/v1/messages/count_tokens"
ROOT = "/"
LIVE = ("/health/liveliness", "/health/live")
READY = ("/health", "/health/readiness", "/health/ready")


class Readiness(NamedTuple):
    """Whether requests can be served, and if not, why."""

    ready: bool
    reason: str = ""
    backends_fit: int = 0
    backends: int = 0


class OperatorPorts(NamedTuple):
    """Who answers. `prompt_size`: the probable tokens of a prompt, and the most it may have. `count_tokens`: what a
    backend answers that counts. `providers`: the backends. `models` gives the model cards; `exposition` the metrics
    and their type for an Accept value.
    """

    readiness: Callable[[], Readiness]
    prompt_size: Callable[[str, Job], tuple[int, int]]
    count_tokens: Callable[[Job], Awaitable[bytes | None]]
    providers: Callable[[], list[dict[str, Any]]]
    models: Callable[[], Awaitable[list[dict[str, Any]]]]
    exposition: Callable[[str], Awaitable[tuple[bytes, str]]]


class Operator:
    """Answers the operator's routes."""

    def __init__(self, pipeline: Pipeline, ports: OperatorPorts) -> None:
        self._pipeline = pipeline
        self._ports = ports
        self._metrics_path: str | None = None
        self._metrics_token: str | None = None

    def show_metrics(self, path: str | None, token: str | None) -> None:
        """Answer with metrics at this path (none: nowhere) to whoever has the token (none: to everybody)."""
        self._metrics_path, self._metrics_token = path, token

    def route_of(self, path: str) -> str | None:
        """The canonical path that a path belongs to, None for an unknown one."""
        if path in _MODELS or path.startswith(("/v1/models/", "/models/")):
            return "/v1/models"
        if path in LIVE or path in READY or path in (COUNT_TOKENS, PROVIDERS, ROOT):
            return path
        return "/metrics" if path == self._metrics_path else None

    async def answer(self, path: str, caller: Caller, client: AsgiClient, settlement: Settlement) -> None:
        """Answer one request."""
        route = self.route_of(path)
        known = route == "/v1/models" and caller.method in ("GET", "HEAD")
        if path == COUNT_TOKENS or (known and ANTHROPIC_VERSION in caller.fields):
            client.endpoint = Endpoint("count_tokens", registry.wire("anthropic"))
        if not known and (refused := self._pipeline.admission.screen(caller)) is not None:
            await self._pipeline.refuse(client, settlement, refused)
        elif route is None:
            await self._pipeline.refuse(client, settlement, no_such_path(path))
        elif route == COUNT_TOKENS:
            if caller.method != "POST":
                await self._pipeline.refuse(client, settlement, wrong_method("POST"), [(b"allow", b"POST")])
                return
            answer = partial(self._count_tokens, caller, client, settlement)
            await self._pipeline.serve_known(caller, client, settlement, answer)
        elif route == ROOT and caller.method != "HEAD":
            await self._pipeline.refuse(client, settlement, NOT_FOUND)
        elif caller.method not in ("GET", "HEAD"):
            await self._pipeline.refuse(client, settlement, wrong_method("GET"), [(b"allow", b"GET, HEAD")])
        elif route == "/v1/models":
            await self._pipeline.serve_known(caller, client, settlement, partial(self._models, path, client.wire))
        elif route == PROVIDERS:
            await self._pipeline.serve_known(caller, client, settlement, self._providers)
        elif route == ROOT:
            await _send_json(client, 200, {"name": "ZueBee"})
        elif route == "/metrics":
            await self._metrics(caller, client)
        else:
            await tell_health(client, None if path in LIVE else self._ports.readiness())

    async def _metrics(self, caller: Caller, client: AsgiClient) -> None:
        wanted = self._metrics_token
        fields = caller.fields
        if wanted is not None:
            scheme, _, given = fields.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), wanted.encode()):
                await client.refuse(UNKNOWN_KEY)
                return
        body, content_type = await self._ports.exposition(fields.get(b"accept", b"").decode("latin-1"))
        headers: Headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
        await client.answer(200, headers, body)

    async def _count_tokens(
        self, caller: Caller, client: AsgiClient, settlement: Settlement, principal: Principal
    ) -> tuple[int, bytes] | Refusal:
        """How many tokens a message has: the backend's own count where it has one, else an estimate."""
        job = await client.read_job(holder=principal.key_id or caller.address)
        if isinstance(job, Refusal):
            return job
        job.model = settlement.model = self._pipeline.aliases.get(job.model, job.model)
        if (refusal := self._pipeline.admission.may_use(principal, job.model)) is not None:
            return refusal
        job.operation, job.stream, job.sender = "count_tokens", False, principal
        if (counted := await self._ports.count_tokens(job)) is not None:
            return 200, counted
        tokens, _ = self._ports.prompt_size(principal.key_id, job)
        return 200, msgspec.json.encode({"input_tokens": tokens, "estimated": True})

    async def _providers(self, _: Principal) -> tuple[int, bytes]:
        """The backends, with their health."""
        told = self._ports.providers()
        healthy = sum(bool(each["is_healthy"]) for each in told)
        failover = sum(each["failover_status"] == "failed_over" for each in told)
        counts = {"total": len(told), "healthy": healthy, "unhealthy": len(told) - healthy, "failover": failover}
        return 200, msgspec.json.encode({"providers": told, **counts})

    def _with_aliases(self, cards: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The model cards, and behind them those of other names for the same models."""
        if not (aliases := self._pipeline.aliases):
            return cards
        known = {card["id"]: card for card in cards}
        others = [{**(known.get(meant) or _DECLARED), "id": alias} for alias, meant in aliases.items()]
        return [card for card in cards if card["id"] not in aliases] + others

    async def _models(self, path: str, wire: Wire, principal: Principal) -> tuple[int, bytes] | Refusal:
        """The models that a caller may use, or one of them."""
        may_use = self._pipeline.admission.may_use
        cards = self._with_aliases(await self._ports.models())
        if path in _MODELS:
            meant = self._pipeline.aliases
            listed = [card for card in cards if may_use(principal, meant.get(card["id"], card["id"])) is None]
            return 200, wire.render_models(listed)
        wanted = path.partition("/models/")[2]
        for card in cards:
            if card["id"] == wanted and may_use(principal, self._pipeline.aliases.get(wanted, wanted)) is None:
                return 200, wire.render_model(card)
        return no_such_model(wanted)


async def tell_health(client: AsgiClient, state: Readiness | None) -> None:
    """Say whether requests can be served; None: that the process lives."""
    if state is None:
        await _send_json(client, 200, {"status": "alive"})
        return
    body = {"status": "ready" if state.ready else "not ready", "backends": state.backends, "fit": state.backends_fit}
    if state.reason:
        body["reason"] = state.reason
    await _send_json(client, 200 if state.ready else 503, body)


async def _send_json(client: AsgiClient, status: int, value: object) -> None:
    body = msgspec.json.encode(value)
    headers: Headers = [JSON, (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
    await client.answer(status, headers, body)


# Answers while the process waits for what it cannot start without: it lives, it is not ready, and why.


class WaitingRoom:
    """An ASGI application. `reason`: what is waited for."""

    def __init__(self, reason: str, backends: int) -> None:
        self.reason = reason
        self._backends = backends
        self._ids = RequestIds("req_waiting_")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope["path"]
        caller = Caller(scope["method"], path, {}, "")
        client = AsgiClient(scope, caller, receive, send, self._ids.next(), 0)
        if path in LIVE or path in READY:
            await tell_health(client, None if path in LIVE else Readiness(False, self.reason, 0, self._backends))
        else:
            await client.refuse(STORE_UNAVAILABLE)

    def refuse_unread(self, status: int, code: str, message: str, peer: str) -> tuple[Headers, bytes]:
        """The answer to what could not be read. Nobody counts it here: there are no metrics before the store."""
        _, headers, body = unread_reply(status, code, message, self._ids.next())
        return headers, body
