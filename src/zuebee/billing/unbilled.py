"""PURE. What settlements add to the invoices to come: totals by organisation, month, user and model.

Callers choose the names of models: an organisation has so many of them in a month, the rest is `other`.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

from zuebee.contracts.periods import period_start_s

MAX_NAMES: Final = 500
MAX_NAME: Final = 200
OTHER: Final = "other"
MAX_KNOWN: Final = 5_000
"""Months of organisations whose names are remembered."""

DAY_S: Final = 86400

COLUMNS: Final = (
    "organisation_id", "month", "user_id", "model", "requests", "prompt_tokens", "cached_tokens", "completion_tokens",
    "cost_nano",
)  # fmt: skip

Key = tuple[str, int, str, str]
Row = tuple[str, int, str, str, int, int, int, int, int]


class Unbilled:
    """The names of this process. `read`: those that the store has, of an organisation and a month."""

    def __init__(self, read: Callable[[str, int], Iterable[str]]) -> None:
        self._read = read
        self._names: dict[tuple[str, int], set[str]] = {}

    def name(self, organisation_id: str, month: int, model: str) -> str:
        """What stands for a model on the invoice."""
        names = self._names.get((organisation_id, month))
        if names is None:
            if len(self._names) >= MAX_KNOWN:
                self._names.clear()
            names = self._names[organisation_id, month] = set(self._read(organisation_id, month))
        if len(model) > MAX_NAME:
            model = model[:MAX_NAME]
        if model not in names:
            if len(names) >= MAX_NAMES:
                return OTHER
            names.add(model)
        return model


class _Total:
    """What requests of the same user, model and day add up to."""

    def __init__(self, organisation_id: str, day: int, user_id: str, model: str) -> None:
        self.organisation_id: Final = organisation_id
        self.day: Final = day
        self.user_id: Final = user_id
        self.model: Final = model
        self.requests = 0
        self.prompt = 0
        self.cached = 0
        self.completion = 0
        self.cost_nano = 0


class Totals:
    """What one transaction adds."""

    def __init__(self, unbilled: Unbilled) -> None:
        self._unbilled = unbilled
        self._totals: dict[Key, _Total] = {}
        self._last = _Total("", 0, "", "")  # most of a transaction are alike

    def add(
        self,
        organisation_id: str,
        at_s: float,
        user_id: str,
        model: str,
        prompt: int,
        cached: int,
        completion: int,
        cost_nano: int,
    ) -> None:
        """One request that used something: tokens of the prompt, of that from a cache, of the answer."""
        if not organisation_id or not (prompt or completion or cost_nano):
            return
        day, total = int(at_s) // DAY_S, self._last
        if not (
            day == total.day
            and model == total.model
            and user_id == total.user_id
            and organisation_id == total.organisation_id
        ):
            key = organisation_id, day, user_id, model
            known = self._totals.get(key)
            if known is None:
                known = self._totals[key] = _Total(organisation_id, day, user_id, model)
            total = self._last = known
        total.requests += 1
        total.prompt += prompt
        total.cached += cached
        total.completion += completion
        total.cost_nano += cost_nano

    def rows(self) -> list[Row]:
        """The values of COLUMNS; in an order, so that nobody waits for one another in two directions."""
        named: dict[Key, list[int]] = {}
        for total in self._totals.values():
            month = _month(total.day)
            name = self._unbilled.name(total.organisation_id, month, total.model)
            sums = [total.requests, total.prompt, total.cached, total.completion, total.cost_nano]
            same = named.setdefault((total.organisation_id, month, total.user_id, name), sums)
            if same is not sums:
                for place, more in enumerate(sums):
                    same[place] += more
        return [(*key, *sums) for key, sums in sorted(named.items())]  # type: ignore[misc]


@lru_cache(maxsize=1000)
def _month(day: int) -> int:
    """The first second of the month that a day is in."""
    return int(period_start_s("monthly", day * DAY_S))
