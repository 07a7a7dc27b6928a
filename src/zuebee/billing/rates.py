"""PURE. Prices of tokens, and what a request may cost by them."""

from dataclasses import dataclass
from typing import Final, Literal

from zuebee.contracts.admission import NOTHING, Amount, Need

NO_NEED: Final = Need(0, 0, 0, 0)


@dataclass(frozen=True)
class Tier:
    """Prices of the whole request once its prompt has more than `above` tokens."""

    above: int
    input_nano: int
    cached_nano: int
    output_nano: int
    written_nano: int = -1
    reasoning_nano: int = -1


@dataclass(frozen=True)
class Rate:
    """Nano-units for a million tokens. `tiers` by rising `above`.

    `written_nano` is for what of a prompt went into the server's cache, `reasoning_nano` for thoughts; -1: as the rest
    of prompt and answer.
    `source`: an own row, a list price, the cap of `unknown_price: cap`, or free under `unknown_price: allow`.
    """

    input_nano: int
    cached_nano: int
    output_nano: int
    tiers: tuple[Tier, ...] = ()
    source: Literal["own", "list", "cap", "free"] = "own"
    written_nano: int = -1
    reasoning_nano: int = -1


class Quote(Amount):
    """What a request costs at most, and by which rate; `least`: what it costs if it is as short as it may be.

    `need`: the tokens of both.
    """

    def __init__(
        self, tokens: int, cost_nano: int = 0, rate: Rate | None = None, least: Amount = NOTHING, need: Need = NO_NEED
    ) -> None:
        super().__init__(tokens, cost_nano)
        self.rate: Final = rate
        self.least: Final = least
        self.need: Final = need
