"""PURE. Prices of tokens, and what a request may cost by them."""

from dataclasses import dataclass
from typing import Final, Literal

from zuebee.contracts.admission import Amount


@dataclass(frozen=True)
class Tier:
    """Prices of the whole request once its prompt has more than `above` tokens."""

    above: int
    input_nano: int
    cached_nano: int
    output_nano: int


@dataclass(frozen=True)
class Rate:
    """Nano-units for a million tokens. `tiers` by rising `above`.

    `source`: an own row, a list price, the cap of `unknown_price: cap`, or free under `unknown_price: allow`.
    """

    input_nano: int
    cached_nano: int
    output_nano: int
    tiers: tuple[Tier, ...] = ()
    source: Literal["own", "list", "cap", "free"] = "own"


class Quote(Amount):
    """What a request costs at most, and the rate by which that was found."""

    def __init__(self, tokens: int, cost_nano: int = 0, rate: Rate | None = None) -> None:
        super().__init__(tokens, cost_nano)
        self.rate: Final = rate
