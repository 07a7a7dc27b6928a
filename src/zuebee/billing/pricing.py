"""What tokens cost. PURE.

Prices are integers, nano-units of the currency for a million tokens; the cost of a request is one sum of products,
rounded up once. Nothing here is ever negative, and nothing exceeds `MAX_AMOUNT`: a figure beyond it is that figure,
so that an absurd count can never become a small or negative charge.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Final, Literal

from zuebee.config.settings_billing import BillingSettings, PriceSettings
from zuebee.config.validate_policies import price_nano, since_s
from zuebee.contracts.admission import MAX_AMOUNT, NOTHING, Amount, Need, Principal
from zuebee.contracts.errors import MAX_SHOWN_NAME, NAMES_NO_MODEL, WHICH_MODELS, Refusal
from zuebee.contracts.inference import Usage
from zuebee.ledger.entries import TOKENS
from zuebee.lib.patterns import fits, is_open, stem_of

# Prices of tokens, and what a request may cost by them.

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


MAX_REMEMBERED: Final = 10_000
"""Models and days whose rate is kept; the oldest goes first."""

MAX_MODEL_NAME: Final = 256
"""Longer names have no built-in price and are not remembered: nobody's model is called so."""

_MILLION: Final = 1_000_000
_DAY_S: Final = 86_400
_FIRST_DAY: Final = date(1970, 1, 1).toordinal()

NO_PRICE: Final = "model_has_no_price"


def no_price(model: str) -> Refusal:
    """Why a model without a price is not for a key with a budget in money."""
    if not model:
        return NAMES_NO_MODEL
    message = (
        f"The model `{model[:MAX_SHOWN_NAME]}` has no price here, so a key with a budget in money may not use it."
        f" {WHICH_MODELS} Its operator can set a price in `billing.prices`."
    )
    return Refusal(403, "permission_error", NO_PRICE, message, "model")


FREE: Final = Rate(0, 0, 0, source="free")

ListPrice = Callable[[str, date], Rate | None]


def cost_nano(rate: Rate, prompt: int, completion: int, cached: int = 0, written: int = 0, reasoning: int = 0) -> int:
    """What a request costs, rounded up to a whole nano-unit, between 0 and MAX_AMOUNT.

    `cached` and `written` tokens are part of `prompt`, `reasoning` of `completion`; they have prices of their own.
    Counts below 0 are 0.
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
    if written > 0 and chosen.written_nano >= 0:
        total += min(written, prompt - cached) * (chosen.written_nano - chosen.input_nano)
    if reasoning > 0 and chosen.reasoning_nano >= 0:
        total += min(reasoning, completion) * (chosen.reasoning_nano - chosen.output_nano)
    cost = -(-total // _MILLION)
    assert cost >= 0
    return cost if cost < MAX_AMOUNT else MAX_AMOUNT


def usage_cost_nano(rate: Rate, usage: Usage, ahead: int = 0) -> int:
    """What a usage costs, with so many tokens more in the answer."""
    return cost_nano(
        rate,
        usage.prompt_tokens,
        usage.completion_tokens + ahead,
        usage.cached_tokens,
        usage.written_tokens,
        usage.reasoning_tokens,
    )


def most_nano(rate: Rate, prompt: int, completion: int) -> int:
    """What a request may cost at most: all of its prompt may go into a cache, all of its answer may be thoughts."""
    most = cost_nano(rate, prompt, completion)
    if rate.written_nano >= 0:
        most = max(most, cost_nano(rate, prompt, completion, 0, prompt))
    if rate.reasoning_nano >= 0:
        most = max(most, cost_nano(rate, prompt, completion, 0, 0, completion))
        if rate.written_nano >= 0:
            most = max(most, cost_nano(rate, prompt, completion, 0, prompt, completion))
    return most


def quoted(rate: Rate | None, need: Need) -> Quote:
    """What a request costs at most and at least."""
    most, least = need.prompt_most + need.answers_most, need.prompt + need.answers_least
    most = most if most < MAX_AMOUNT else MAX_AMOUNT
    least = least if least < most else most
    if rate is None:
        return Quote(most, 0, None, Amount(least), need)
    cost = most_nano(rate, need.prompt_most, need.answers_most)
    least_cost = cost_nano(rate, need.prompt, need.answers_least)
    return Quote(most, cost, rate, Amount(least, least_cost if least_cost < cost else cost), need)


def answer_tokens(quote: Quote, tokens: int, cost: int) -> int:
    """How long the answers may be, all together, for so many tokens and so much money."""
    need, rate = quote.need, quote.rate
    if tokens >= quote.tokens and cost >= quote.cost_nano:
        return need.answers_most
    bound = min(tokens - need.prompt, need.answers_most)
    if rate is not None and cost < quote.cost_nano:
        bound = min(bound, affordable(rate, need.prompt, cost))
    return max(bound, need.answers_least)


def affordable(rate: Rate, prompt: int, cost: int) -> int:
    """How many tokens of an answer so much money pays beside the prompt."""
    chosen: Rate | Tier = rate
    for tier in rate.tiers:
        if prompt > tier.above:
            chosen = tier
    # A part of either may cost more: what goes into a cache, and thoughts.
    input_nano, output_nano = (
        max(chosen.input_nano, chosen.written_nano),
        max(chosen.output_nano, chosen.reasoning_nano),
    )
    if output_nano <= 0:
        return MAX_AMOUNT
    return max(0, (cost * _MILLION - prompt * input_nano) // output_nano)


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

    def denies(self, principal: Principal, model: str, at_s: float) -> Refusal | None:
        """Why a principal may not use a model for want of a price: it has a budget in money."""
        if all(budget.unit == TOKENS for budget in principal.budgets) or self.rate(model, at_s) is not None:
            return None
        return no_price(model)

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
        self._pattern = settings.model
        self.since_s = since_s(settings.since)
        self.rate = _own_rate(settings, "own")
        self.order = (is_open(self._pattern), -len(stem_of(self._pattern)), -self.since_s)

    def matches(self, model: str) -> bool:
        return fits(model, self._pattern)


def _own_rate(settings: PriceSettings, source: Literal["own", "cap"]) -> Rate:
    input_nano = price_nano(settings.input_per_million)
    cached = settings.cached_input_per_million
    written, reasoning = settings.cache_write_per_million, settings.reasoning_per_million
    return Rate(
        input_nano,
        input_nano if cached is None else price_nano(cached),
        price_nano(settings.output_per_million),
        source=source,
        written_nano=-1 if written is None else price_nano(written),
        reasoning_nano=-1 if reasoning is None else price_nano(reasoning),
    )


def _unknown_rate(settings: BillingSettings) -> Rate | None:
    if settings.unknown_price == "cap" and settings.cap is not None:
        return _own_rate(settings.cap, "cap")
    return FREE if settings.unknown_price == "allow" else None


def _with_margin(rate: Rate, percent: int) -> Rate:
    if percent == 0:
        return rate

    def sold(nano: int) -> int:
        return nano if nano < 0 else min(-(-nano * (100 + percent) // 100), MAX_AMOUNT)

    def all_of(held: Rate | Tier) -> tuple[int, int, int, int, int]:
        return (
            sold(held.input_nano),
            sold(held.cached_nano),
            sold(held.output_nano),
            sold(held.written_nano),
            sold(held.reasoning_nano),
        )

    tiers = tuple(Tier(tier.above, *all_of(tier)) for tier in rate.tiers)
    of_input, of_cached, of_output, of_written, of_reasoning = all_of(rate)
    return Rate(of_input, of_cached, of_output, tiers, rate.source, of_written, of_reasoning)
