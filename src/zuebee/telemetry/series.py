"""What has been counted: requests by their labels, histograms, and how fast budgets are used up. PURE.

A settlement is added to one `Tally`, found by one look into a table; whoever wants sums over fewer labels makes them
when asked. Label values are bounded: see `metrics.py`.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import nsmallest
from math import exp
from typing import Final, NamedTuple, Protocol, TypeVar

from zuebee.contracts.admission import Period, Settlement
from zuebee.contracts.limits import period_end_s

# Observations in buckets, as plain numbers that are cheap to add to.

LATENCY_BUCKETS_MS = (10, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000, 60000, 120000, 300000, 600000)
FIRST_TOKEN_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """Counts by bucket, the last one for all above the highest of `bounds`, and the sum of what was observed."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Add one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def merge(self, other: "Histogram") -> None:
        """Add what another one counted."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


OTHER: Final = "other"
MAX_TALLIES: Final = 5000
MAX_KNOWN: Final = 10_000
MAX_LABEL: Final = 200

Key = tuple[str, bool, str, int, str, str, str | None, str, str]


class Labels(NamedTuple):
    """What a settlement is counted under. `model` is None for requests that were not let in; `source` then empty."""

    route: str
    stream: bool
    backend: str
    status: int
    termination_reason: str
    code: str
    model: str | None
    priority: str
    source: str


class Tally:
    """The figures of one combination. `wait`: to the end of answers in one piece, in the buckets of first tokens."""

    __slots__ = ("cost_nano", "count", "first_token", "labels", "latency", "tokens_in", "tokens_out", "wait")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.count = 0
        self.latency = Histogram(LATENCY_BUCKETS_MS)
        self.first_token = Histogram(FIRST_TOKEN_BUCKETS_S)
        self.wait = Histogram(FIRST_TOKEN_BUCKETS_S)
        self.tokens_in = 0
        self.tokens_out = 0
        self.cost_nano = 0


L = TypeVar("L")


class Tallies:
    """All of them. `known` leads from what a settlement says (`key_of`) to its tally."""

    def __init__(self, max_models: int, max_tallies: int = MAX_TALLIES, max_known: int = MAX_KNOWN) -> None:
        self.known: dict[Key, Tally] = {}
        self._max_tallies = max_tallies
        self._max_known = max_known
        self._tallies: dict[Labels, Tally] = {}
        self.max_models = max_models
        self._models: set[str] = set()
        self._codes: set[str] = set()

    def __iter__(self) -> Iterator[Tally]:
        return iter(list(self._tallies.values()))

    def find(self, key: Key) -> Tally:
        """The tally of a key that is not among the known ones."""
        labels = Labels(*key)
        if labels.model is not None:
            labels = labels._replace(model=self._model(labels.model, labels.status))
        if labels.code:
            labels = labels._replace(code=self._code(labels.code))
        if labels not in self._tallies and len(self._tallies) >= self._max_tallies:
            model, code = labels.model and OTHER, labels.code and OTHER
            labels = labels._replace(route=OTHER, backend=OTHER, model=model, code=code)
        tally = self._tallies.setdefault(labels, Tally(labels))
        if len(self.known) >= self._max_known:
            self.known.clear()
        self.known[key] = tally
        return tally

    def _model(self, model: str, status: int) -> str:
        """Only what a backend has answered for gets a label of its own."""
        name = model[:MAX_LABEL]
        if name in self._models:
            return name
        if status != 200 or not name or len(self._models) >= self.max_models:
            return OTHER
        self._models.add(name)
        self.known.clear()  # what was none of its own so far may be now
        return name

    def _code(self, code: str) -> str:
        # Codes are ours, but a backend's own error may carry its: bounded like the models.
        if code not in self._codes:
            if len(self._codes) >= self.max_models:
                return OTHER
            self._codes.add(code)
        return code

    def sums(self, label: Callable[[Labels], L | None], figure: Callable[[Tally], float]) -> dict[L, float]:
        """A figure by some of the labels; those for which `label` answers None are left out."""
        sums: dict[L, float] = {}
        for tally in self:
            if (name := label(tally.labels)) is not None:
                sums[name] = sums.get(name, 0) + figure(tally)
        return sums

    def histograms(
        self, label: Callable[[Labels], L | None], figures: Callable[[Tally], Iterable[Histogram]]
    ) -> dict[L, Histogram]:
        """The same of histograms, added up."""
        sums: dict[L, Histogram] = {}
        for tally in self:
            if (name := label(tally.labels)) is not None:
                for histogram in figures(tally):
                    sums.setdefault(name, Histogram(histogram.bounds)).merge(histogram)
        return sums


def key_of(settlement: Settlement) -> Key:
    """What a settlement is counted under, before any bound."""
    usage = settlement.usage
    metered = settlement.grant is not None
    return (
        settlement.route,
        settlement.stream,
        settlement.backend,
        settlement.status,
        settlement.termination_reason,
        settlement.code,
        settlement.model if metered else None,
        settlement.principal.priority,
        "" if not metered else "none" if usage is None else usage.source,
    )


# How fast something is used up: exponentially smoothed rates. PURE.

STEP_S: Final = 0.5


class Burn:
    """A rate: what came in lately, each amount weighted by `exp(-age / TAU_S)`.

    After a constant rate has lasted for five minutes it shows 99 % of it; after five minutes of silence, 1 %.
    """

    TAU_S = 60.0
    __slots__ = ("_at_s", "_cost", "_tokens")

    def __init__(self) -> None:
        self._tokens = 0.0
        self._cost = 0.0
        self._at_s = 0.0

    def add(self, tokens: int, cost_nano: int, now_s: float) -> None:
        """So much was used."""
        # This is called for each request: what comes within half a second counts as of one moment.
        if now_s - self._at_s > STEP_S:
            fade = exp((self._at_s - now_s) / self.TAU_S)
            self._tokens *= fade
            self._cost *= fade
            self._at_s = now_s
        self._tokens += tokens
        self._cost += cost_nano

    def rates(self, now_s: float) -> tuple[float, float]:
        """Tokens a minute, and units of the currency an hour."""
        fade = exp((self._at_s - now_s) / self.TAU_S) if now_s > self._at_s else 1.0
        return self._tokens * fade * 60 / self.TAU_S, self._cost * fade * 3600 / self.TAU_S / 1e9


class Burns:
    """Rates by organization and plan: the first `limit` pairs for themselves, all others together.

    They add up: the sum over all pairs is the rate of the whole.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._burns: dict[tuple[str, str], Burn] = {}

    def add(self, organization: str, plan: str, tokens: int, cost_nano: int, now_s: float) -> None:
        """So much was used."""
        burn = self._burns.get((organization, plan))
        if burn is None:
            known = len(self._burns) < self.limit
            burn = self._burns.setdefault((organization, plan) if known else (OTHER, OTHER), Burn())
        burn.add(tokens, cost_nano, now_s)

    def rates(self, now_s: float) -> list[tuple[tuple[str, str], float, float]]:
        """For each pair: tokens a minute, and units of the currency an hour."""
        return [(pair, *burn.rates(now_s)) for pair, burn in self._burns.items()]


# What is left in budgets, as gauges of a bounded number. PURE.

REFRESH_S = 10.0
LOW_SHARE = 0.2
TOKENS = "tokens"


class BalanceLike(Protocol):
    """One account in one period; amounts in tokens or nano-units."""

    account: str
    unit: str
    starts_at_s: int
    granted: int
    held: int
    used: int

    @property
    def period(self) -> Period:
        """When it starts again."""
        ...


Series = list[tuple[tuple[str, ...], float]]


class BudgetGauges:
    """Looks at the balances at most every 10 s. The `limit` accounts with the smallest share left show for themselves.

    A balance whose period is over does not count: what was used up last month is there again, though nobody asked yet.
    `now_s` is the wall clock, which periods go by.
    """

    def __init__(self, balances: Callable[[], Iterable[BalanceLike]], limit: int, now_s: Callable[[], float]) -> None:
        self._balances = balances
        self.limit = limit
        self._now_s = now_s
        self._read_at_s = float("-inf")
        self._shown: Sequence[BalanceLike] = ()
        self._states: Counter[tuple[str, str, str]] = Counter()

    def remaining(self) -> Series:
        """What can still be reserved."""
        self._refresh()
        return [(_labels(each), _amount(each, each.granted - each.used - each.held)) for each in self._shown]

    def granted(self) -> Series:
        """What there is in this period."""
        self._refresh()
        return [(_labels(each), _amount(each, each.granted)) for each in self._shown]

    def states(self) -> Series:
        """How many accounts of a scope are `ok`, `low` (less than a fifth left) or `exhausted`."""
        self._refresh()
        return [(labels, float(count)) for labels, count in self._states.items()]

    def _refresh(self) -> None:
        now_s = self._now_s()
        if 0 <= now_s - self._read_at_s < REFRESH_S:
            return
        self._read_at_s = now_s
        newest: dict[str, BalanceLike] = {}
        for each in self._balances():
            if period_end_s(each.period, each.starts_at_s) <= now_s:
                continue
            known = newest.get(each.account)
            if known is None or each.starts_at_s > known.starts_at_s:
                newest[each.account] = each
        self._shown = nsmallest(self.limit, newest.values(), key=_share)
        counted = ((each.account.partition(":")[0], each.unit, _state(_share(each))) for each in newest.values())
        self._states = Counter(counted)


def _share(balance: BalanceLike) -> float:
    return (balance.granted - balance.used - balance.held) / balance.granted if balance.granted > 0 else 0.0


def _state(share: float) -> str:
    return "exhausted" if share <= 0 else "low" if share < LOW_SHARE else "ok"


def _labels(balance: BalanceLike) -> tuple[str, ...]:
    return balance.account, balance.unit, balance.period


def _amount(balance: BalanceLike, amount: int) -> float:
    return float(amount) if balance.unit == TOKENS else amount / 1e9
