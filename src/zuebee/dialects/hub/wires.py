"""PURE. How clients of each dialect are talked to: the look at a request, errors, keepalives.

An edge knows dialects by their `Wire` only.
"""

from typing import Any, Final

import msgspec

from zuebee.contracts.errors import Refusal
from zuebee.contracts.heads import Dialect
from zuebee.dialects import openai, sse
from zuebee.dialects.hub import whole
from zuebee.dialects.openai_shapes import Request
from zuebee.dialects.openai_stream import DONE_EVENT


class Wire:
    """OpenAI's. `keepalive`: what shows that a stream is alive; its reader makes nothing of it."""

    def __init__(self, name: Dialect = "openai", keepalive: bytes = sse.COMMENT) -> None:
        self.name: Final[Dialect] = name
        self.keepalive: Final = keepalive

    def read_request(self, body: bytes) -> Request | Refusal:
        """The few fields of a request that the gateway looks at."""
        return openai.read_request(body)

    def render_error(self, refusal: Refusal, request_id: str) -> bytes:
        """The body of an error answer."""
        return openai.render_error(refusal)

    def render_error_event(self, refusal: Refusal) -> bytes:
        """The event that tells a stream's reader that the rest is missing."""
        return openai.render_error_event(refusal)

    def as_events(self, body: bytes, *, usage: bool) -> tuple[bytes, bytes]:
        """A whole answer as the events of a stream, and their last words."""
        return whole.as_event(body, usage=usage), DONE_EVENT

    def render_models(self, cards: list[dict[str, Any]]) -> bytes:
        """The list of models."""
        return msgspec.json.encode({"object": "list", "data": cards})

    def render_model(self, card: dict[str, Any]) -> bytes:
        """One of them."""
        return msgspec.json.encode(card)


OPENAI: Final = Wire()
