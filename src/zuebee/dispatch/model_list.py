"""The models of all backends as one list, in OpenAI's form."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from zuebee.contracts.models import UNKNOWN, ModelFacts
from zuebee.dispatch.fleet import Fleet, Member, gather_answers
from zuebee.kit import clock

FRESH_S = 10.0
TIMEOUT_S = 3.0
MAX_MODELS = 10_000
MAX_TOKENS = 10**9


class _List(msgspec.Struct):
    data: list[Any] = []


_decode = msgspec.json.Decoder(_List | list[Any]).decode
"""OpenAI's list, or the bare array that some servers answer."""


class ModelList:
    """Asks the backends, at most every 10 seconds, and merges what they say; the first backend of a model speaks.

    `facts`: how long prompts and answers can be, as far as the cards tell; of a model that several serve, the least.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.facts: dict[str, ModelFacts] = {}
        self._fleet = fleet
        self._lock = asyncio.Lock()
        self._cards: list[dict[str, Any]] = []
        self._members: tuple[Member, ...] = ()
        self._silent: frozenset[str] = frozenset()
        self._until_s = 0.0

    async def cards(self) -> list[dict[str, Any]]:
        """Model cards, each with an `id`. Backends that do not answer are left out, but for their declared models."""
        async with self._lock:
            members = tuple(self._fleet.members)
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
        for member, status, body in await gather_answers(members, "/v1/models", TIMEOUT_S):
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
                if not name.endswith("*"):
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
    cards = answer if isinstance(answer, list) else answer.data
    return [card for card in cards if isinstance(card, dict) and isinstance(card.get("id"), str)]


def _declared(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}
