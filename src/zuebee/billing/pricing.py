"""What tokens cost. PURE.

Prices are integers, nano-units of the currency for a million tokens; the cost of a request is one sum of products,
rounded up once. Nothing here is ever negative, and nothing exceeds `MAX_AMOUNT`: a figure beyond it is that figure,
so that an absurd count can never become a small or negative charge.
"""

from collections.abc import Callable
from datetime import date
from typing import Final, Literal

from zuebee.billing.rates import Rate, Tier
from zuebee.config import BillingSettings, PriceSettings
from zuebee.config.check_billing import price_nano, since_s
from zuebee.contracts.admission import MAX_AMOUNT
from zuebee.contracts.errors import Refusal

MAX_REMEMBERED: Final = 10_000
"""Models and days whose rate is kept; the oldest goes first."""

MAX_MODEL_NAME: Final = 256
"""Longer names have no built-in price and are not remembered: nobody's model is called so."""

_MILLION: Final = 1_000_000
_DAY_S: Final = 86_400
_FIRST_DAY: Final = date(1970, 1, 1).toordinal()

NO_PRICE: Final = Refusal(
    403,
    "permission_error",
    "model_has_no_price",
    "This model has no price here, so a key with a money budget may not use it.",
    "model",
)


FREE: Final = Rate(0, 0, 0, source="free")

ListPrice = Callable[[str, date], Rate | None]


def cost_nano(rate: Rate, prompt: int, completion: int, cached: int = 0) -> int:
    """What a request costs, rounded up to a whole nano-unit, between 0 and MAX_AMOUNT.

    `cached` tokens are part of `prompt`, and have a price of their own. Counts below 0 are 0.
    """
    if not (0 <= cached <= prompt <= MAX_AMOUNT and 0 <= completion <= MAX_AMOUNT):
        prompt = min(max(prompt, 0), MAX_AMOUNT)
        cached = min(max(cached, 0), prompt)
        completion = min(max(completion, 0), MAX_AMOUNT)
    chosen: Rate | Tier = rate
    if rate.tiers:
        for tier in rate.tiers:
            if prompt > tier.above:
                chosen = tier
    total = prompt * chosen.input_nano + completion * chosen.output_nano
    if cached:
        total += cached * (chosen.cached_nano - chosen.input_nano)
    cost = -(-total // _MILLION)
    assert cost >= 0
    return cost if cost < MAX_AMOUNT else MAX_AMOUNT


class PriceBook:
    """The price of any model at any time: the operator's rows, then the list, then the policy for the unknown.

    `list_price` answers for a model and a UTC day; None: there is no list. Not used with a currency other than USD.
    """

    def __init__(self, settings: BillingSettings, list_price: ListPrice | None = None) -> None:
        self._rows = sorted((_Row(row) for row in settings.prices), key=lambda row: row.order)
        self._list_price = list_price if settings.built_in_prices and settings.currency == "USD" else None
        self._margin_percent = settings.margin_percent
        self._unknown = _unknown_rate(settings)
        self._known: dict[tuple[str, int], tuple[float, float, Rate | None]] = {}

    def rate(self, model: str, at_s: float) -> Rate | None:
        """The price of `model` at a time; None: it has none, and policy denies it."""
        day = int(at_s // _DAY_S)
        known = self._known.get((model, day))
        if known is not None and known[0] <= at_s < known[1]:
            return known[2]
        return self._look_up(model, at_s, day)

    def quote(self, model: str, at_s: float, prompt: int, completion: int, cached: int = 0) -> int | Refusal:
        """What so many tokens of a model cost in nano-units; a refusal when it has no price and policy denies it."""
        rate = self.rate(model, at_s)
        return NO_PRICE if rate is None else cost_nano(rate, prompt, completion, cached)

    def _look_up(self, model: str, at_s: float, day: int) -> Rate | None:
        from_s, until_s = float(day * _DAY_S), float((day + 1) * _DAY_S)
        rate: Rate | None = None
        for row in self._rows:  # best first
            if not row.matches(model):
                continue
            if row.since_s > at_s:
                until_s = min(until_s, row.since_s)
                continue
            from_s = max(from_s, row.since_s)
            rate = row.rate
            break
        if rate is None:
            rate = self._from_list(model, day) or self._unknown
        if len(model) <= MAX_MODEL_NAME:
            while len(self._known) >= MAX_REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[model, day] = (from_s, until_s, rate)
        return rate

    def _from_list(self, model: str, day: int) -> Rate | None:
        if self._list_price is None or len(model) > MAX_MODEL_NAME:
            return None
        try:
            rate = self._list_price(model, date.fromordinal(_FIRST_DAY + day))
        except (OverflowError, ValueError):  # a time that no calendar has
            return None
        return None if rate is None else _with_margin(rate, self._margin_percent)


class _Row:
    """One own price. The longer its pattern, the better it fits; a whole name fits best; then the newest."""

    def __init__(self, settings: PriceSettings) -> None:
        self._is_prefix = settings.model.endswith("*")
        self._name = settings.model.removesuffix("*")
        self.since_s = since_s(settings.since)
        self.rate = _own_rate(settings, "own")
        self.order = (self._is_prefix, -len(self._name), -self.since_s)

    def matches(self, model: str) -> bool:
        return model.startswith(self._name) if self._is_prefix else model == self._name


def _own_rate(settings: PriceSettings, source: Literal["own", "cap"]) -> Rate:
    input_nano = price_nano(settings.input_per_million)
    cached = settings.cached_input_per_million
    return Rate(
        input_nano,
        input_nano if cached is None else price_nano(cached),
        price_nano(settings.output_per_million),
        source=source,
    )


def _unknown_rate(settings: BillingSettings) -> Rate | None:
    if settings.unknown_price == "cap" and settings.cap is not None:
        return _own_rate(settings.cap, "cap")
    return FREE if settings.unknown_price == "allow" else None


def _with_margin(rate: Rate, percent: int) -> Rate:
    if percent == 0:
        return rate

    def sold(nano: int) -> int:
        return min(-(-nano * (100 + percent) // 100), MAX_AMOUNT)

    tiers = tuple(Tier(t.above, sold(t.input_nano), sold(t.cached_nano), sold(t.output_nano)) for t in rate.tiers)
    return Rate(sold(rate.input_nano), sold(rate.cached_nano), sold(rate.output_nano), tiers, rate.source)
