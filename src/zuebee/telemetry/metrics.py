"""Every metric, on one page.

The hot path only adds to plain numbers (about 1 µs a request); Prometheus' text is made when somebody asks for it.
Label values are bounded: routes come from the route table, backends from the settings, and of the model names only
the first `max_models` that a backend answered for get a label of their own; the rest are `other`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from zuebee.contracts.admission import Settlement

LATENCY_BUCKETS_MS = (10, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000, 60000, 120000, 300000, 600000)
FIRST_TOKEN_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
DEFAULT_PRIORITY = "default"
OTHER = "other"
NO_BACKEND = "none"
MAX_SERIES = 5000


class Description(NamedTuple):
    """What the documentation says of a metric."""

    kind: str
    labels: tuple[str, ...]
    meaning: str


METRICS = {
    "llmproxy_requests_total": Description(
        "counter", ("path", "stream", "backend", "status"), "Requests, refused ones too."
    ),
    "llmproxy_latency_ms": Description(
        "histogram", ("path", "stream", "backend"), "Milliseconds from the request's head to the end of its answer."
    ),
    "llmproxy_usage_tokens_total": Description("counter", ("type",), "Tokens: type is prompt or completion."),
    "zuebee_request_duration_seconds": Description(
        "histogram", ("model", "priority"), "Seconds from the request's head to the end of its answer."
    ),
    "zuebee_time_to_first_token_seconds": Description(
        "histogram", ("model",), "Seconds from the request's head to the first event of a stream."
    ),
    "zuebee_tokens_in_total": Description("counter", ("model", "priority"), "Prompt tokens."),
    "zuebee_tokens_out_total": Description("counter", ("model", "priority"), "Completion tokens."),
    "zuebee_usage_records_total": Description(
        "counter", ("source",), "Usage figures by where they come from: provider, partial, estimate or none."
    ),
    "zuebee_endings_total": Description("counter", ("ending",), "Requests by how they ended."),
    "zuebee_refusals_total": Description("counter", ("code",), "Error answers by their code."),
    "zuebee_source_refusals_total": Description(
        "counter", ("source", "reason"), "Tokens and signatures that a source of the pipeline refused, by why."
    ),
    "zuebee_retries_total": Description("counter", (), "Second and further tries at backends."),
    "zuebee_requests_running": Description("gauge", (), "Requests being answered now."),
    "zuebee_connections": Description("gauge", (), "Open client connections."),
    "zuebee_backend_healthy": Description("gauge", ("backend",), "1 while the backend may be chosen, else 0."),
    "zuebee_backend_in_flight": Description("gauge", ("backend",), "Requests that the backend is answering."),
    "zuebee_records_dropped_total": Description(
        "counter", ("sink",), "Records lost because their sink could not take them: usage or access_log."
    ),
    "zuebee_config_reloads_total": Description("counter", ("result",), "Reloads of the configuration: ok or refused."),
    "zuebee_ready": Description("gauge", (), "1 while /health/readiness answers 200."),
}


class _Histogram:
    __slots__ = ("counts", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.sum = 0.0


class _RouteSeries:
    """One combination of path, stream and backend, with its requests by status."""

    __slots__ = ("latency", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.latency = _Histogram(len(LATENCY_BUCKETS_MS))


class _ModelSeries:
    __slots__ = ("duration", "first_token", "tokens_in", "tokens_out")

    def __init__(self) -> None:
        self.duration = _Histogram(len(LATENCY_BUCKETS_MS))
        self.first_token = _Histogram(len(FIRST_TOKEN_BUCKETS_S))
        self.tokens_in = 0
        self.tokens_out = 0


class Metrics:
    """Counts settlements (it is a `Recorder`) and shows them, with gauges that others lend, to Prometheus."""

    def __init__(self, max_models: int) -> None:
        self._max_models = max_models
        self._routes: dict[tuple[str, bool, str], _RouteSeries] = {}
        self._models: dict[str, _ModelSeries] = {}
        self._sources: dict[str, int] = {}
        self._endings: dict[str, int] = {}
        self._codes: dict[str, int] = {}
        self._retries = 0
        self._gauges: dict[str, Callable[[], Iterable[tuple[tuple[str, ...], float]]]] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self.reloads = Counter(
            "zuebee_config_reloads", METRICS["zuebee_config_reloads_total"].meaning, ["result"], registry=self._registry
        )

    def lend(self, name: str, read: Callable[[], Iterable[tuple[tuple[str, ...], float]]]) -> None:
        """Let `read` answer for a gauge or counter of METRICS: label values and a number for each series."""
        assert name in METRICS
        self._gauges[name] = read

    def record(self, settlement: Settlement) -> None:
        """See `Recorder.record`."""
        duration_s = settlement.duration_s
        key = (settlement.route, settlement.stream, settlement.backend)
        route = self._routes.get(key) or self._new_route(key)
        status = settlement.status
        route.statuses[status] = route.statuses.get(status, 0) + 1
        slot = bisect_left(LATENCY_BUCKETS_MS, duration_s * 1000)
        route.latency.counts[slot] += 1
        route.latency.sum += duration_s
        self._endings[settlement.ending] = self._endings.get(settlement.ending, 0) + 1
        if settlement.code:
            self._count_code(settlement.code)
        if settlement.attempts > 1:
            self._retries += settlement.attempts - 1
        if settlement.grant is not None:
            self._record_model(settlement, slot)

    def _record_model(self, settlement: Settlement, slot: int) -> None:
        usage = settlement.usage
        source = usage.source if usage is not None else "none"
        self._sources[source] = self._sources.get(source, 0) + 1
        model = self._models.get(settlement.model) or self._new_model(settlement)
        model.duration.counts[slot] += 1
        model.duration.sum += settlement.duration_s
        if usage is not None:
            model.tokens_in += usage.prompt_tokens
            model.tokens_out += usage.completion_tokens
        if settlement.first_token_s >= 0:
            model.first_token.counts[bisect_left(FIRST_TOKEN_BUCKETS_S, settlement.first_token_s)] += 1
            model.first_token.sum += settlement.first_token_s

    def _new_route(self, key: tuple[str, bool, str]) -> _RouteSeries:
        if len(self._routes) >= MAX_SERIES:
            key = (OTHER, key[1], OTHER)
        return self._routes.setdefault(key, _RouteSeries())

    def _new_model(self, settlement: Settlement) -> _ModelSeries:
        known = settlement.status == 200 and len(self._models) < self._max_models and settlement.model
        return self._models.setdefault(settlement.model[:200] if known else OTHER, _ModelSeries())

    def _count_code(self, code: str) -> None:
        # Codes are ours, but a backend's own error may carry its: bounded like the models.
        if code not in self._codes and len(self._codes) >= self._max_models:
            code = OTHER
        self._codes[code] = self._codes.get(code, 0) + 1

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics as text, and its content type, in the format that `accept` prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    # --- for prometheus_client ---

    def collect(self) -> Iterator[Metric]:
        yield from self._collect_routes()
        yield from self._collect_models()
        yield _counter("zuebee_usage_records_total", (((k,), v) for k, v in self._sources.items()))
        yield _counter("zuebee_endings_total", (((k,), v) for k, v in self._endings.items()))
        yield _counter("zuebee_refusals_total", (((k,), v) for k, v in self._codes.items()))
        yield _counter("zuebee_retries_total", [((), self._retries)])
        for name, read in self._gauges.items():
            make = _gauge if METRICS[name].kind == "gauge" else _counter
            yield make(name, read())

    def _collect_routes(self) -> Iterator[Metric]:
        latency = _histogram("llmproxy_latency_ms")
        requests = []
        for (path, stream, backend), series in self._routes.items():
            labels = [path, str(stream).lower(), backend or NO_BACKEND]
            requests += [((*labels, str(status)), count) for status, count in series.statuses.items()]
            _add_histogram(latency, labels, LATENCY_BUCKETS_MS, series.latency, 1000.0)
        yield _counter("llmproxy_requests_total", requests)
        yield latency

    def _collect_models(self) -> Iterator[Metric]:
        duration = _histogram("zuebee_request_duration_seconds")
        first_token = _histogram("zuebee_time_to_first_token_seconds")
        buckets_s = tuple(bound / 1000 for bound in LATENCY_BUCKETS_MS)
        for model, series in self._models.items():
            _add_histogram(duration, [model, DEFAULT_PRIORITY], buckets_s, series.duration)
            if sum(series.first_token.counts):
                _add_histogram(first_token, [model], FIRST_TOKEN_BUCKETS_S, series.first_token)
        yield duration
        yield first_token
        models = self._models.items()
        yield _counter("zuebee_tokens_in_total", (((m, DEFAULT_PRIORITY), s.tokens_in) for m, s in models))
        yield _counter("zuebee_tokens_out_total", (((m, DEFAULT_PRIORITY), s.tokens_out) for m, s in models))
        tokens_in = sum(series.tokens_in for series in self._models.values())
        tokens_out = sum(series.tokens_out for series in self._models.values())
        yield _counter("llmproxy_usage_tokens_total", [(("prompt",), tokens_in), (("completion",), tokens_out)])


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
    histogram: _Histogram,
    scale: float = 1.0,
) -> None:
    total = 0
    buckets = []
    for bound, count in zip((*bounds, float("inf")), histogram.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), total))
    family.add_metric(labels, buckets, histogram.sum * scale)
