import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from tests.support.fakes import VirtualTime
from zuebee.contracts.admission import ANONYMOUS, Grant, Principal, Priority, Settlement
from zuebee.contracts.inference import Usage
from zuebee.telemetry.metrics import METRICS, Metrics
from zuebee.telemetry.series import LATENCY_BUCKETS_MS, OTHER, Histogram

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def settled(**changes: Any) -> Settlement:
    fields: dict[str, Any] = {
        "request_id": "r",
        "method": "POST",
        "route": "/v1/chat/completions",
        "address": "10.0.0.1",
        "at_s": 0.0,
        "status": 200,
        "termination_reason": "complete",
        "grant": Grant(ANONYMOUS),
        "model": "m",
        "backend": "a",
        "attempts": 1,
        "usage": Usage(7, 5, "provider"),
        "duration_s": 0.3,
    }
    return Settlement(**{**fields, **changes})


def samples(metrics: Metrics) -> Samples:
    text = metrics.exposition("text/plain")[0].decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in read_text(text)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, frozenset(labels.items())]


@pytest.mark.requirement("A312", "A329")
def test_the_exposition_is_valid_in_both_formats_and_has_no_series_twice() -> None:
    metrics = Metrics(100)
    for model in ("m", 'odd "name"\\\n\u2028', "", "{}=,", "é😀"):
        metrics.record(settled(model=model, first_token_s=0.1, stream=True))
    metrics.record(
        settled(status=404, grant=None, termination_reason="refused", code="unknown_path", route="other", backend="")
    )
    metrics.reloads.labels("ok").inc()
    metrics.lend("zuebee_ready", lambda: [((), 1.0)])
    text, content_type = metrics.exposition("text/plain")
    assert content_type.startswith("text/plain")
    found = [(s.name, tuple(sorted(s.labels.items()))) for f in read_text(text.decode()) for s in f.samples]
    assert len(found) == len(set(found)) > 100
    text, content_type = metrics.exposition(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    assert list(read_openmetrics(text.decode()))


def test_all_that_is_shown_is_described() -> None:
    metrics = Metrics(100)
    metrics.record(settled(first_token_s=0.1, code="c", attempts=2))
    ours = {
        f.name: f for f in read_text(metrics.exposition("")[0].decode()) if f.name.startswith(("llmproxy", "zuebee"))
    }
    for name, family in ours.items():
        known = METRICS.get(name) or METRICS.get(f"{name}_total")
        if known is None:
            assert name.endswith("_created"), name
            continue
        assert (family.documentation, family.type) == (known.meaning, known.kind)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(known.labels)


@pytest.mark.requirement("A314", "A318")
def test_requests_and_tokens_are_counted() -> None:
    metrics = Metrics(100)
    metrics.record(settled())
    metrics.record(settled(usage=Usage(1, 2, "estimate")))
    metrics.record(
        settled(
            status=429, grant=None, usage=None, code="rate_limit_exceeded", backend="", termination_reason="refused"
        )
    )
    route = {"path": "/v1/chat/completions", "stream": "false"}
    assert value(metrics, "llmproxy_requests_total", **route, backend="a", status="200") == 2
    assert value(metrics, "llmproxy_requests_total", **route, backend="none", status="429") == 1
    assert value(metrics, "llmproxy_usage_tokens_total", type="prompt") == 8
    assert value(metrics, "llmproxy_usage_tokens_total", type="completion") == 7
    assert value(metrics, "zuebee_refusals_total", code="rate_limit_exceeded") == 1
    assert value(metrics, "zuebee_usage_records_total", source="provider") == 1
    assert value(metrics, "zuebee_terminations_total", reason="complete") == 2


@pytest.mark.requirement("A306", "A307", "A303")
def test_tokens_and_time_by_model() -> None:
    metrics = Metrics(100)
    metrics.record(settled(stream=True, first_token_s=0.02))
    model = {"model": "m", "priority": "normal"}
    assert value(metrics, "zuebee_tokens_in_total", **model) == 7
    assert value(metrics, "zuebee_tokens_out_total", **model) == 5
    assert value(metrics, "zuebee_request_duration_seconds_sum", **model) == pytest.approx(0.3)
    assert value(metrics, "zuebee_time_to_first_token_seconds_bucket", model="m", le="0.025") == 1
    assert value(metrics, "zuebee_time_to_first_token_seconds_bucket", model="m", le="0.01") == 0


@pytest.mark.requirement("A315")
@given(st.lists(st.floats(0, 1000), min_size=1, max_size=20))
def test_the_latency_histogram_counts_each_request_where_it_belongs(durations_s: list[float]) -> None:
    metrics = Metrics(100)
    for duration_s in durations_s:
        metrics.record(settled(duration_s=duration_s))
    found = samples(metrics)
    labels = {"path": "/v1/chat/completions", "stream": "false", "backend": "a"}
    for bound in (*LATENCY_BUCKETS_MS, math.inf):
        le = "+Inf" if bound == math.inf else str(float(bound))
        count = found["llmproxy_latency_ms_bucket", frozenset({**labels, "le": le}.items())]
        assert count == sum(duration_s * 1000 <= bound for duration_s in durations_s)
    total_ms = found["llmproxy_latency_ms_sum", frozenset(labels.items())]
    assert total_ms == pytest.approx(sum(durations_s) * 1000)


@pytest.mark.requirement("A308")
def test_ten_thousand_model_names_make_no_more_than_the_allowed_labels() -> None:
    metrics = Metrics(50)
    names = random.Random(7)
    for _ in range(10_000):
        metrics.record(settled(model=names.randbytes(8).hex() * names.choice([1, 50])))
    models = {dict(labels)["model"] for name, labels in samples(metrics) if name == "zuebee_tokens_in_total"}
    assert len(models) == 51
    assert OTHER in models
    assert max(map(len, models)) <= 200
    assert sum(v for (name, _), v in samples(metrics).items() if name == "zuebee_tokens_in_total") == 70_000


@pytest.mark.requirement("A308")
def test_a_model_that_no_backend_answered_for_gets_no_label() -> None:
    metrics = Metrics(50)
    for n in range(100):
        metrics.record(settled(model=f"m{n}", status=404, usage=None))
    models = {dict(labels)["model"] for name, labels in samples(metrics) if name == "zuebee_tokens_in_total"}
    assert models == {OTHER}


def test_codes_and_routes_are_bounded() -> None:
    metrics = Metrics(50, max_tallies=100)
    for n in range(200):
        metrics.record(settled(code=f"c{n}", route=f"/r{n}"))
    found = samples(metrics)
    codes = [dict(labels)["code"] for name, labels in found if name == "zuebee_refusals_total"]
    routes = [
        dict(labels)["path"] for name, labels in found if name == "llmproxy_requests_total" and found[name, labels]
    ]
    assert len(codes) == 51
    assert len(routes) == 101
    assert OTHER in codes
    assert OTHER in routes


def test_retries_are_tries_beyond_the_first() -> None:
    metrics = Metrics(50)
    for attempts in (0, 1, 3):
        metrics.record(settled(attempts=attempts))
    assert value(metrics, "zuebee_retries_total") == 2


def test_lent_gauges_are_read_when_asked() -> None:
    metrics = Metrics(50)
    now = {"a": 1.0}
    metrics.lend("zuebee_backend_healthy", lambda: (((name,), up) for name, up in now.items()))
    metrics.lend("zuebee_records_dropped_total", lambda: [(("usage",), 3.0)])
    assert value(metrics, "zuebee_backend_healthy", backend="a") == 1
    now["a"] = 0.0
    assert value(metrics, "zuebee_backend_healthy", backend="a") == 0
    assert value(metrics, "zuebee_records_dropped_total", sink="usage") == 3


def caller(priority: Priority, organization: str = "org", plan: str = "pro") -> Principal:
    return Principal("key", priority=priority, organization_id=organization, plan=plan)


@pytest.mark.requirement("A305", "A309")
def test_priority_classes_have_figures_of_their_own() -> None:
    metrics = Metrics(100)
    metrics.record(settled(principal=caller("low"), duration_s=2.0, cost_nano=3_000_000_000))
    metrics.record(settled(principal=caller("high"), stream=True, first_token_s=0.02))
    metrics.record(settled(principal=caller("high"), status=429, grant=None, usage=None))
    found = samples(metrics)
    for priority, requests, tokens in (("low", 1, 7), ("high", 1, 7)):
        labels = {"priority": priority}
        assert value(metrics, "zuebee_priority_requests_total", **labels) == requests
        assert value(metrics, "zuebee_tokens_in_total", model="m", **labels) == tokens
    assert value(metrics, "zuebee_cost_total", model="m", priority="low") == 3.0
    assert value(metrics, "zuebee_priority_wait_seconds_sum", priority="low") == 2.0
    assert value(metrics, "zuebee_priority_wait_seconds_sum", priority="high") == pytest.approx(0.02)
    assert value(metrics, "zuebee_priority_requests_total", priority="normal") == 0
    assert ("zuebee_time_to_first_token_seconds_count", frozenset({("model", "m")})) in found


@pytest.mark.requirement("A103", "A305")
def test_lent_histograms_are_shown() -> None:
    metrics = Metrics(100)
    waits = {"high": Histogram((0.1, 1.0)), "low": Histogram((0.1, 1.0))}
    metrics.lend_histograms("zuebee_queue_wait_seconds", lambda: (((p,), each) for p, each in waits.items()))
    for waited_s in (0.05, 0.5, 2.0):
        waits["low"].observe(waited_s)
    name = "zuebee_queue_wait_seconds"
    found = {bound: value(metrics, f"{name}_bucket", priority="low", le=bound) for bound in ("0.1", "1.0", "+Inf")}
    assert found == {"0.1": 1, "1.0": 2, "+Inf": 3}
    assert value(metrics, f"{name}_sum", priority="low") == pytest.approx(2.55)
    assert value(metrics, f"{name}_count", priority="high") == 0


@pytest.mark.requirement("A104", "A304")
def test_burn_rate_of_each_tenant(virtual_time: VirtualTime) -> None:
    metrics = Metrics(100, max_accounts=2)
    for _ in range(600):
        virtual_time.advance(1.0)
        metrics.record(settled(principal=caller("normal", "a"), usage=Usage(60, 40, "provider"), cost_nano=1_000_000))
        metrics.record(settled(principal=caller("normal", "b"), usage=Usage(5, 5, "provider")))
        for n in range(3):
            metrics.record(settled(principal=caller("normal", f"c{n}"), usage=Usage(1, 0, "provider")))
    a = {"organization": "a", "plan": "pro"}
    assert value(metrics, "zuebee_burn_tokens_per_minute", **a) == pytest.approx(6000, rel=0.02)
    assert value(metrics, "zuebee_burn_cost_per_hour", **a) == pytest.approx(3.6, rel=0.02)
    rates = {labels: v for (name, labels), v in samples(metrics).items() if name == "zuebee_burn_tokens_per_minute"}
    assert len(rates) == 3
    assert sum(rates.values()) == pytest.approx((100 + 10 + 3) * 60, rel=0.02)
    virtual_time.advance(300)
    assert value(metrics, "zuebee_burn_tokens_per_minute", **a) < 60


def test_every_metric_that_is_not_counted_here_can_be_lent() -> None:
    metrics = Metrics(10)
    own = {name for name, _ in samples(metrics)}
    for name, description in METRICS.items():
        if description.kind != "histogram" and name not in own:
            metrics.lend(name, lambda d=description: [(tuple("x" for _ in d.labels), 1.0)])
    shown = {name for name, _ in samples(metrics)}
    assert "zuebee_ledger_imbalance" in shown
    assert "llmproxy_webhook_success_total" in shown


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=x", "text/plain; version=1.é", ";,=", "\0"])
def test_an_accept_value_that_makes_no_sense_gets_the_plain_text(accept: str) -> None:
    metrics = Metrics(100)
    assert metrics.exposition(accept)[1] == metrics.format_of(accept) == metrics.format_of("")
