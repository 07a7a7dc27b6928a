"""PURE. What a path means that is not written as in the table of routes."""

import re
from typing import Final

from zuebee.contracts.errors import NOT_FOUND, Refusal

_SLASHES: Final = re.compile(r"/{2,}")
_A_MODEL: Final = re.compile(r"(/v1)?/models/[^/]")
_KNOWN: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models")
"""What a base URL with too much in it ends in."""

MAX_SHOWN: Final = 200

_NOT_YET: Final = (
    (re.compile(r"(/v1)?/messages(/count_tokens|/batches.*)?"), "The Anthropic Messages API"),
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
            return Refusal(404, "not_found_error", "unsupported_endpoint", message)
    for each in _KNOWN:
        if path.endswith(each):
            base = path[: -len(each)]
            shown = base[:MAX_SHOWN]
            message = f"There is no endpoint {shown}{each}, but {each}: take `{shown}` out of the client's base URL."
            return Refusal(404, "not_found_error", "unknown_path", message)
    return NOT_FOUND
