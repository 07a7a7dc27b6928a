"""Those who tell others of each request."""

from functools import partial

from zuebee.app.connect import store_database
from zuebee.app.parts.base import Change, Part
from zuebee.config.settings import ProxySettings, Settings
from zuebee.config.settings_billing import ReporterSettings
from zuebee.lib.tasks import Tasks
from zuebee.telemetry.metrics import Metrics
from zuebee.usage.database import DatabaseSink
from zuebee.usage.gate import OutboxGate
from zuebee.usage.outbox import Outbox
from zuebee.usage.service import Planned, Reporter, ReporterSink, Reporting
from zuebee.usage.webhook import WebhookSink

EVENT_CONNECTIONS = 10
"""To the outbox, at most; they are opened as they are needed, and reporters come and go while the process runs."""


class ReportingPart(Part):
    """All reporters that are on. Those that new settings change are made anew."""

    def __init__(self, settings: Settings) -> None:
        usage = settings.usage
        database = store_database(settings.store, max_connections=EVENT_CONNECTIONS)
        self._outbox = Outbox(database)
        gate = OutboxGate(self._outbox, usage.outbox_capacity, refuse=usage.on_outbox_full == "refuse")
        self.service = Reporting(self._planned(settings), gate, usage.drain_s, close=database.close)

    def lend(self, metrics: Metrics) -> None:
        service, gate = self.service, self.service.gate
        metrics.lend("llmproxy_webhook_success_total", service.successes)
        metrics.lend("llmproxy_webhook_failure_total", service.failures)
        metrics.lend("zuebee_usage_deliveries_total", service.deliveries)
        metrics.lend("zuebee_usage_reporter_state", service.states)
        metrics.lend("zuebee_usage_outbox_events", gate.sizes)
        metrics.lend("zuebee_usage_outbox_oldest_seconds", gate.ages)
        metrics.lend("zuebee_usage_outbox_parked", gate.parked)
        metrics.lend("zuebee_usage_outbox_fill", gate.fill)
        metrics.lend("zuebee_usage_outbox_alarm", gate.alarm)
        metrics.lend("zuebee_usage_outbox_counted_at_seconds", gate.counted_at)
        metrics.lend("zuebee_usage_outbox_counts_failed_total", gate.failures)
        metrics.lend("zuebee_usage_events_dropped_total", gate.lost)

    def begin(self, tasks: Tasks) -> None:
        self.service.start()

    def prepare(self, settings: Settings) -> Change:
        planned = self._planned(settings)
        made = self.service.make(planned)

        async def drop() -> None:
            for reporter in made:
                await reporter.aclose()

        return Change(lambda: self.service.change(planned, made), drop)

    async def aclose(self) -> None:
        await self.service.aclose()

    def _planned(self, settings: Settings) -> list[Planned]:
        """Those that are on. To make one raises OSError or ValueError."""
        usage = settings.usage
        return [
            Planned(each.name, (each, settings.proxy), partial(self._make, each, settings.proxy))
            for each in (usage.reporters if usage.enabled else ())
            if each.enabled and each.type != "builtin"
        ]

    def _make(self, reporter: ReporterSettings, proxies: ProxySettings) -> Reporter:
        return Reporter(reporter.name, reporter.type, _sink(reporter, proxies), self._outbox)


def _sink(reporter: ReporterSettings, proxies: ProxySettings) -> ReporterSink:
    if reporter.type == "database":
        return DatabaseSink(reporter)
    return WebhookSink(reporter, proxies.of(reporter.url or ""))
