"""PURE. Which of the fit backends gets the next request.

weighted: nginx's smooth weighted round robin. latency_based: peak EWMA of the time to the first byte, as in Finagle;
what is not used is forgotten over time, so that a slow backend is tried again.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from zuebee.dispatch.health import Health
from zuebee.dispatch.queue import Load

EWMA_DECAY_S: Final = 10.0
UNKNOWN_COST_S: Final = 0.001
MAX_COOLDOWNS: Final = 100
TRIAL_EVERY_S: Final = 1.0


class _Cooldown:
    """Until when; `who` it is for, "" for all."""

    __slots__ = ("tried_at_s", "until_s", "who")

    def __init__(self, until_s: float, who: str, now_s: float) -> None:
        self.until_s = until_s
        self.who = who
        self.tried_at_s = now_s


class Node:
    """What the balancer knows of one backend. Its `load` counts until the end of each stream."""

    def __init__(
        self, name: str, weight: int, health: Health, models: Sequence[str] = (), load: Load | None = None
    ) -> None:
        self.name = name
        self.weight = weight
        self.health = health
        self.load = Load() if load is None else load
        self.selective = bool(models)
        self._models = tuple(models)
        self._current_weight = 0
        self._latency_s = 0.0
        self._latency_at_s = 0.0
        self._cooldowns: dict[str, _Cooldown] = {}

    @property
    def in_flight(self) -> int:
        """Requests that it is answering."""
        return self.load.in_flight

    def serves(self, model: str) -> bool:
        """Whether the backend is declared to serve the model; without a declaration it serves all."""
        return not self._models or any(matches(pattern, model) for pattern in self._models)

    def observe(self, latency_s: float, now_s: float) -> None:
        """The backend took `latency_s` to its first byte."""
        decayed = self.latency(now_s)
        if latency_s > decayed:
            self._latency_s = latency_s
        else:
            keep = math.exp(-(now_s - self._latency_at_s) / EWMA_DECAY_S)
            self._latency_s = self._latency_s * keep + latency_s * (1 - keep)
        self._latency_at_s = now_s

    def latency(self, now_s: float) -> float:
        """The expected time to the first byte; it fades while nothing is observed."""
        return self._latency_s * math.exp(-(now_s - self._latency_at_s) / EWMA_DECAY_S)

    def cool_down(self, model: str, now_s: float, until_s: float, who: str = "") -> None:
        """The backend asked `who` for no requests of this model until then; a shorter wish takes no longer one back.

        What it asks of one caller holds for that one: maybe it is its share that is used up. Two are all.
        """
        if len(self._cooldowns) >= MAX_COOLDOWNS and model not in self._cooldowns:
            del self._cooldowns[min(self._cooldowns, key=lambda name: self._cooldowns[name].until_s)]
        known = self._cooldowns.get(model)
        if known is None or known.until_s <= now_s:
            self._cooldowns[model] = _Cooldown(until_s, who, now_s)
            return
        known.until_s = max(until_s, known.until_s)
        if who != known.who:
            known.who = ""

    def cooling_s(self, model: str, now_s: float, who: str = "") -> float:
        """How long the backend still wants to be left alone by `who`."""
        if not self._cooldowns:
            return 0.0
        known = self._cooldowns.get(model)
        if known is None:
            return 0.0
        if known.until_s <= now_s:
            del self._cooldowns[model]
            return 0.0
        return known.until_s - now_s if known.who in ("", who) else 0.0

    def takes_trial(self, model: str, now_s: float) -> bool:
        """Whether one may go to a backend that wants to be left alone, to find out if it still does; then no other one
        for `TRIAL_EVERY_S`.
        """
        known = self._cooldowns.get(model)
        if known is None or now_s - known.tried_at_s < TRIAL_EVERY_S:
            return False
        known.tried_at_s = now_s
        return True

    @property
    def rests(self) -> bool:
        """Whether it wants to be left alone with anything, by anybody."""
        return bool(self._cooldowns)

    def warm_up(self, model: str) -> None:
        """It took a request of one whom it had asked to wait: it wants some again."""
        self._cooldowns.pop(model, None)


def matches(pattern: str, model: str) -> bool:
    """Exact, or any rest after a `*` at the end."""
    return model.startswith(pattern[:-1]) if pattern.endswith("*") else model == pattern


N = TypeVar("N", bound=Node)


def fit(nodes: Sequence[N], now_s: float) -> Sequence[N]:
    """The nodes that may be chosen: the fit ones; if there are none, those that still pass their probes; else all.

    Refusing everything because the health checker may be wrong is never better than trying.
    """
    if len(nodes) == 1:
        return nodes
    well = [node for node in nodes if node.health.fit(now_s)]
    return well or [node for node in nodes if not node.health.probed_down] or nodes


class RoundRobin:
    """Equal shares, in turn."""

    def __init__(self) -> None:
        self._turn = -1

    def choose(self, nodes: Sequence[Node], now_s: float) -> Node:
        self._turn += 1
        return nodes[self._turn % len(nodes)]


class Weighted:
    """Shares by weight, spread evenly."""

    def choose(self, nodes: Sequence[Node], now_s: float) -> Node:
        best = nodes[0]
        for node in nodes:
            node._current_weight += node.weight
            if node._current_weight > best._current_weight:
                best = node
        best._current_weight -= sum(node.weight for node in nodes)
        return best


class LeastConnections:
    """Fewest requests in flight, in relation to the weight; ties in turn."""

    def __init__(self) -> None:
        self._turn = -1

    def choose(self, nodes: Sequence[Node], now_s: float) -> Node:
        self._turn += 1
        start = self._turn % len(nodes)
        rotated = [*nodes[start:], *nodes[:start]]
        return min(rotated, key=lambda node: (node.load.in_flight + 1) / node.weight)


class LatencyBased:
    """Lowest expected wait: latency times the requests ahead."""

    def choose(self, nodes: Sequence[Node], now_s: float) -> Node:
        return min(nodes, key=lambda node: max(node.latency(now_s), UNKNOWN_COST_S) * (node.load.in_flight + 1))


Chooser = RoundRobin | Weighted | LeastConnections | LatencyBased

CHOOSERS: Final[dict[str, Callable[[], Chooser]]] = {
    "weighted": Weighted,
    "round_robin": RoundRobin,
    "least_connections": LeastConnections,
    "latency_based": LatencyBased,
}
