"""What can be set on a simulated model server."""

from dataclasses import dataclass
from ssl import SSLContext

MODELS = ("sim-small", "sim-large")
"""The models that answer when nothing else is configured."""

CREATED_S = 1_767_225_600
"""Every `created` field (2026-01-01T00:00:00Z): answers to equal requests are equal, today and tomorrow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimSettings:
    """How a simulated model server listens and how it answers."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 takes any free port; `SimServer.port` says which."""
    models: tuple[str, ...] = MODELS
    tokens: int = 64
    """Length of an answer, unless the request sets a lower `max_tokens` or a `sim.tokens`."""
    tokens_per_s: float = 50.0
    """Speed of each choice of an answer; 0 means as fast as the client reads."""
    first_token_delay_s: float = 0.0
    """Time before the first token, in addition to the pace of `tokens_per_s`."""
    max_model_tokens: int = 131_072
    """Prompt and answer together may not be longer; a request for more is answered 400, as vLLM does."""
    max_body_bytes: int = 64 * 1024 * 1024
    embedding_dimensions: int = 64
    api_key: str | None = None
    """When set, `/v1` answers 401 to requests without `Authorization: Bearer <api_key>`."""
    ssl: SSLContext | None = None
    """When set, the server speaks TLS."""
    keep_requests: int = 1000
    """How many of the last requests `GET /_sim/requests` shows; 0 records none."""
