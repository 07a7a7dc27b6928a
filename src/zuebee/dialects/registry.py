"""PURE. Which modules are those of which dialect: each is imported when it is first needed."""

from functools import cache
from typing import Final, cast
from urllib.parse import quote

from zuebee.contracts.heads import Dialect
from zuebee.dialects.hub.base import BackendDialect, ClientDialect
from zuebee.dialects.hub.wires import OPENAI, Wire

CLIENTS: Final[tuple[Dialect, ...]] = ("openai", "anthropic")
"""The dialects that clients speak."""

CHAT_PATH, MESSAGES_PATH = "/v1/chat/completions", "/v1/messages"


@cache
def client(dialect: Dialect) -> ClientDialect:
    """For clients that speak it."""
    if dialect == "anthropic":
        from zuebee.dialects.anthropic.converter import AnthropicConverter

        return AnthropicConverter()
    from zuebee.dialects.openai_chat.converter import OpenAIConverter

    return OpenAIConverter()


@cache
def backend(dialect: Dialect) -> BackendDialect:
    """For backends that speak it."""
    if dialect == "gemini":
        from zuebee.dialects.gemini.converter import GeminiConverter

        return GeminiConverter()
    return cast(BackendDialect, client(dialect))


def path(dialect: Dialect, model: str, *, stream: bool) -> str:
    """Where a backend of that dialect takes chats with a model."""
    if dialect == "anthropic":
        return MESSAGES_PATH
    if dialect == "gemini":
        return f"/v1beta/models/{quote(model, safe='')}:{'streamGenerateContent' if stream else 'generateContent'}"
    return CHAT_PATH


def query(dialect: Dialect, *, stream: bool) -> bytes:
    """What stands behind `?` there."""
    return b"alt=sse" if dialect == "gemini" and stream else b""


@cache
def _anthropic_wire() -> Wire:
    from zuebee.dialects.anthropic.wire import AnthropicWire

    return AnthropicWire()


def wire(dialect: Dialect) -> Wire:
    """How clients of that dialect are talked to."""
    return _anthropic_wire() if dialect == "anthropic" else OPENAI
