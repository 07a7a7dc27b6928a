"""How fast something is used up: exponentially smoothed rates. PURE."""

from math import exp
from typing import Final

OTHER: Final = "other"
STEP_S: Final = 0.5


class Burn:
    """A rate: what came in lately, each amount weighted by `exp(-age / TAU_S)`.

    After a constant rate has lasted for five minutes it shows 99 % of it; after five minutes of silence, 1 %.
    """

    TAU_S = 60.0
    __slots__ = ("_at_s", "_cost", "_tokens")

    def __init__(self) -> None:
        self._tokens = 0.0
        self._cost = 0.0
        self._at_s = 0.0

    def add(self, tokens: int, cost_nano: int, now_s: float) -> None:
        """So much was used."""
        # This is called for each request: what comes within half a second counts as of one moment.
        if now_s - self._at_s > STEP_S:
            fade = exp((self._at_s - now_s) / self.TAU_S)
            self._tokens *= fade
            self._cost *= fade
            self._at_s = now_s
        self._tokens += tokens
        self._cost += cost_nano

    def rates(self, now_s: float) -> tuple[float, float]:
        """Tokens a minute, and units of the currency an hour."""
        fade = exp((self._at_s - now_s) / self.TAU_S) if now_s > self._at_s else 1.0
        return self._tokens * fade * 60 / self.TAU_S, self._cost * fade * 3600 / self.TAU_S / 1e9


class Burns:
    """Rates by organisation and plan: the first `limit` pairs for themselves, all others together.

    They add up: the sum over all pairs is the rate of the whole.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._burns: dict[tuple[str, str], Burn] = {}

    def add(self, organisation: str, plan: str, tokens: int, cost_nano: int, now_s: float) -> None:
        """So much was used."""
        burn = self._burns.get((organisation, plan))
        if burn is None:
            known = len(self._burns) < self.limit
            burn = self._burns.setdefault((organisation, plan) if known else (OTHER, OTHER), Burn())
        burn.add(tokens, cost_nano, now_s)

    def rates(self, now_s: float) -> list[tuple[tuple[str, str], float, float]]:
        """For each pair: tokens a minute, and units of the currency an hour."""
        return [(pair, *burn.rates(now_s)) for pair, burn in self._burns.items()]
