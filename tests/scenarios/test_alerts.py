"""What alerts read is there from the start: an increase from nothing to one is none for Prometheus."""

import re
from collections.abc import Iterator

import pytest
import yaml

from tests.support.pages import page
from tests.support.processes import Gateway, Sim, running, simulated
from zuebee.telemetry.metrics import METRICS

ONLY_WITH_EVENTS = {"zuebee_budgets", "zuebee_usage_outbox_oldest_seconds", "zuebee_usage_outbox_parked"}
"""Gauges of what there may be none of: an account, an event that waits."""


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim")) as process:
        yield process


@pytest.fixture(scope="module")
def gateway(sim: Sim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {
        "backends": [{"url": sim.url}],
        "usage": {"reporters": [{"name": "hook", "type": "webhook", "url": "http://127.0.0.1:9/hook"}]},
        "auth": {"pipeline": [{"type": "file", "name": "own", "script": "function decide() return {allow=true} end"}]},
    }
    with running(tmp_path_factory.mktemp("gateway"), config) as process:
        yield process


def test_a_fresh_gateway_shows_what_alerts_read(gateway: Gateway) -> None:
    shown = gateway.get("/metrics")[1].decode().splitlines()
    asked = re.findall(r"\b((?:zuebee|llmproxy)_\w+)(\{[^}]*\})?", _expressions())
    assert len(asked) > 15
    missing = [name for name, labels in asked if not any(_fits(line, name, labels) for line in shown)]
    assert set(missing) <= ONLY_WITH_EVENTS
    assert all(METRICS[name].kind == "gauge" for name in missing)


def _expressions() -> str:
    groups = yaml.safe_load(page("deploy/prometheus/alerts.yml"))["groups"]
    return "\n".join(rule["expr"] for group in groups for rule in group["rules"])


def _fits(line: str, name: str, labels: str) -> bool:
    if not re.match(rf"{name}[{{ ]", line):
        return False
    return all(re.search(rf'\b{label}="{value}"', line) for label, value in re.findall(r'(\w+)=~?"([^"]*)"', labels))
