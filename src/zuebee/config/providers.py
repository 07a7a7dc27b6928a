"""The kinds of model servers and the providers that have a name here: a row of facts each, and no code.

A new provider whose API is like OpenAI's is a row. Without one it needs its `url` only: its kind is `openai` then.
"""

from typing import Literal, NamedTuple

Spoken = Literal["openai", "anthropic", "gemini"]


class Provider(NamedTuple):
    """What differs. `url`: the base address; empty: the operator names it. `health_path`: answers 2xx while it lives.
    `models_path`: lists its models.

    `dialects`: those that it speaks; the first is used where its client speaks none of them. `key_header`: carries its
    key, in `authorization` as a bearer token. `headers`: sent unless the client sends them itself. `forwarded`: header
    fields of clients that it wants to see.
    """

    url: str = ""
    health_path: str = "/v1/models"
    models_path: str = "/v1/models"
    dialects: tuple[Spoken, ...] = ("openai",)
    key_header: str = "authorization"
    headers: dict[str, str] = {}
    forwarded: tuple[str, ...] = ()


ANY = "openai"
"""Any server with an API like OpenAI's: where it is must be said."""

PROVIDERS = {
    # model servers of one's own
    "openai": Provider("", "/health"),
    "vllm": Provider("", "/health", dialects=("openai", "anthropic")),
    "sglang": Provider("", "/health"),
    "tgi": Provider("", "/health"),
    "ollama": Provider("", "/api/version"),
    "llamacpp": Provider("", "/health"),
    # providers
    "anthropic": Provider(
        "https://api.anthropic.com",
        models_path="/v1/models?limit=1000",
        dialects=("anthropic",),
        key_header="x-api-key",
        headers={"anthropic-version": "2023-06-01"},
        forwarded=("anthropic-version", "anthropic-beta"),
    ),
    "gemini": Provider(
        "https://generativelanguage.googleapis.com",
        "/v1beta/models",
        "/v1beta/models?pageSize=1000",
        dialects=("gemini",),
        key_header="x-goog-api-key",
    ),
    "azure": Provider("", "/openai/models", "/openai/models", key_header="api-key"),
    "meta": Provider("https://api.llama.com/compat/v1"),
    "mistral": Provider("https://api.mistral.ai"),
    "groq": Provider("https://api.groq.com/openai/v1"),
    "deepseek": Provider("https://api.deepseek.com", "/models"),
    "openrouter": Provider("https://openrouter.ai/api/v1"),
    "xai": Provider("https://api.x.ai"),
    "together": Provider("https://api.together.xyz"),
    "fireworks": Provider("https://api.fireworks.ai/inference/v1"),
    "cohere": Provider("https://api.cohere.ai/compatibility/v1"),
}

ProviderName = Literal[
    "openai", "vllm", "sglang", "tgi", "ollama", "llamacpp", "anthropic", "gemini", "azure", "meta", "mistral", "groq",
    "deepseek", "openrouter", "xai", "together", "fireworks", "cohere",
]  # fmt: skip
"""The names above, for whoever reads a configuration."""
