"""What the prices in a configuration mean. PURE."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

from zuebee.config.money import BillingSettings, PriceSettings
from zuebee.kit.yaml_tree import Path

NANO_PER_UNIT = 1_000_000_000
MAX_PRICE_NANO = 1 << 53
"""Of a million tokens: about nine million units of the currency."""

_AMOUNTS = (
    "input_per_million",
    "output_per_million",
    "cached_input_per_million",
    "cache_write_per_million",
    "reasoning_per_million",
)


def price_nano(text: str) -> int:
    """A decimal price in whole nano-units. Raises ValueError with what is expected."""
    try:
        price = Decimal(text.strip())
    except InvalidOperation:
        raise ValueError("expected a decimal number such as `2.50`") from None
    if not price.is_finite() or price < 0:
        raise ValueError("expected a decimal number, 0 or more")
    if price > MAX_PRICE_NANO // NANO_PER_UNIT:
        raise ValueError(f"expected at most {MAX_PRICE_NANO // NANO_PER_UNIT}")
    nano = price * NANO_PER_UNIT
    if nano != int(nano):
        raise ValueError("expected at most nine digits behind the point")
    return int(nano)


def since_s(text: str) -> float:
    """A date or an RFC 3339 time, as seconds since 1970; without a zone it is UTC. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(text.strip().upper())
    except ValueError:
        raise ValueError("expected a date or an RFC 3339 time such as `2027-01-31T00:00:00Z`") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def price_findings(billing: BillingSettings) -> Iterator[tuple[Path, str, bool]]:
    """(path, message, fatal) of everything that is wrong with the prices."""
    first_with: dict[tuple[str, float], int] = {}
    for index, row in enumerate(billing.prices):
        path: Path = ("billing", "prices", index)
        wrong = list(_row(path, row))
        yield from wrong
        if wrong:
            continue
        if (other := first_with.setdefault((row.model, since_s(row.since)), index)) != index:
            yield (*path, "since"), f"the same model and time as `billing.prices[{other}]`", True
    if billing.unknown_price == "cap" and billing.cap is None:
        yield ("billing", "cap"), "required by `unknown_price: cap`, but missing", True
    elif billing.cap is not None:
        yield from _row(("billing", "cap"), billing.cap)
        if billing.unknown_price != "cap":
            yield ("billing", "cap"), f"has no effect under `unknown_price: {billing.unknown_price}`", False
    if billing.built_in_prices and billing.currency != "USD":
        message = "built-in prices are in USD and not used with this currency; a model needs a row in `billing.prices`"
        yield ("billing", "currency"), message, False


def _row(path: Path, row: PriceSettings) -> Iterator[tuple[Path, str, bool]]:
    if "*" in row.model[:-1]:
        yield (*path, "model"), "expected a model name, with `*` at its end at most", True
    try:
        since_s(row.since)
    except ValueError as error:
        yield (*path, "since"), str(error), True
    for name in _AMOUNTS:
        text = getattr(row, name)
        try:
            if text is not None:
                price_nano(text)
        except ValueError as error:
            yield (*path, name), str(error), True
