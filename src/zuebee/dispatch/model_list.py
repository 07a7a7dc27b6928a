"""The models of all backends as one list, in OpenAI's form."""

import asyncio
from typing import Any

import msgspec

from zuebee.dispatch.fleet import Fleet, Member, gather_answers
from zuebee.kit import clock

FRESH_S = 10.0
TIMEOUT_S = 3.0
MAX_MODELS = 10_000


class _List(msgspec.Struct):
    data: list[dict[str, Any]] = []


_decode = msgspec.json.Decoder(_List).decode


class ModelList:
    """Asks the backends, at most every 10 seconds, and merges what they say; the first backend of a model speaks."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._lock = asyncio.Lock()
        self._cards: list[dict[str, Any]] = []
        self._members: tuple[Member, ...] = ()
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

    async def _ask(self, members: tuple[Member, ...]) -> list[dict[str, Any]]:
        cards: dict[str, dict[str, Any]] = {}
        for member, status, body in await gather_answers(members, "/v1/models", TIMEOUT_S):
            for card in _cards_of(body) if status == 200 else ():
                if member.backend.serves(card["id"]) and len(cards) < MAX_MODELS:
                    cards.setdefault(card["id"], card)
        for member in members:
            for name in member.settings.models:
                if not name.endswith("*"):
                    cards.setdefault(name, _declared(name, member.backend.name))
        return list(cards.values())


def _cards_of(body: bytes) -> list[dict[str, Any]]:
    try:
        cards = _decode(body).data
    except (ValueError, RecursionError):
        return []
    return [card for card in cards if isinstance(card.get("id"), str)]


def _declared(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}
