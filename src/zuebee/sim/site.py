"""The routes of the simulated server: a request becomes the steps that answer it."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from zuebee.sim import answers
from zuebee.sim.asks import ChatAsk, CompletionAsk, EmbeddingAsk, decode, model_of
from zuebee.sim.base import Reply, SimRefused, SimRequest, SimSettings, Step, error_reply, json_reply
from zuebee.sim.observe import Account, Control, Observer
from zuebee.sim.wire import NO_WISH, FaultBook, FaultError, UsageKind, Wish, asked, play

CONTROL_PREFIX = "/_sim/"

_INFERENCE: dict[str, tuple[type[Any], Callable[..., Reply]]] = {
    "/v1/chat/completions": (ChatAsk, answers.chat),
    "/v1/completions": (CompletionAsk, answers.completion),
    "/v1/embeddings": (EmbeddingAsk, answers.embeddings),
}


@dataclass(slots=True)
class SimExchange:
    """A request being answered: its steps, and the account to keep of them (None for control calls)."""

    steps: Iterator[Step]
    keep_alive: bool
    account: Account | None


@dataclass(slots=True)
class _Draft:
    """What is known of an answer before the fault is put in."""

    render: Callable[[UsageKind | None], Reply]
    prompt_tokens: int = 0
    wish: Wish | None = None
    model: str | None = None


class Site:
    """Decides what is answered; knows the faults that are armed and keeps the accounts."""

    def __init__(self, settings: SimSettings, refuse: Callable[[float], None]) -> None:
        self._settings = settings
        self._refuse = refuse
        self._faults = FaultBook()
        self.observer = Observer(settings.keep_requests)
        self._control = Control(self.observer, self._faults, refuse)

    def answer(self, request: SimRequest) -> SimExchange:
        """Return the exchange that answers a request; what is wrong with it is answered as an error."""
        if request.path.startswith(CONTROL_PREFIX):
            played = play(self._control.answer(request), NO_WISH, keep_alive=request.keep_alive)
            return SimExchange(played.steps, played.keep_alive, None)
        self.observer.record(request)
        request_id = request.header(b"x-request-id")
        answer_id = request_id or secrets.token_hex(16)
        prompt_tokens, fault = 0, NO_WISH
        try:
            draft = self._route(request, answer_id)
            fault = asked(draft.wish, request.headers, draft.model) or self._armed(request) or NO_WISH
            reply = draft.render(fault.kind if fault.name == "usage" else None)
            prompt_tokens = draft.prompt_tokens
        except SimRefused as refused:
            fault = self._armed(request) or NO_WISH
            reply = refused.reply
        except FaultError as error:
            reply = error_reply(400, str(error), param="sim")
        if fault.name == "refuse":
            self._refuse(1.0 if fault.for_s is None else fault.for_s)
        if request_id is not None:
            reply.headers.append((b"x-request-id", request_id.encode("latin-1")))
        if request.method == "HEAD":
            reply.body = b""
        stream = reply.events is not None
        played = play(reply, fault, keep_alive=request.keep_alive, chunks=request.chunks)
        account = Account(
            id=answer_id,
            request_id=request_id,
            connection=request.connection,
            path=request.path,
            stream=stream,
            status=played.status,
            fault=fault.name,
            prompt_tokens=prompt_tokens if played.status == 200 else 0,
        )
        self.observer.begin(account)
        return SimExchange(played.steps, played.keep_alive, account)

    def _armed(self, request: SimRequest) -> Wish | None:
        return self._faults.strike(request.path, inference=request.path in _INFERENCE)

    def _route(self, request: SimRequest, answer_id: str) -> _Draft:
        path, method = request.path, request.method
        self._check_key(request)
        if path in _INFERENCE:
            return self._only("POST", method) or self._inference(request, answer_id)
        models = self._settings.models
        if path == "/v1/models":
            return self._only("GET", method) or _Draft(lambda _: answers.models(self._settings))
        name = path.removeprefix("/v1/models/")
        if name in models:
            return self._only("GET", method) or _Draft(lambda _: json_reply(answers.model_card(name, self._settings)))
        if path == "/health":
            return self._only("GET", method) or _Draft(lambda _: Reply(headers=[]))
        return _Draft(lambda _: json_reply({"detail": "Not Found"}, status=404))

    @staticmethod
    def _only(allowed: str, method: str) -> _Draft | None:
        if method == allowed:
            return None
        reply = json_reply({"detail": "Method Not Allowed"}, status=405)
        reply.headers.append((b"allow", allowed.encode()))
        return _Draft(lambda _: reply)

    def _check_key(self, request: SimRequest) -> None:
        key = self._settings.api_key
        if key is None or not request.path.startswith("/v1/"):
            return
        given = request.header(b"authorization") or ""
        if not secrets.compare_digest(given.encode(), f"Bearer {key}".encode()):
            raise SimRefused(401, "The API key is missing or wrong.")

    def _inference(self, request: SimRequest, answer_id: str) -> _Draft:
        kind, answer = _INFERENCE[request.path]
        ask = decode(request.body, kind)
        model = model_of(ask.model, self._settings)
        return _Draft(partial(answer, ask, answer_id, model, self._settings), ask.prompt_tokens, ask.sim, model)
