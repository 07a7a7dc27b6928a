"""Settings -> those who tell others of each request."""

from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from zuebee.app.store import store_database
from zuebee.config import ProxySettings, ReporterSettings, Settings
from zuebee.kit import clock
from zuebee.kit.http_connect import bypasses_proxy
from zuebee.telemetry.budgets import BalanceLike, BudgetGauges
from zuebee.telemetry.metrics import Metrics
from zuebee.usage.database import DatabaseSink
from zuebee.usage.gate import OutboxGate
from zuebee.usage.outbox import Outbox
from zuebee.usage.service import Reporter, Reporting, Sink
from zuebee.usage.webhook import WebhookSink


def reporter_names(settings: Settings) -> list[str]:
    """Who gets a row in the outbox for each usage record."""
    usage = settings.usage
    return [each.name for each in usage.reporters if each.enabled and each.type != "builtin"] if usage.enabled else []


def build_reporting(settings: Settings) -> Reporting:
    """All reporters that are on. They begin with `start`. Raises OSError or ValueError."""
    names = reporter_names(settings)
    database = store_database(settings.store, max_connections=2 + len(names))
    outbox = Outbox(database)
    usage = settings.usage
    gate = OutboxGate(outbox, usage.max_outbox, refuse=usage.when_full == "refuse")
    reporters = [
        Reporter(each.name, each.type, _sink(each, settings.proxy), outbox)
        for each in usage.reporters
        if each.name in names
    ]
    return Reporting(reporters, gate, usage.drain_s, close=database.close)


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
    metrics.lend("zuebee_usage_events_dropped_total", gate.lost)


def lend_budgets(balances: Callable[[], Iterable[BalanceLike]], metrics: Metrics, max_accounts: int) -> None:
    """Let the metrics show what is left in budgets."""
    gauges = BudgetGauges(balances, max_accounts, clock.wall_s)
    metrics.lend("zuebee_budget_granted", gauges.granted)
    metrics.lend("zuebee_budget_remaining", gauges.remaining)
    metrics.lend("zuebee_budgets", gauges.states)


def _sink(reporter: ReporterSettings, proxies: ProxySettings) -> Sink:
    if reporter.type == "database":
        return DatabaseSink(reporter)
    parts = urlsplit(reporter.url or "")
    proxy = proxies.https if parts.scheme == "https" else proxies.http
    return WebhookSink(reporter, None if bypasses_proxy(parts.hostname or "", proxies.no_proxy) else proxy)
