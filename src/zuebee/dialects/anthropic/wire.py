"""How Anthropic's clients are talked to."""

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from zuebee.contracts.errors import BAD_ANSWER, Refusal
from zuebee.dialects.anthropic import errors, request
from zuebee.dialects.anthropic.converter import AnthropicConverter
from zuebee.dialects.hub.canonical import Malformed
from zuebee.dialects.hub.deltas import events_of
from zuebee.dialects.hub.wires import Wire
from zuebee.dialects.openai_shapes import Request

_BEGINNING: Final = "1970-01-01T00:00:00Z"
_LENGTHS: Final = ("context_length", "max_model_len", "context_window")


def render_models(cards: list[dict[str, Any]]) -> bytes:
    """The list that `GET /v1/models` gives, of OpenAI's cards: all of it on one page."""
    data = [_card(card) for card in cards]
    return msgspec.json.encode(
        {
            "data": data,
            "has_more": False,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
        }
    )


def render_model(card: dict[str, Any]) -> bytes:
    """One of them."""
    return msgspec.json.encode(_card(card))


def _card(card: dict[str, Any]) -> dict[str, Any]:
    name = str(card.get("id", ""))
    shown = card.get("display_name") or card.get("name")
    found = {
        "type": "model",
        "id": name,
        "display_name": shown if isinstance(shown, str) else name,
        "created_at": _created(card.get("created")),
    }
    lengths = [card[each] for each in _LENGTHS if type(card.get(each)) is int]
    return {**found, "max_input_tokens": lengths[0]} if lengths else found


def _created(value: Any) -> str:
    try:
        return datetime.fromtimestamp(int(value), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (TypeError, ValueError, OverflowError, OSError):
        return _BEGINNING


class AnthropicWire(Wire):
    """Anthropic's Messages API."""

    def __init__(self) -> None:
        super().__init__("anthropic", errors.PING)

    def read_request(self, body: bytes) -> Request | Refusal:
        return request.read_request(body)

    def render_error(self, refusal: Refusal, request_id: str) -> bytes:
        return errors.render_error(refusal, request_id)

    def render_error_event(self, refusal: Refusal) -> bytes:
        return errors.render_error_event(refusal)

    def as_events(self, body: bytes, *, usage: bool) -> tuple[bytes, bytes]:
        try:
            return events_of(AnthropicConverter(), body)
        except Malformed:
            return b"", self.render_error_event(BAD_ANSWER)

    def render_models(self, cards: list[dict[str, Any]]) -> bytes:
        return render_models(cards)

    def render_model(self, card: dict[str, Any]) -> bytes:
        return render_model(card)
