"""PURE. Tokens of a request when nobody counted them: bytes times a ratio learned from real usage, model by model."""

from typing import Final

DEFAULT_TOKENS_PER_BYTE: Final = 0.25
MAX_TOKENS_PER_BYTE: Final = 1.0
"""A token of text has a byte at least. More come from elsewhere (a picture behind a URL) or are made up by a backend:
neither may let the estimates of all others grow beyond what anybody can pay.
"""

WEIGHT: Final = 0.05
MAX_MODELS: Final = 1000


class TokenRatios:
    """Tokens per byte of request body, as a moving average for each model."""

    def __init__(self) -> None:
        self._ratios: dict[str, float] = {}

    def learn(self, model: str, body_bytes: int, prompt_tokens: int) -> None:
        """A backend counted `prompt_tokens` in a body of `body_bytes`."""
        if body_bytes <= 0 or prompt_tokens <= 0:
            return
        seen = prompt_tokens / body_bytes
        if seen > MAX_TOKENS_PER_BYTE:
            seen = MAX_TOKENS_PER_BYTE
        known = self._ratios.get(model)
        if known is not None:
            self._ratios[model] = known + WEIGHT * (seen - known)
        elif len(self._ratios) < MAX_MODELS:
            self._ratios[model] = seen

    def estimate(self, model: str, body_bytes: int) -> int:
        """Prompt tokens that a body of `body_bytes` probably has."""
        return round(body_bytes * self._ratios.get(model, DEFAULT_TOKENS_PER_BYTE))
