"""PURE. Prices of tokens, and what a request may cost by them."""

from typing import Literal

import msgspec

from zuebee.contracts.admission import Amount


class Tier(msgspec.Struct, frozen=True, gc=False):
    """Prices of the whole request once its prompt has more than `above` tokens."""

    above: int
    input_nano: int
    cached_nano: int
    output_nano: int


class Rate(msgspec.Struct, frozen=True, gc=False):
    """Nano-units for a million tokens. `tiers` by rising `above`.

    `source`: an own row, a list price, the cap of `unknown_price: cap`, or free under `unknown_price: allow`.
    """

    input_nano: int
    cached_nano: int
    output_nano: int
    tiers: tuple[Tier, ...] = ()
    source: Literal["own", "list", "cap", "free"] = "own"


class Quote(Amount, frozen=True, gc=False):
    """What a request costs at most, and the rate by which that was found."""

    rate: Rate | None = None
