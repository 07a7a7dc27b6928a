"""Settings -> those who tell others of each request."""

from collections.abc import Callable, Iterable
from functools import partial
from urllib.parse import urlsplit

from zuebee.app.store import store_database
from zuebee.config import ProxySettings, ReporterSettings, Settings
from zuebee.kit import clock
from zuebee.kit.http_connect import bypasses_proxy, port_of
from zuebee.telemetry.budgets import BalanceLike, BudgetGauges
from zuebee.telemetry.metrics import Metrics
from zuebee.usage.database import DatabaseSink
from zuebee.usage.gate import OutboxGate
from zuebee.usage.outbox import Outbox
from zuebee.usage.service import Planned, Reporter, Reporting, Sink
from zuebee.usage.webhook import WebhookSink

CONNECTIONS = 10
"""To the outbox, at most; they are opened as they are needed, and reporters come and go while the process runs."""


class ReportingPlan:
    """Makes the reporters that settings ask for."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def of(self, settings: Settings) -> list[Planned]:
        """Those that are on. To make one raises OSError or ValueError."""
        usage = settings.usage
        return [
            Planned(each.name, (each, settings.proxy), partial(self._make, each, settings.proxy))
            for each in (usage.reporters if usage.enabled else ())
            if each.enabled and each.type != "builtin"
        ]

    def _make(self, reporter: ReporterSettings, proxies: ProxySettings) -> Reporter:
        return Reporter(reporter.name, reporter.type, _sink(reporter, proxies), self._outbox)


def build_reporting(settings: Settings) -> tuple[Reporting, ReportingPlan]:
    """All reporters that are on, and what makes others. They begin with `start`. Raises OSError or ValueError."""
    usage = settings.usage
    database = store_database(settings.store, max_connections=CONNECTIONS)
    outbox = Outbox(database)
    gate = OutboxGate(outbox, usage.max_outbox, refuse=usage.when_full == "refuse")
    plan = ReportingPlan(outbox)
    return Reporting(plan.of(settings), gate, usage.drain_s, close=database.close), plan


def lend_reporting(reporting: Reporting, metrics: Metrics) -> None:
    """Let the metrics show how the reporters stand."""
    metrics.lend("llmproxy_webhook_success_total", reporting.successes)
    metrics.lend("llmproxy_webhook_failure_total", reporting.failures)
    metrics.lend("zuebee_usage_deliveries_total", reporting.deliveries)
    metrics.lend("zuebee_usage_reporter_state", reporting.states)
    gate = reporting.gate
    metrics.lend("zuebee_usage_outbox_events", gate.sizes)
    metrics.lend("zuebee_usage_outbox_oldest_seconds", gate.ages)
    metrics.lend("zuebee_usage_outbox_parked", gate.parked)
    metrics.lend("zuebee_usage_outbox_fill", gate.fill)
    metrics.lend("zuebee_usage_outbox_alarm", gate.alarm)
    metrics.lend("zuebee_usage_outbox_counted_at_seconds", gate.counted_at)
    metrics.lend("zuebee_usage_outbox_counts_failed_total", gate.failures)
    metrics.lend("zuebee_usage_events_dropped_total", gate.lost)


def lend_budgets(balances: Callable[[], Iterable[BalanceLike]], metrics: Metrics, max_accounts: int) -> BudgetGauges:
    """Let the metrics show what is left in budgets."""
    gauges = BudgetGauges(balances, max_accounts, clock.wall_s)
    metrics.lend("zuebee_budget_granted", gauges.granted)
    metrics.lend("zuebee_budget_remaining", gauges.remaining)
    metrics.lend("zuebee_budgets", gauges.states)
    return gauges


def _sink(reporter: ReporterSettings, proxies: ProxySettings) -> Sink:
    if reporter.type == "database":
        return DatabaseSink(reporter)
    parts = urlsplit(reporter.url or "")
    proxy = proxies.https if parts.scheme == "https" else proxies.http
    return WebhookSink(
        reporter, None if bypasses_proxy(parts.hostname or "", proxies.no_proxy, port_of(parts)) else proxy
    )
