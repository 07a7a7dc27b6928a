"""The backends as they live: made from the settings, kept over reloads, probed, and asked for their models."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec.structs import replace

from zuebee.config.providers import PROVIDERS
from zuebee.config.settings import BackendSettings, HealthCheckSettings
from zuebee.contracts.inference import UNKNOWN, Inference, ModelFacts
from zuebee.dispatch.balancer import Backend, Health
from zuebee.lib import clock
from zuebee.lib.patterns import is_open
from zuebee.lib.tasks import Tasks
from zuebee.lib.timestamps import rfc3339

_log = logging.getLogger("zuebee.dispatch")

JITTER = 0.2


class Reachable(Inference, Protocol):
    """A backend's `Inference` that also answers the gateway's own small requests."""

    async def get(self, path: str, method: str, timeout_s: float) -> tuple[int, bytes]:
        """Status and body. Raises an exception when there is no answer."""
        ...

    def close(self) -> None:
        """Let go of what is idle."""
        ...


class Member(NamedTuple):
    """One backend of the pool: how it was made, and what is known of it."""

    settings: BackendSettings
    backend: Backend
    inference: Reachable


class PoolUpdate(NamedTuple):
    """A pool that may come: its members, those made for it, those of the present one that leave, and its probes."""

    members: list[Member]
    made: list[Member]
    gone: list[Member]
    checks: HealthCheckSettings


class Probed(NamedTuple):
    """What a probe found. `silent`: there was no answer; `odd`: one that says that the probe was wrong."""

    passed: bool
    reason: str
    silent: bool = False
    odd: bool = False


class BackendPool:
    """Makes backends from settings. Those whose settings did not change are kept, with all that was learnt of them."""

    def __init__(
        self,
        make: Callable[[BackendSettings], tuple[str, Reachable]],
        health_paths: Mapping[str, str],
    ) -> None:
        self._make = make
        self._health_paths = health_paths
        self._members: list[Member] = []
        self._probes = Tasks()

    @property
    def members(self) -> Sequence[Member]:
        """The backends of the settings in force."""
        return self._members

    def plan(self, backends: Sequence[BackendSettings], checks: HealthCheckSettings) -> PoolUpdate:
        """The pool that the settings describe, for `change`. Raises OSError or ValueError; nothing changes yet."""
        known = {member.settings.url: member for member in self._members}
        members, made = [], []
        for settings in backends:
            old = known.get(settings.url)
            if old is not None and _alike(old.settings, settings):
                members.append(known.pop(settings.url)._replace(settings=settings))
            else:
                made.append(self._member(settings, checks, old))
                members.append(made[-1])
        return PoolUpdate(members, made, list(known.values()), checks)

    def change(self, plan: PoolUpdate) -> list[Backend]:
        """Let a plan be the pool from now on. Nothing else may have changed it meanwhile."""
        members, _, gone, checks = plan
        self._probes.cancel()
        for leaving in gone:
            leaving.inference.close()
        self._members = members
        for member in members:
            member.backend.health.unhealthy_threshold = checks.unhealthy_threshold
            member.backend.health.healthy_threshold = checks.healthy_threshold
            member.backend.load.limit = member.settings.max_in_flight
        if checks.enabled:
            for member in members:
                self._probes.spawn(self._watch(member, checks), f"probe {member.backend.name}")
        return [member.backend for member in members]

    def drop(self, plan: PoolUpdate) -> None:
        """Let go of what was made for a plan that does not come true."""
        for member in plan.made:
            member.inference.close()

    async def aclose(self) -> None:
        """Stop the probes and let go of idle connections."""
        await self._probes.aclose()
        for member in self._members:
            member.inference.close()

    def _member(self, settings: BackendSettings, checks: HealthCheckSettings, old: Member | None) -> Member:
        name, inference = self._make(settings)
        health = Health(
            unhealthy_threshold=checks.unhealthy_threshold,
            healthy_threshold=checks.healthy_threshold,
        )
        if old is not None:
            health.probed_down = old.backend.health.probed_down
        # The server is the same, and what it still answers counts.
        load = None if old is None else old.backend.load
        backend = Backend(
            name,
            settings.url,
            inference,
            weight=settings.weight,
            health=health,
            models=settings.models,
            load=load,
            retry_started_on=settings.retry_started_on,
        )
        return Member(settings, backend, inference)

    async def _watch(self, member: Member, checks: HealthCheckSettings) -> None:
        """Probe one backend for ever; the first time at once."""
        health = member.backend.health
        while True:
            found = await self._probe(member, checks)
            health.checked_at_s = clock.monotonic_s()
            health.last_error = "" if found.passed else found.reason
            # A busy server has no time for a probe, or no connection left; and some know no such path.
            excused = found.odd or (found.silent and member.backend.load.in_flight > 0)
            if found.passed and health.probe_passed():
                _log.info("backend %s is back", member.backend.name)
            elif not found.passed and health.probe_failed(clock.monotonic_s(), excused=excused):
                _log.warning("backend %s is out: %s", member.backend.name, found.reason)
            await asyncio.sleep(checks.interval_s * random.uniform(1 - JITTER, 1 + JITTER))

    async def _probe(self, member: Member, checks: HealthCheckSettings) -> Probed:
        settings = member.settings
        chosen = settings.health_path or checks.path
        path = chosen or self._health_paths[settings.type]
        try:
            async with asyncio.timeout(checks.timeout_s):
                status, _ = await member.inference.get(path, checks.method, checks.timeout_s)
        except Exception as error:
            return Probed(False, f"{path}: {str(error) or type(error).__name__}", silent=True)
        if checks.expected_status is not None:
            passed = status == checks.expected_status
        elif settings.type == "openai" and chosen is None:
            # Any server may be behind this kind; one that answers at all, be it 404, lives.
            passed = status < 500
        else:
            passed = 200 <= status < 300
        return Probed(passed, f"{path} answered {status}", odd=400 <= status < 500)


def describe(members: Sequence[Member]) -> list[dict[str, Any]]:
    """What may be told of each backend to whoever has a key: no secret, and no address with one in it."""
    now_s, wall_s = clock.monotonic_s(), clock.wall_s()

    def when(at_s: float) -> str | None:
        return rfc3339(wall_s - now_s + at_s) if at_s else None

    told = []
    for settings, backend, _ in members:
        health, load = backend.health, backend.load
        fit = health.fit(now_s)
        open_ = now_s < health.ejected_until_s
        told.append(
            {
                "name": backend.name,
                "type": settings.type,
                "base_url": shown_url(settings.url),
                "model_names": settings.models,
                "is_healthy": fit,
                "last_checked": when(health.checked_at_s),
                "weight": settings.weight,
                "max_concurrency": settings.max_in_flight,
                "in_flight": load.in_flight,
                "uses_grpc": False,
                "failover_status": "available" if fit else "failed_over" if open_ else "unavailable",
                "circuit_breaker": {
                    "state": "open" if open_ else "half_open" if health.ejected_until_s else "closed",
                    "failures": health.failures,
                    "last_error": health.last_error or None,
                    "last_trip": when(health.ejected_at_s),
                },
            }
        )
    return told


def shown_url(url: str) -> str:
    """A URL without what may be a secret: user and password, query, fragment."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, host if parts.port is None else f"{host}:{parts.port}", parts.path, "", ""))


def _alike(old: BackendSettings, new: BackendSettings) -> bool:
    """Whether a backend made from the one is as good as one made from the other."""
    return replace(old, max_in_flight=new.max_in_flight) == new


async def gather_answers(members: Sequence[Member], path: str, timeout_s: float) -> list[tuple[Member, int, bytes]]:
    """Ask all backends at once; those that do not answer are left out. Some list their models at another path."""

    async def ask(member: Member) -> tuple[Member, int, bytes] | None:
        try:
            async with asyncio.timeout(timeout_s):
                theirs = PROVIDERS[member.settings.type].models_path if path == MODELS_PATH else path
                return member, *await member.inference.get(theirs, "GET", timeout_s)
        except Exception:
            return None

    work: list[Awaitable[tuple[Member, int, bytes] | None]] = [ask(member) for member in members]
    return [answer for answer in await asyncio.gather(*work) if answer is not None]


# The models of all backends as one list, in OpenAI's form.

MODELS_PATH = "/v1/models"
FRESH_S = 10.0
TIMEOUT_S = 3.0
MAX_MODELS = 10_000
MAX_TOKENS = 10**9


class _List(msgspec.Struct):
    data: list[Any] = []
    models: list[Any] = []  # Gemini's


_decode = msgspec.json.Decoder(_List | list[Any]).decode
"""OpenAI's list, or the bare array that some servers answer."""


class ModelList:
    """Asks the backends, at most every 10 seconds, and merges what they say; the first backend of a model speaks.

    `facts`: how long prompts and answers can be, as far as the cards tell; of a model that several serve, the least.
    """

    def __init__(self, pool: BackendPool) -> None:
        self.facts: dict[str, ModelFacts] = {}
        self._pool = pool
        self._lock = asyncio.Lock()
        self._cards: list[dict[str, Any]] = []
        self._members: tuple[Member, ...] = ()
        self._silent: frozenset[str] = frozenset()
        self._until_s = 0.0

    async def cards(self) -> list[dict[str, Any]]:
        """Model cards, each with an `id`. Backends that do not answer are left out, but for their declared models."""
        async with self._lock:
            members = tuple(self._pool.members)
            if clock.monotonic_s() >= self._until_s or members != self._members:
                self._cards = await self._ask(members)
                self._members = members
                self._until_s = clock.monotonic_s() + FRESH_S
        return self._cards

    async def serves(self, model: str) -> bool:
        """Whether a backend has this model: so it says, or it may, for it does not say what it has."""
        cards = await self.cards()
        able = [member.backend for member in self._members if member.backend.serves(model)]
        if len(cards) >= MAX_MODELS or any(backend.name in self._silent for backend in able):
            return bool(able)
        return bool(able) and any(card["id"] == model for card in cards)

    async def _ask(self, members: tuple[Member, ...]) -> list[dict[str, Any]]:
        cards: dict[str, dict[str, Any]] = {}
        facts: dict[str, ModelFacts] = {}
        silent = {member.backend.name for member in members}
        for member, status, body in await gather_answers(members, MODELS_PATH, TIMEOUT_S):
            found = _cards_of(body) if status == 200 else []
            if found:
                silent.discard(member.backend.name)
            for card in found:
                if member.backend.serves(name := card["id"]) and (name in cards or len(cards) < MAX_MODELS):
                    cards.setdefault(name, card)
                    facts[name] = _least(facts.get(name, UNKNOWN), facts_of(card))
        self._silent = frozenset(silent)
        # One whose servers do not answer just now is no other one than before.
        facts = {**{name: known for name, known in self.facts.items() if name in cards}, **facts}
        if facts != self.facts:
            self.facts = facts
        for member in members:
            for name in member.settings.models:
                if not is_open(name):
                    cards.setdefault(name, _declared(name, member.backend.name))
        return list(cards.values())


_CONTEXT = ("max_model_len", "context_length", "context_window", "max_context_length", "max_context_tokens")
_ANSWER = ("max_completion_tokens", "max_output_tokens", "max_output_length")


def facts_of(card: dict[str, Any]) -> ModelFacts:
    """What a model card says, by the names that vLLM, SGLang, OpenRouter, Groq, Mistral, Together and others use."""
    provider = card.get("top_provider")
    more = provider if isinstance(provider, dict) else {}
    return ModelFacts(_first(card, _CONTEXT) or _first(more, _CONTEXT), _first(card, _ANSWER) or _first(more, _ANSWER))


def _first(card: dict[str, Any], names: Sequence[str]) -> int:
    found = (card.get(name) for name in names)
    return next((value for value in found if type(value) is int and 0 < value <= MAX_TOKENS), 0)


def _least(one: ModelFacts, other: ModelFacts) -> ModelFacts:
    def least(a: int, b: int) -> int:
        return min(a, b) if a and b else a or b

    return ModelFacts(least(one.context, other.context), least(one.answer, other.answer))


def _cards_of(body: bytes) -> list[dict[str, Any]]:
    try:
        answer = _decode(body)
    except (ValueError, RecursionError):
        return []
    cards = answer if isinstance(answer, list) else answer.data or [_gemini_card(each) for each in answer.models]
    found = [card for card in cards if isinstance(card, dict) and isinstance(card.get("id"), str)]
    # Anthropic's cards have another mark.
    return [{"object": "model", "created": 0, **card} if card.get("type") == "model" else card for card in found]


def _gemini_card(said: Any) -> dict[str, Any]:
    """A model of Gemini's list as a card; it calls them `models/NAME`."""
    name = said.get("name") if isinstance(said, dict) else None
    if not isinstance(name, str):
        return {}
    card = _declared(name.removeprefix("models/"), "google")
    for theirs, ours in (("inputTokenLimit", "context_length"), ("outputTokenLimit", "max_output_tokens")):
        if type(said.get(theirs)) is int:
            card[ours] = said[theirs]
    return card


def _declared(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}
