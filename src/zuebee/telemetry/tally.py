"""What has been counted of requests, one set of figures for each combination of labels. PURE.

A settlement is added to one `Tally`, found by one look into a table; whoever wants sums over fewer labels makes them
when asked. Label values are bounded: see `metrics.py`.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, TypeVar

from zuebee.contracts.admission import Settlement
from zuebee.telemetry.histogram import FIRST_TOKEN_BUCKETS_S, LATENCY_BUCKETS_MS, Histogram

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
    ending: str
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

    def __init__(self, max_models: int) -> None:
        self.known: dict[Key, Tally] = {}
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
        if labels not in self._tallies and len(self._tallies) >= MAX_TALLIES:
            model, code = labels.model and OTHER, labels.code and OTHER
            labels = labels._replace(route=OTHER, backend=OTHER, model=model, code=code)
        tally = self._tallies.setdefault(labels, Tally(labels))
        if len(self.known) >= MAX_KNOWN:
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
        settlement.ending,
        settlement.code,
        settlement.model if metered else None,
        settlement.principal.priority,
        "" if not metered else "none" if usage is None else usage.source,
    )
