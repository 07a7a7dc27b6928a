"""Every metric, on one page.

The hot path only adds to plain numbers (about 1 µs a request); Prometheus' text is made when somebody asks for it.
Label values are bounded: routes come from the route table, backends from the settings, and of the model names only
the first `max_models` that a backend answered for get a label of their own; the rest are `other`. Of organizations and
budgets there are at most `max_accounts`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

from prometheus_client import CollectorRegistry, Counter, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from zuebee.contracts.admission import Settlement
from zuebee.lib import clock
from zuebee.telemetry.series import (
    FIRST_TOKEN_BUCKETS_S,
    LATENCY_BUCKETS_MS,
    MAX_TALLIES,
    Burns,
    Histogram,
    Labels,
    Tallies,
    Tally,
    key_of,
)

PRIORITIES: Final = ("low", "normal", "high")
NO_BACKEND: Final = "none"

Series: TypeAlias = Iterable[tuple[tuple[str, ...], float]]


class Description(NamedTuple):
    """What the documentation says of a metric."""

    kind: str
    labels: tuple[str, ...]
    meaning: str


METRICS: Final = {
    "llmproxy_requests_total": Description(
        "counter", ("path", "stream", "backend", "status"), "Requests, including refused ones."
    ),
    "llmproxy_latency_ms": Description(
        "histogram", ("path", "stream", "backend"), "Milliseconds from the request's head to the end of its answer."
    ),
    "llmproxy_usage_tokens_total": Description("counter", ("type",), "Tokens; type is prompt or completion."),
    "zuebee_request_duration_seconds": Description(
        "histogram", ("model", "priority"), "Seconds from the request's head to the end of its answer."
    ),
    "zuebee_time_to_first_token_seconds": Description(
        "histogram", ("model",), "Seconds from the request's head to the first event of a stream."
    ),
    "zuebee_cost_total": Description("counter", ("model", "priority"), "Cost, in units of `billing.currency`."),
    "zuebee_billing_currency_info": Description(
        "gauge", ("currency",), "Always 1; the label is the currency of all costs and budgets."
    ),
    "zuebee_burn_tokens_per_minute": Description(
        "gauge",
        ("organization", "plan"),
        "Tokens a minute, smoothed over the last minutes; the sum is that of all tenants.",
    ),
    "zuebee_burn_cost_per_hour": Description(
        "gauge", ("organization", "plan"), "Cost an hour at the pace of the last minutes, in units of the currency."
    ),
    "zuebee_budget_granted": Description(
        "gauge",
        ("account", "unit", "period"),
        "Amount of the budget in this period, in tokens or currency; for the same budgets as the next metric.",
    ),
    "zuebee_budget_remaining": Description(
        "gauge",
        ("account", "unit", "period"),
        "Amount that is left, for the `metrics.max_accounts` budgets with the smallest share left.",
    ),
    "zuebee_budgets_read_at_seconds": Description(
        "gauge",
        (),
        "When the budget gauges were read from the store, in seconds since 1970; on SQLite they are always current.",
    ),
    "zuebee_budgets": Description(
        "gauge", ("scope", "unit", "state"), "Number of budgets that are ok, low (less than a fifth left) or exhausted."
    ),
    "zuebee_priority_requests_total": Description("counter", ("priority",), "Admitted requests, by priority class."),
    "zuebee_priority_running": Description("gauge", ("priority",), "Running requests, by priority class."),
    "zuebee_priority_wait_seconds": Description(
        "histogram",
        ("priority",),
        "Seconds until the first event of a stream, or until a whole answer was there.",
    ),
    "zuebee_queue_depth": Description(
        "gauge", ("priority",), "Requests that wait in the request queue, by priority class."
    ),
    "zuebee_queue_wait_seconds": Description(
        "histogram",
        ("priority",),
        "Seconds that requests waited in the request queue; those that did not wait are not counted.",
    ),
    "zuebee_holds_open": Description("gauge", (), "Holds of the ledger that are not settled yet."),
    "zuebee_hold_oldest_seconds": Description("gauge", (), "Age of the oldest open hold."),
    "zuebee_ledger_imbalance": Description(
        "gauge", (), "Violations of the ledger's invariants that the last check found; NaN until a check has finished."
    ),
    "zuebee_ledger_checked_at_seconds": Description(
        "gauge", (), "When the last check of the ledger finished, in seconds since 1970; a check begins every 30 s."
    ),
    "zuebee_ledger_checks_failed_total": Description(
        "counter", (), "Checks of the ledger that did not finish: the store was unavailable, or too slow."
    ),
    "zuebee_ledger_operations_total": Description(
        "counter",
        ("operation",),
        "Reservations: `reserve` were made, `short` were refused because the budget was too small.",
    ),
    "zuebee_ledger_commits_total": Description("counter", (), "Transactions of the ledger."),
    "zuebee_ledger_commit_seconds_total": Description("counter", (), "Time spent in transactions of the ledger."),
    "zuebee_journal_damaged_total": Description(
        "counter",
        (),
        "Places of the journal, or lines of the spool file, that could not be read at the start; a copy is kept.",
    ),
    "zuebee_auth_decisions_total": Description(
        "counter",
        ("source", "decision"),
        "Decisions of each source of the pipeline: allowed, denied, error, unknown, missing.",
    ),
    "zuebee_script_failures_total": Description(
        "counter",
        ("source", "reason"),
        "Decision scripts that failed (error, result, input, busy, time, memory, instructions); each is a denial.",
    ),
    "zuebee_limiter_decisions_total": Description(
        "counter",
        ("scope", "kind", "decision"),
        "Decisions of limits: admitted, by each limit of the request; refused, by the limit with the longest wait.",
    ),
    "zuebee_limiter_slots": Description("gauge", ("scope",), "Permits of concurrency limits that are in use."),
    "zuebee_limiter_degraded": Description("gauge", (), "1 while Redis is down and `on_store_down` decides, else 0."),
    "zuebee_limiter_without_store_total": Description(
        "counter", (), "Requests that `on_store_down` decided because Redis was down."
    ),
    "zuebee_limiter_counters": Description("gauge", (), "Counters of limits in memory."),
    "zuebee_addresses_blocked": Description(
        "gauge", (), "Addresses that are blocked because they failed to authenticate too often."
    ),
    "llmproxy_webhook_success_total": Description("counter", (), "Usage events that webhooks accepted."),
    "llmproxy_webhook_failure_total": Description("counter", (), "Failed rounds of delivery to webhooks."),
    "zuebee_usage_deliveries_total": Description(
        "counter", ("reporter", "result"), "Usage events that were delivered, and rounds of delivery that failed."
    ),
    "zuebee_usage_reporter_state": Description(
        "gauge", ("reporter", "state"), "1 for the state of each reporter: up, down or paused (it answered 410)."
    ),
    "zuebee_usage_outbox_events": Description("gauge", ("reporter",), "Usage events that wait in the outbox."),
    "zuebee_usage_outbox_oldest_seconds": Description(
        "gauge", ("reporter",), "Age of the oldest usage event in the outbox."
    ),
    "zuebee_usage_outbox_parked": Description(
        "gauge",
        ("reporter",),
        "Usage events that are parked after all retries failed; `zuebee usage retry` delivers them again.",
    ),
    "zuebee_usage_outbox_fill": Description(
        "gauge", (), "Used share of `usage.outbox_capacity`; NaN until the outbox was counted."
    ),
    "zuebee_usage_outbox_counted_at_seconds": Description(
        "gauge", (), "When the outbox was counted last, in seconds since 1970; the outbox gauges are from that time."
    ),
    "zuebee_usage_outbox_counts_failed_total": Description("counter", (), "Counts of the outbox that failed."),
    "zuebee_usage_outbox_alarm": Description(
        "gauge", (), "1 while `zuebee_usage_outbox_fill` is 80 % or more, else 0."
    ),
    "zuebee_usage_events_dropped_total": Description(
        "counter", (), "Usage events that were lost because the outbox was full (`on_outbox_full: drop`)."
    ),
    "zuebee_tokens_in_total": Description("counter", ("model", "priority"), "Prompt tokens."),
    "zuebee_tokens_out_total": Description("counter", ("model", "priority"), "Completion tokens."),
    "zuebee_usage_records_total": Description(
        "counter", ("source",), "Usage figures by their source: provider, partial, estimate or none."
    ),
    "zuebee_usage_contradictions_total": Description(
        "counter", (), "Usage figures of backends whose total is not the sum of their parts."
    ),
    "zuebee_terminations_total": Description("counter", ("reason",), "Requests by termination reason."),
    "zuebee_refusals_total": Description("counter", ("code",), "Error answers by code."),
    "zuebee_source_refusals_total": Description(
        "counter", ("source", "reason"), "JWTs and signatures that a source of the pipeline refused, by reason."
    ),
    "zuebee_retries_total": Description("counter", (), "Retries at backends: second and further tries."),
    "zuebee_requests_running": Description("gauge", (), "Running requests."),
    "zuebee_connections": Description("gauge", (), "Open client connections."),
    "zuebee_connections_displaced_total": Description("counter", (), "Idle client connections closed to make room."),
    "zuebee_connections_refused_total": Description("counter", (), "Client connections for which there was no room."),
    "zuebee_unfinished_body_bytes": Description(
        "gauge", (), "Bytes reserved for request bodies that have not fully arrived."
    ),
    "zuebee_backend_healthy": Description("gauge", ("backend",), "1 while the backend may be chosen, else 0."),
    "zuebee_backend_in_flight": Description("gauge", ("backend",), "Requests that the backend is answering."),
    "zuebee_records_dropped_total": Description(
        "counter",
        ("sink",),
        "Records that were lost because their sink was too slow or failed; sink is usage or access_log.",
    ),
    "zuebee_config_reloads_total": Description("counter", ("result",), "Reloads of the configuration: ok or refused."),
    "zuebee_requests_detached": Description(
        "gauge", (), "Requests that continue although their client has disconnected."
    ),
    "zuebee_idempotent_requests_total": Description(
        "counter",
        ("outcome",),
        "Requests with an Idempotency-Key: run, joined to a running one, replayed from the store, or refused.",
    ),
    "zuebee_idempotency_failures_total": Description(
        "counter", (), "Failed reads and writes of the idempotency store."
    ),
    "zuebee_firewall_matches_total": Description(
        "counter", ("rule", "action"), "Matches of firewall rules: blocked, counted or allowed."
    ),
    "zuebee_store_up": Description("gauge", (), "1 while the store can be used, 0 while requests that need it fail."),
    "zuebee_ready": Description("gauge", (), "1 while /health/readiness answers 200."),
}


class Metrics:
    """Counts settlements (it is a `Recorder`) and shows them, with gauges that others lend, to Prometheus."""

    def __init__(self, max_models: int, max_accounts: int = 100, max_tallies: int = MAX_TALLIES) -> None:
        self._burns = Burns(max_accounts)
        self._tallies = Tallies(max_models, max_tallies)
        self._retries = 0
        self._contradictions = 0
        self._gauges: dict[str, Callable[[], Iterable[tuple[tuple[str, ...], float]]]] = {}
        self._histograms: dict[str, Callable[[], Iterable[tuple[tuple[str, ...], Histogram]]]] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self.reloads = Counter(
            "zuebee_config_reloads", METRICS["zuebee_config_reloads_total"].meaning, ["result"], registry=self._registry
        )
        for result in ("ok", "refused"):  # counters that alerts read are there from the start
            self.reloads.labels(result)

    def bound(self, max_models: int, max_accounts: int) -> None:
        """Change how many get labels of their own; those who have some keep them."""
        self._tallies.max_models, self._burns.limit = max_models, max_accounts

    def lend(self, name: str, read: Callable[[], Iterable[tuple[tuple[str, ...], float]]]) -> None:
        """Let `read` answer for a gauge or counter of METRICS: label values and a number for each series."""
        assert name in METRICS
        self._gauges[name] = read

    def lend_histograms(self, name: str, read: Callable[[], Iterable[tuple[tuple[str, ...], Histogram]]]) -> None:
        """Let `read` answer for a histogram of METRICS, all with the same bounds in its unit."""
        assert METRICS[name].kind == "histogram"
        self._histograms[name] = read

    def record(self, settlement: Settlement) -> None:
        key = key_of(settlement)
        tally = self._tallies.known.get(key) or self._tallies.find(key)
        tally.count += 1
        duration_s, first_s = settlement.duration_s, settlement.first_token_s
        latency = tally.latency
        latency.counts[bisect_left(LATENCY_BUCKETS_MS, duration_s * 1000)] += 1
        latency.sum += duration_s
        if settlement.attempts > 1:
            self._retries += settlement.attempts - 1
        if settlement.grant is None:
            return
        usage, cost_nano = settlement.usage, settlement.cost_nano
        tally.cost_nano += cost_nano
        if usage is not None:
            prompt_tokens, completion_tokens = usage.prompt_tokens, usage.completion_tokens
            tally.tokens_in += prompt_tokens
            tally.tokens_out += completion_tokens
            if usage.odd:
                self._contradictions += 1
            principal = settlement.principal
            tokens = prompt_tokens + completion_tokens
            self._burns.add(principal.organization_id, principal.plan, tokens, cost_nano, clock.monotonic_s())
        wait, wait_s = (tally.first_token, first_s) if first_s >= 0 else (tally.wait, duration_s)
        wait.counts[bisect_left(FIRST_TOKEN_BUCKETS_S, wait_s)] += 1
        wait.sum += wait_s

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics as text, and its content type, in the format that `accept` prefers."""
        encode, content_type = _encoder(accept)
        return encode(self._registry), content_type

    def format_of(self, accept: str) -> str:
        """The content type of the format that `accept` prefers."""
        return _encoder(accept)[1]

    # --- for prometheus_client ---

    def collect(self) -> Iterator[Metric]:
        yield from self._collect_routes()
        yield from self._collect_models()
        yield from self._collect_spending()
        count = self._tallies.sums
        yield _counter("zuebee_usage_records_total", _named(count(lambda of: of.source or None, _count)))
        yield _counter("zuebee_usage_contradictions_total", [((), self._contradictions)])
        yield _counter("zuebee_terminations_total", _named(count(lambda of: of.termination_reason, _count)))
        yield _counter("zuebee_refusals_total", _named(count(lambda of: of.code or None, _count)))
        yield _counter("zuebee_retries_total", [((), self._retries)])
        for name, read in self._gauges.items():
            make = _gauge if METRICS[name].kind == "gauge" else _counter
            yield make(name, read())
        for name, lent in self._histograms.items():
            family = _histogram(name)
            for labels, histogram in lent():
                _add_histogram(family, list(labels), histogram.bounds, histogram)
            yield family

    def _collect_routes(self) -> Iterator[Metric]:
        tallies = self._tallies
        requests = tallies.sums(lambda of: (*_route(of), str(of.status)), _count)
        for status in ("200", "500", "503"):  # as above
            requests.setdefault(("/v1/chat/completions", "false", NO_BACKEND, status), 0)
        yield _counter("llmproxy_requests_total", requests.items())
        latency = _histogram("llmproxy_latency_ms")
        for labels, histogram in tallies.histograms(_route, lambda tally: [tally.latency]).items():
            _add_histogram(latency, list(labels), LATENCY_BUCKETS_MS, histogram, 1000.0)
        yield latency

    def _collect_models(self) -> Iterator[Metric]:
        tallies = self._tallies
        duration = _histogram("zuebee_request_duration_seconds")
        buckets_s = tuple(bound / 1000 for bound in LATENCY_BUCKETS_MS)
        for labels, histogram in tallies.histograms(_model, lambda tally: [tally.latency]).items():
            _add_histogram(duration, list(labels), buckets_s, histogram)
        yield duration
        first_token = _histogram("zuebee_time_to_first_token_seconds")
        for name, histogram in tallies.histograms(lambda of: of.model, lambda tally: [tally.first_token]).items():
            if sum(histogram.counts):
                _add_histogram(first_token, [name], FIRST_TOKEN_BUCKETS_S, histogram)
        yield first_token
        tokens_in = tallies.sums(_model, lambda tally: tally.tokens_in)
        tokens_out = tallies.sums(_model, lambda tally: tally.tokens_out)
        yield _counter("zuebee_tokens_in_total", tokens_in.items())
        yield _counter("zuebee_tokens_out_total", tokens_out.items())
        yield _counter("zuebee_cost_total", tallies.sums(_model, lambda tally: tally.cost_nano / 1e9).items())
        by_type = [(("prompt",), sum(tokens_in.values())), (("completion",), sum(tokens_out.values()))]
        yield _counter("llmproxy_usage_tokens_total", by_type)

    def _collect_spending(self) -> Iterator[Metric]:
        burns = self._burns.rates(clock.monotonic_s())
        yield _gauge("zuebee_burn_tokens_per_minute", ((labels, tokens) for labels, tokens, _ in burns))
        yield _gauge("zuebee_burn_cost_per_hour", ((labels, cost) for labels, _, cost in burns))
        found = self._tallies.histograms(
            lambda of: None if of.model is None else of.priority, lambda tally: [tally.first_token, tally.wait]
        )
        waits = _histogram("zuebee_priority_wait_seconds")
        for priority in PRIORITIES:
            _add_histogram(waits, [priority], FIRST_TOKEN_BUCKETS_S, found.setdefault(priority, _no_waits()))
        yield waits
        yield _counter("zuebee_priority_requests_total", (((p,), sum(found[p].counts)) for p in PRIORITIES))


def _count(tally: Tally) -> int:
    return tally.count


def _route(labels: Labels) -> tuple[str, str, str]:
    return labels.route, str(labels.stream).lower(), labels.backend or NO_BACKEND


def _model(labels: Labels) -> tuple[str, str] | None:
    return None if labels.model is None else (labels.model, labels.priority)


def _no_waits() -> Histogram:
    return Histogram(FIRST_TOKEN_BUCKETS_S)


def _named(sums: dict[str, float]) -> Series:
    return [((name,), count) for name, count in sums.items()]


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is no version
        encode, content_type = choose_encoder("")
    return encode, content_type


def _counter(name: str, series: Iterable[tuple[tuple[str, ...], float]]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, METRICS[name].meaning, labels=METRICS[name].labels)
    for labels, value in series:
        family.add_metric(list(labels), value)
    return family


def _gauge(name: str, series: Iterable[tuple[tuple[str, ...], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, METRICS[name].meaning, labels=METRICS[name].labels)
    for labels, value in series:
        family.add_metric(list(labels), value)
    return family


def _histogram(name: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, METRICS[name].meaning, labels=METRICS[name].labels)


def _add_histogram(
    family: HistogramMetricFamily,
    labels: list[str],
    bounds: tuple[float, ...],
    histogram: Histogram,
    scale: float = 1.0,
) -> None:
    total = 0
    buckets = []
    for bound, count in zip((*bounds, float("inf")), histogram.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), total))
    family.add_metric(labels, buckets, histogram.sum * scale)
