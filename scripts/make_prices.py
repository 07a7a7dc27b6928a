"""Write src/zuebee/billing/list_prices.json: what providers ask for their models, from the data of genai-prices (MIT).

Run by `make prices`, by hand: what models cost is part of a release, and changes with a commit that can be read. Prices
of several times of a day, and of several rows that hold on it, become the highest of them.
"""

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

from genai_prices.data import providers

PAGE = Path(__file__).parents[1] / "src/zuebee/billing/list_prices.json"
NANO = 1_000_000_000
BUCKETS = ("input_mtok", "cache_read_mtok", "output_mtok", "cache_write_mtok")


def main() -> int:
    """Write the file and say what is in it."""
    found = [_provider(provider) for provider in providers]
    head = {
        "source": f"genai-prices {importlib.metadata.version('genai-prices')}",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }
    lines = [json.dumps(head)[:-1] + ', "providers": [']
    for index, provider in enumerate(found):
        models = provider.pop("models")
        lines.append(json.dumps(provider, separators=(",", ":"))[:-1] + ',"models":[')
        lines.append(",\n".join(json.dumps(model, separators=(",", ":")) for model in models))
        lines.append("]}" + ("," if index + 1 < len(found) else ""))
    PAGE.write_text("\n".join([*lines, "]}"]) + "\n", encoding="utf-8")
    print(f"{PAGE.name}: {len(found)} providers, {PAGE.stat().st_size // 1024} KiB")
    return 0


def _provider(provider: Any) -> dict[str, Any]:
    return {
        "id": provider.id,
        "match": _clause(provider.model_match),
        "fallback": provider.fallback_model_providers or [],
        "models": [_model(model) for model in provider.models],
    }


def _model(model: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"id": model.id, "match": _clause(model.match), "prices": list(_periods(model))}
    if model.context_window:
        found["context"] = model.context_window
    return found


def _clause(match: Any) -> Any:
    """How a name is recognized, as `billing.list_prices` reads it."""
    if match is None:
        return None
    (name, value) = next(iter(vars(match).items()))
    if name in ("or_", "and_"):
        return [name.rstrip("_"), [_clause(each) for each in value]]
    return [name, value if name == "regex" else value.lower()]


def _periods(model: Any) -> Iterator[list[Any]]:
    """From which day on (none: always) which rate holds."""
    before: Any = ()
    for start in [None, *_starts(model)]:
        rates = [rate for prices in _possible(model, start or date.min) if (rate := _rate(prices)) is not None]
        rate = _highest(rates) if rates else None
        if rate != before and (start is not None or rate is not None):
            yield [start and start.isoformat(), rate]
        before = rate


def _starts(model: Any) -> list[date]:
    if not isinstance(model.prices, list):
        return []
    found = {getattr(row.constraint, "start_date", None) for row in model.prices}
    return sorted(each for each in found if each is not None)


def _possible(model: Any, day: date) -> Iterator[Any]:
    """Every price that holds at some time of the day. The last row that is active counts."""
    if not isinstance(model.prices, list):
        yield model.prices
        return
    for row in reversed(model.prices):
        start = getattr(row.constraint, "start_date", None)
        if start is not None and start > day:
            continue
        yield row.prices
        if row.constraint is None or start is not None:
            return
    yield from (row.prices for row in model.prices[:1])


def _rate(prices: Any) -> dict[int, list[int]] | None:
    """Nano-dollars for a million tokens, by the size of prompt above which they hold; None: not priced by tokens."""
    figures = [getattr(prices, name, None) for name in BUCKETS]
    if figures[0] is None and figures[2] is None:
        return None
    for bucket in (1, 3):
        if figures[bucket] is None:
            figures[bucket] = figures[0]
    starts = sorted({-1, *(tier.start for figure in figures for tier in getattr(figure, "tiers", ()))})
    return {start: [_nano(figure, start) for figure in figures] for start in starts}


def _nano(figure: Any, tier_start: int) -> int:
    if figure is None:
        return 0
    price: Decimal = figure if isinstance(figure, Decimal) else figure.base
    for tier in getattr(figure, "tiers", ()):  # in rising order
        if tier.start <= tier_start:
            price = tier.price
    return max(int((price * NANO).to_integral_value(ROUND_CEILING)), 0)


def _highest(rates: list[dict[int, list[int]]]) -> list[list[int]]:
    """For each tier and bucket the highest price; a row is where the tier starts, and its four prices."""
    starts = sorted({start for rate in rates for start in rate})
    rows = []
    for start in starts:
        held = [rate[max(known for known in rate if known <= start)] for rate in rates]
        rows.append([start, *(max(column) for column in zip(*held, strict=True))])
    return rows


if __name__ == "__main__":
    sys.exit(main())
