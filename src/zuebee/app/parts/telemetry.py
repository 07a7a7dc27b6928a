"""What is told of requests: metrics, the access log, and how much the process log says."""

from collections.abc import Callable, Iterable

from zuebee.app.parts.base import Change, Part
from zuebee.config.settings import Settings
from zuebee.contracts.admission import Recorder
from zuebee.telemetry import logs
from zuebee.telemetry.access_log import AccessLog
from zuebee.telemetry.metrics import Metrics


class TelemetryPart(Part):
    """`recorders` are told of each request. `usage_dropped`: how many usage records were not written."""

    def __init__(self, settings: Settings, usage_dropped: Callable[[], float]) -> None:
        self.metrics = Metrics(settings.metrics.max_models, settings.metrics.max_accounts)
        self._access_log = None if settings.log.access == "off" else AccessLog(settings.log.access)
        self._usage_dropped = usage_dropped
        self.recorders: list[Recorder] = [self.metrics]
        if self._access_log is not None:
            self.recorders.append(self._access_log)

    def lend(self, metrics: Metrics) -> None:
        metrics.lend("zuebee_records_dropped_total", self._dropped)

    def prepare(self, settings: Settings) -> Change:
        def commit() -> None:
            logs.set_level(settings.log)
            self.metrics.bound(settings.metrics.max_models, settings.metrics.max_accounts)

        return Change(commit)

    async def aclose(self) -> None:
        if self._access_log is not None:
            self._access_log.close()

    def reopen_logs(self) -> None:
        """Write to new files where the old ones were moved away. Raises OSError."""
        if self._access_log is not None:
            self._access_log.reopen()

    def _dropped(self) -> Iterable[tuple[tuple[str, ...], float]]:
        yield ("usage",), self._usage_dropped()
        if self._access_log is not None:
            yield ("access_log",), self._access_log.dropped
