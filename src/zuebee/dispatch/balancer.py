"""PURE. Which of the fit backends gets the next request.

weighted: nginx's smooth weighted round robin. latency_based: peak EWMA of the time to the first byte, as in Finagle;
what is not used is forgotten over time, so that a slow backend is tried again.
"""

import math
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import Final, Literal, TypeVar

from zuebee.config.settings import Restartable, RetrySettings
from zuebee.contracts.inference import End, Head, Headers, Inference
from zuebee.dispatch.priority_queue import Load
from zuebee.lib.patterns import allowed

# Whether a backend is fit to be chosen: its probes (active) and how its requests end (passive).
#
# Passive ejection follows Envoy's outlier detection: 5 failures in a row take a backend out for 30 s, longer each time.
# It takes none out that is the last: who asks knows the others. An answer says more than a probe: a backend that gives
# answers is there, whatever becomes of probes that it has no time for.

CONSECUTIVE_FAILURES: Final = 5
EJECTION_S: Final = 30.0
MAX_EJECTION_S: Final = 300.0
ANSWERS_SPEAK_S: Final = 60.0
"""For so long after an answer a probe without one says nothing, if there is a reason for it."""


class Health:
    """The health of one backend. Times are monotonic seconds; 0: never.

    `failures`: requests that failed since one was answered well; `last_error`: what the last bad probe found.
    """

    def __init__(self, *, unhealthy_threshold: int, healthy_threshold: int) -> None:
        self.probed_down = False
        self.ejected_until_s = 0.0
        self.unhealthy_threshold = unhealthy_threshold
        self.healthy_threshold = healthy_threshold
        self.answered_at_s = float("-inf")
        self._probed = False
        self._probes_failed = 0
        self._probes_passed = 0
        self.failures = 0
        self.checked_at_s = 0.0
        self.ejected_at_s = 0.0
        self.last_error = ""
        self._ejections = 0

    def fit(self, now_s: float) -> bool:
        """Whether neither its probes nor its requests speak against it."""
        return not self.probed_down and now_s >= self.ejected_until_s

    def request_succeeded(self, now_s: float) -> bool:
        """A request was answered; True if that brings the backend back, whatever had taken it out."""
        self.failures = 0
        self.answered_at_s = now_s
        if self._ejections and now_s > self.ejected_until_s + MAX_EJECTION_S:
            self._ejections = 0
        if not self.probed_down and now_s >= self.ejected_until_s:
            return False
        self.probed_down = False
        self.ejected_until_s = 0.0
        self._probes_failed = 0
        return True

    def request_failed(self, now_s: float, *, others: bool = True) -> bool:
        """A request failed through the backend's fault; True if that ejects it. `others`: some other one is fit."""
        self.failures += 1
        if not others or self.failures < CONSECUTIVE_FAILURES or now_s < self.ejected_until_s:
            return False
        self.failures = 0
        self._probes_passed = 0
        self._ejections += 1
        self.ejected_at_s = now_s
        self.ejected_until_s = now_s + min(EJECTION_S * self._ejections, MAX_EJECTION_S)
        return True

    def probe_passed(self) -> bool:
        """A probe was answered well; True if that brings the backend back. Enough of them end an ejection, too."""
        self._probed = True
        self._probes_failed = 0
        self._probes_passed += 1
        if self._probes_passed < self.healthy_threshold:
            return False
        back = self.probed_down
        self.probed_down = False
        self.ejected_until_s = 0.0
        return back

    def probe_failed(self, now_s: float, *, excused: bool = False) -> bool:
        """A probe failed; True if that takes the backend out. The first probe of all decides alone.

        `excused`: there is a reason for it other than that the backend is gone. Then answers count for more.
        """
        if excused and now_s - self.answered_at_s < ANSWERS_SPEAK_S:
            return False
        first = not self._probed
        self._probed = True
        self._probes_passed = 0
        self._probes_failed += 1
        out = not self.probed_down and (first or self._probes_failed >= self.unhealthy_threshold)
        if out:
            self.probed_down = True
        return out


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
        return allowed(model, self._models)

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


# Whether a failed try is worth another, where, when, and within which budget.
#
# What a backend may have begun to work on is not sent again by itself: each try is a whole generation, and somebody
# pays for it (RFC 9110, section 9.2.2). Full jitter after AWS' Builders' Library; the budget after Envoy: retries at
# once are a share of the running requests.

MIN_CONCURRENT_RETRIES: Final = 3
MAX_RETRY_AFTER_S: Final = 120.0
OVERLOADED: Final = frozenset({429, 503, 529})
"""Statuses of a server that has not begun."""

MAX_DOUBTS: Final = 1
"""So often a request may have been begun before it is sent once more: pool and dispatcher together resend it once."""

Where = Literal["nowhere", "elsewhere", "anywhere"]
"""Which backends another try may go to: none, another one, or the same one as well."""


class RetryBudget:
    """Counts running requests and retries. A retry holds its place while it waits and until its answer begins."""

    def __init__(self, percent: int) -> None:
        self.running = 0
        self.retrying = 0
        self._percent = percent

    def allows(self) -> bool:
        """Whether one more retry may begin now."""
        return self.retrying < max(MIN_CONCURRENT_RETRIES, self.running * self._percent / 100)


def is_failure(first: Head | End) -> bool:
    """Whether the beginning of a reply says that the backend failed."""
    if isinstance(first, Head):
        return first.status >= 500 or first.status == 429
    return first.cause != "none"


def where_again(
    first: Head | End, settings: RetrySettings, retry_started_on: Sequence[Restartable], doubts: int
) -> Where:
    """Where a failed try may be made again.

    It may be made anywhere where nobody has begun to work: there was no connection, or the answer is 429, 503 or 529.
    A request that was lost with its connection may be taken over by another backend, once. `retry_started_on`: what
    else the backend's operator wants to have sent again, at the price of a second generation. `doubts`: see `Job`.
    """
    if isinstance(first, Head):
        return _after_answer(first, settings, retry_started_on)
    cause = first.cause
    reported = 0 if first.refusal is None else first.refusal.status
    if (
        cause in ("connect_failure", "gone", "died", "broken", "unwelcome")
        and "connect_failure" not in settings.retry_on
    ):
        return "nowhere"
    if cause == "unwelcome":
        return "elsewhere"
    if cause == "connect_failure":
        return "anywhere"
    if cause == "gone":
        return "anywhere" if doubts <= MAX_DOUBTS else "nowhere"
    if cause == "died":
        if "broken" in retry_started_on:
            return "anywhere"
        return "elsewhere" if doubts <= MAX_DOUBTS else "nowhere"
    if cause == "broken":
        return "anywhere" if "broken" in retry_started_on else "nowhere"
    if cause == "timeout":
        return "anywhere" if "timeout" in retry_started_on and "timeout" in settings.retry_on else "nowhere"
    if cause == "overload" and "5xx" in settings.retry_on:
        return "anywhere" if not first.sent or reported in OVERLOADED or "5xx" in retry_started_on else "nowhere"
    return "nowhere"


def _after_answer(head: Head, settings: RetrySettings, retry_started_on: Sequence[Restartable]) -> Where:
    status, allowed = head.status, settings.retry_on
    if ("429" if status == 429 else "5xx") not in allowed:
        return "nowhere"
    if status not in OVERLOADED and (status < 500 or "5xx" not in retry_started_on):
        return "nowhere"
    return "nowhere" if is_final(head.headers) else "anywhere"


def is_final(headers: Headers) -> bool:
    """Whether the backend says that another try is of no use (`x-should-retry: false`)."""
    return any(name == b"x-should-retry" and value.strip().lower() == b"false" for name, value in headers)


def weight(first: Head | End) -> int:
    """How much the caller should know of a try that failed, if no other helps; of equal ones the last is the answer.

    What may have been begun is told, for it is charged; then what a backend answered; then that there was no answer.
    """
    if isinstance(first, Head):
        return 1
    if first.sent and first.cause in ("timeout", "gone", "died", "broken"):
        return 2
    return 1 if first.sent and first.cause in ("overload", "unwelcome") else 0


def backoff_s(retry: int, settings: RetrySettings, draw: float) -> float:
    """How long to wait before the `retry`-th retry (from 1): anything up to an exponentially growing bound.

    `draw` is a random number between 0 and 1.
    """
    bound_s = min(settings.initial_wait_s * settings.multiplier ** (retry - 1), settings.max_wait_s)
    return draw * bound_s


def retry_after_s(headers: Headers, now_wall_s: float) -> float | None:
    """What `retry-after-ms` or `retry-after` (seconds or a date, RFC 9110 section 10.2.3) asks for, within bounds."""
    for name, value in headers:
        if name == b"retry-after-ms" and (milliseconds := _number(value)) is not None:
            return min(max(milliseconds / 1000, 0.0), MAX_RETRY_AFTER_S)
    for name, value in headers:
        if name != b"retry-after":
            continue
        seconds = _number(value)
        if seconds is None:
            try:
                seconds = parsedate_to_datetime(value.decode("latin-1")).timestamp() - now_wall_s
            except ValueError:
                return None
        return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)
    return None


def _number(value: bytes) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if number == number else None  # not NaN


# One backend: what the balancer knows of it, and how to talk to it.


class Backend(Node):
    """A node that can be talked to. `retry_started_on`: what it may be sent again though it may have begun it."""

    def __init__(
        self,
        name: str,
        url: str,
        inference: Inference,
        *,
        weight: int,
        health: Health,
        models: Sequence[str],
        load: Load | None = None,
        retry_started_on: Sequence[Restartable] = (),
    ) -> None:
        super().__init__(name, weight, health, models, load)
        self.url = url
        self.inference = inference
        self.retry_started_on = tuple(retry_started_on)
