"""List prices of public models, in USD: a dated file that ships with ZueBee, never fetched. `make prices` writes it."""

import re
from datetime import date
from pathlib import Path
from typing import Any, Final

import msgspec

from zuebee.billing.pricing import Rate, Tier
from zuebee.config.validate_policies import MAX_PRICE_NANO

FILE: Final = Path(__file__).with_name("list_prices.json")
_NAMED_IN_PASSING: Final = ("openai", "cohere", "voyageai")
"""Providers whose models are also looked for by exact name where the data knows no pattern for them (embeddings)."""

_COMPACT_DATE: Final = re.compile(r"(?<![0-9])(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?![0-9])")


class _Model(msgspec.Struct, frozen=True):
    """`match`: how its names are recognized. `prices`: from a day on (none: always) which rows of tiers hold."""

    id: str
    match: list[Any]
    prices: list[tuple[date | None, list[list[int]] | None]]
    context: int = 0


class _Provider(msgspec.Struct, frozen=True):
    """`fallback`: whose models it offers as well."""

    id: str
    match: list[Any] | None
    fallback: list[str]
    models: list[_Model]


class _Prices(msgspec.Struct, frozen=True):
    source: str
    date: date
    providers: list[_Provider]


class ListPrices:
    """What providers ask for their models. The file is read at first use; `load` does it beforehand, in any thread."""

    def __init__(self) -> None:
        self._providers: dict[str, _Provider] = {}

    def load(self) -> None:
        """Read the file, once."""
        if not self._providers:
            prices = msgspec.json.decode(FILE.read_bytes(), type=_Prices)
            self._providers = {provider.id: provider for provider in prices.providers}

    def find(self, model: str, day: date) -> Rate | None:
        """The price of a model (`gpt-4o`, `anthropic/claude-sonnet-4-5`) on a UTC day; None: none for its tokens.

        Of prices that change within the day the highest counts. What is not priced by text tokens (searches, seconds
        of audio) is not part of it.
        """
        self.load()
        found = self._model(model.lower())
        rows = None
        for start, held in [] if found is None else found.prices:
            if start is None or start <= day:
                rows = held
        return None if rows is None else _rate(rows)

    def context(self, model: str) -> int:
        """How many tokens a model takes, prompt and answer together; 0: not known, or nothing has been read yet."""
        found = self._model(model.lower())
        return 0 if found is None else found.context

    def _model(self, name: str) -> _Model | None:
        prefix, separator, rest = name.partition("/")
        if separator and prefix in self._providers:
            return self._offered(self._providers[prefix], rest)
        for provider in self._providers.values():
            if provider.match is not None and _matches(provider.match, name):
                return self._offered(provider, name)
        for known in _NAMED_IN_PASSING:
            if known in self._providers and (found := _first(self._providers[known], name)) is not None:
                return found
        return None

    def _offered(self, provider: _Provider, name: str) -> _Model | None:
        """A model that the provider offers, its own or another's, under this name or with its date spelled in full."""
        everyone = [provider, *(self._providers[other] for other in provider.fallback if other in self._providers)]
        dated = _COMPACT_DATE.sub(r"\1-\2-\3", name)
        for spelled in (name, dated) if dated != name else (name,):
            for each in everyone:
                if (found := _first(each, spelled)) is not None:
                    return found
        return None


def _first(provider: _Provider, name: str) -> _Model | None:
    return next((model for model in provider.models if _matches(model.match, name)), None)


def _matches(clause: list[Any], name: str) -> bool:
    kind, value = clause
    match kind:
        case "equals":
            return bool(name == value)
        case "starts_with":
            return name.startswith(value)
        case "ends_with":
            return name.endswith(value)
        case "contains":
            return value in name
        case "regex":
            return re.search(value, name) is not None
        case "or":
            return any(_matches(each, name) for each in value)
        case _:
            return all(_matches(each, name) for each in value)


def _rate(rows: list[list[int]]) -> Rate:
    base, *tiers = ([start, *(min(nano, MAX_PRICE_NANO) for nano in figures)] for start, *figures in rows)
    return Rate(base[1], base[2], base[3], tuple(Tier(*tier) for tier in tiers), "list", base[4])
