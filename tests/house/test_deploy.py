"""What is in deploy/ fits what the gateway serves."""

import json
import re
from typing import Any

import pytest
import yaml

from tests.support.pages import blocks, page
from tests.support.source import ROOT
from zuebee.edge.http import ROUTES
from zuebee.telemetry.metrics import METRICS

DASHBOARD = "deploy/grafana/dashboard.json"
_NAME = re.compile(r"\b(?:zuebee|llmproxy|process|python)_\w+")
_SELECTOR = re.compile(r"\b((?:zuebee|llmproxy)_\w+)(?:\{([^}]*)\})?")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
OF_THE_PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
OF_PROMETHEUS = {"instance", "job"}


def series() -> dict[str, set[str]]:
    """Every name that a query can use, with its labels."""
    known = {}
    for name, (kind, labels, _) in METRICS.items():
        parts = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        known |= {name + part: {*labels, *(["le"] if part == "_bucket" else [])} for part in parts}
    return known


def unknown_in(query: str) -> set[str]:
    """Metrics and labels of a query that the gateway does not have."""
    known = series()
    wrong = {name for name in _NAME.findall(query) if name not in known and name not in OF_THE_PROCESS}
    for name, matchers in _SELECTOR.findall(query):
        labels = set(_LABEL.findall(matchers)) - OF_PROMETHEUS
        wrong |= {f"{name}: {label}" for label in labels - known.get(name, set())}
    for by in re.findall(r"\bby \(([^)]*)\)", query):
        labels = {label.strip() for label in by.split(",")} - OF_PROMETHEUS
        wrong |= {f"by {label}" for label in labels - set().union(*(known.get(n, set()) for n in _NAME.findall(query)))}
    return wrong


def dashboard() -> dict[str, Any]:
    board: dict[str, Any] = json.loads(page(DASHBOARD))
    return board


def panels() -> list[dict[str, Any]]:
    """All panels, also those in rows that are closed at first."""
    found: list[dict[str, Any]] = []
    for each in dashboard()["panels"]:
        found += each["panels"] if each["type"] == "row" else [each]
    return found


def queries() -> list[str]:
    board = dashboard()
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    return shown + [each["query"]["query"] for each in board["templating"]["list"] if each["type"] == "query"]


@pytest.mark.requirement("A347")
def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    assert len(queries()) > 20
    assert {query: wrong for query in queries() if (wrong := unknown_in(query))} == {}


def test_the_dashboard_is_curated() -> None:
    """What somebody looks at: first whether all is well, then rows by question. The rest is on the metrics page."""
    board = dashboard()["panels"]
    assert [each["type"] for each in board[:6]] == ["stat"] * 6
    assert 20 <= len(panels()) <= 40
    rows = [each for each in board if each["type"] == "row"]
    assert len(rows) >= 5
    assert any(row["collapsed"] for row in rows), "what is asked seldom is closed at first"
    assert all(row["collapsed"] == bool(row["panels"]) for row in rows), "as Grafana keeps them"
    documented = page("docs/metrics.md")
    assert [name for name in METRICS if f"`{name}`" not in documented] == []


def test_the_dashboard_is_one_that_grafana_reads() -> None:
    board = dashboard()
    assert board["uid"] == "zuebee"
    assert board["schemaVersion"] >= 38
    ids = [panel["id"] for panel in [*panels(), *(each for each in board["panels"] if each["type"] == "row")]]
    assert len(set(ids)) == len(ids)
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, f"{panel['title']} covers another panel"
        assert max(x for x, _ in own) < 24
        cells |= own
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}


def test_a_query_for_what_is_not_there_is_seen() -> None:
    assert unknown_in("sum by (le) (rate(llmproxy_latency_ms_bucket{path='/x'}[5m]))") == set()
    assert unknown_in("zuebee_nothing") == {"zuebee_nothing"}
    assert unknown_in("llmproxy_latency_ms") == {"llmproxy_latency_ms"}
    assert unknown_in('zuebee_ready{key="a", instance=~".*"}') == {"zuebee_ready: key"}
    assert unknown_in("sum by (user) (zuebee_ready)") == {"by user"}


@pytest.mark.requirement("A346")
def test_prometheus_scrapes_the_service() -> None:
    (job,) = yaml.safe_load(page("deploy/prometheus/prometheus.yml"))["scrape_configs"]
    assert job["job_name"] == "zuebee"
    assert job["metrics_path"] in {route.path for route in ROUTES}
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8000"]}]
    assert "scheme" not in job


def test_prometheus_alerts_on_metrics_that_exist() -> None:
    assert yaml.safe_load(page("deploy/prometheus/prometheus.yml"))["rule_files"] == ["alerts.yml"]
    (group,) = yaml.safe_load(page("deploy/prometheus/alerts.yml"))["groups"]
    wrong = {rule["alert"]: found for rule in group["rules"] if (found := unknown_in(rule["expr"]))}
    assert wrong == {}
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"]) > 10
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"]["summary"]


def test_grafana_finds_its_data_source_and_its_dashboard() -> None:
    folder = "deploy/grafana/provisioning"
    (source,) = yaml.safe_load(page(f"{folder}/datasources/prometheus.yaml"))["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "${PROMETHEUS_URL}")
    (provider,) = yaml.safe_load(page(f"{folder}/dashboards/zuebee.yaml"))["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "${ZUEBEE_DASHBOARDS}")
    assert (ROOT / DASHBOARD).is_file()


@pytest.mark.requirement("A352")
def test_the_queries_on_the_metrics_page_use_metrics_that_exist() -> None:
    (text,) = blocks(page("docs/metrics.md"), "promql")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) >= 10
    assert {line: wrong for line in lines if (wrong := unknown_in(line))} == {}
