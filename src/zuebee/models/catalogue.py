"""PURE. The kinds of backends and what differs between them: data, not branches."""

from typing import NamedTuple


class Kind(NamedTuple):
    """One kind of model server. `health_path` is where it says that it lives."""

    health_path: str


KINDS = {
    "openai": Kind(health_path="/health"),
    "vllm": Kind(health_path="/health"),
    "tgi": Kind(health_path="/health"),
    "ollama": Kind(health_path="/api/version"),
}
