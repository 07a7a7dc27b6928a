"""List prices of public models, in USD: the data that ships with genai-prices, never fetched."""

import importlib
from collections.abc import Iterator
from datetime import date
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any

from zuebee.billing.rates import Rate, Tier
from zuebee.config.check_billing import MAX_PRICE_NANO, NANO_PER_UNIT

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

_NAMED_IN_PASSING = ("openai", "cohere", "voyageai")
"""Providers whose models are also looked for by exact name where the data knows no pattern for them (embeddings)."""


class ListPrices:
    """What providers ask for their models. The data is read at first use: 0.3 s and 30 MB that a start can do without;
    `load` does it beforehand, in any thread.
    """

    def __init__(self) -> None:
        self._providers: dict[str, Provider] = {}

    def load(self) -> None:
        """Read the data, once."""
        if not self._providers:
            providers: list[Provider] = importlib.import_module("genai_prices.data").providers
            self._providers = {provider.id: provider for provider in providers}

    def find(self, model: str, day: date) -> Rate | None:
        """The price of a model (`gpt-4o`, `anthropic/claude-sonnet-4-5`) on a UTC day; None: none for its tokens.

        Of prices that change within the day the highest counts. What is not priced by text tokens (searches, seconds
        of audio, cache writes beyond their input price) is not part of it.
        """
        self.load()
        info = self._model(model.lower())
        if info is None:
            return None
        rates = [rate for prices in _possible(info, day) if (rate := _rate(prices)) is not None]
        return _highest(rates) if rates else None

    def _model(self, name: str) -> "ModelInfo | None":
        """Past the package's own look-up, whose memory of names grows without bound."""
        everyone = list(self._providers.values())
        prefix, separator, rest = name.partition("/")
        if separator and prefix in self._providers:
            return self._providers[prefix].find_model(rest, all_providers=everyone)
        for provider in everyone:
            if provider.model_match is not None and provider.model_match.is_match(name):
                return provider.find_model(name, all_providers=everyone)
        for known in _NAMED_IN_PASSING:
            if known in self._providers and (info := self._providers[known].find_model(name)) is not None:
                return info
        return None


def _possible(info: "ModelInfo", day: date) -> "Iterator[ModelPrice]":
    """Every price that holds at some time of the day. The last row that is active counts."""
    if not isinstance(info.prices, list):
        yield info.prices
        return
    for row in reversed(info.prices):
        start = getattr(row.constraint, "start_date", None)
        if start is not None and start > day:
            continue
        yield row.prices
        if row.constraint is None or start is not None:
            return
    yield from (row.prices for row in info.prices[:1])


def _rate(prices: "ModelPrice") -> Rate | None:
    """None if neither input nor output has a price for tokens."""
    figures: list[Any] = [prices.input_mtok, prices.cache_read_mtok, prices.output_mtok]
    if figures[0] is None and figures[2] is None:
        return None
    if figures[1] is None:
        figures[1] = figures[0]
    starts = sorted({tier.start for figure in figures for tier in getattr(figure, "tiers", ())})
    tiers = tuple(Tier(start, *(_nano(figure, start) for figure in figures)) for start in starts)
    base = [_nano(figure, -1) for figure in figures]
    return Rate(base[0], base[1], base[2], tiers, "list")


def _nano(figure: Any, tier_start: int) -> int:
    """The price of a bucket in the tier that starts at so many prompt tokens; -1: before all tiers."""
    if figure is None:
        return 0
    price: Decimal = figure if isinstance(figure, Decimal) else figure.base
    for tier in getattr(figure, "tiers", ()):  # in rising order
        if tier.start <= tier_start:
            price = tier.price
    nano = int((price * NANO_PER_UNIT).to_integral_value(ROUND_CEILING))
    return min(max(nano, 0), MAX_PRICE_NANO)


def _highest(rates: list[Rate]) -> Rate:
    """For each bucket and tier the highest price."""
    starts = sorted({tier.above for rate in rates for tier in rate.tiers})
    tiers = tuple(Tier(start, *_most([_at(rate, start) for rate in rates])) for start in starts)
    base = _most([(rate.input_nano, rate.cached_nano, rate.output_nano) for rate in rates])
    return Rate(*base, tiers, "list")


def _at(rate: Rate, start: int) -> tuple[int, int, int]:
    held: Rate | Tier = rate
    for tier in rate.tiers:
        if tier.above <= start:
            held = tier
    return held.input_nano, held.cached_nano, held.output_nano


def _most(figures: list[tuple[int, int, int]]) -> tuple[int, int, int]:
    return max(f[0] for f in figures), max(f[1] for f in figures), max(f[2] for f in figures)
