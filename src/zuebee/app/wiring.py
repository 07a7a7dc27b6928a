"""Settings -> a platform. What a process has, what is plugged into what, and in which order, is decided here."""

from zuebee.app.auth import needs_store, warn_of_unasked_keys
from zuebee.app.parts.auth import AuthPart
from zuebee.app.parts.backends import BackendsPart
from zuebee.app.parts.base import Change, Part
from zuebee.app.parts.billing import BillingPart
from zuebee.app.parts.idempotency import IdempotencyPart
from zuebee.app.parts.limits import LimitsPart, same_limiter
from zuebee.app.parts.listeners import ListenersPart
from zuebee.app.parts.reporting import ReportingPart
from zuebee.app.parts.requests import AdmissionPart, RequestsPart
from zuebee.app.parts.store import DatabasePart, WatchesPart
from zuebee.app.parts.telemetry import TelemetryPart
from zuebee.config.restart import fixed_changes
from zuebee.config.settings import Settings
from zuebee.config.validate import listen_address
from zuebee.edge.operator import Readiness
from zuebee.lib import clock
from zuebee.lib.tasks import Tasks
from zuebee.schema.currency import OtherCurrency


class CannotReload(Exception):
    """New settings that differ where a running process cannot follow: `restart` names them."""

    def __init__(self, reason: str, restart: list[str]) -> None:
        super().__init__(reason)
        self.restart = restart


class Platform:
    """All parts of one process. Made from settings that were checked; `apply` first, then serve."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.draining = False
        self._database = database = DatabasePart(settings)
        reporting = ReportingPart(settings)
        self._billing = billing = BillingPart(settings, reporting.service, database.database)
        self._limits = limits = LimitsPart(settings)
        self._telemetry = telemetry = TelemetryPart(settings, lambda: billing.service.ledger.dropped)
        self.metrics = telemetry.metrics
        auth = AuthPart(settings, database.keys)
        self._backends = backends = BackendsPart(settings)
        admission = AdmissionPart(
            settings, auth=auth, limits=limits, billing=billing, backends=backends, recorders=telemetry.recorders
        )
        self._watches = watches = WatchesPart(database.database, database.keys, lambda: billing.service.ledger.trouble)
        idempotency = IdempotencyPart(settings)
        requests = RequestsPart(settings, admission, backends, idempotency)
        self.pipeline = requests.pipeline
        self.listeners = ListenersPart(settings, self.pipeline, backends, self.metrics, self.readiness)
        # They begin and follow new settings in this order, and close in reverse: first the listeners, then requests,
        # then what requests use, the ledger before the reporters of what it wrote. The access log, which was opened
        # after the store, is closed last: until then somebody may write a line.
        self._parts: tuple[Part, ...] = (
            telemetry,
            database,
            reporting,
            billing,
            limits,
            auth,
            idempotency,
            backends,
            admission,
            requests,
            watches,
            self.listeners,
        )
        for part in self._parts:
            part.lend(self.metrics)

    async def apply(self, settings: Settings) -> None:
        """Put settings in force, at once and as a whole. Running requests keep what they began with.

        Raises CannotReload, OSError or ValueError, and then nothing has changed.
        """
        self.check(settings)
        changes: list[Change] = []
        try:
            for part in self._parts:
                changes.append(part.prepare(settings))
        except BaseException:
            for change in changes:
                await change.drop()
            raise
        for change in changes:
            change.commit()
        self.settings = settings
        await self._billing.read_prices()
        await warn_of_unasked_keys(settings, self._database.keys)

    def check(self, settings: Settings) -> None:
        """Whether these settings could be put in force. Raises CannotReload."""
        ours, theirs = self.settings.billing.currency, settings.billing.currency
        if theirs != ours:
            other = OtherCurrency(ours, theirs, "a running server keeps its currency")
            raise CannotReload(str(other), ["billing.currency"])
        changed = fixed_changes(self.settings, settings)
        if changed:
            raise CannotReload(f"{', '.join(changed)} cannot change in a running process; restart it", changed)
        if listen_address(settings) != listen_address(self.settings):
            # Without keys and without a host only the loopback is served, but the socket is bound already.
            reason = "with the first key, or without the last, `listen` means another address; restart it"
            raise CannotReload(reason, ["listen"])
        if not same_limiter(settings, self.settings):
            reason = "rate_limit.storage and processes cannot change in a running process; restart it"
            raise CannotReload(reason, ["rate_limit.storage", "rate_limit.processes"])

    def begin(self, tasks: Tasks) -> None:
        """Start what the parts do by themselves. `tasks` are closed before the platform."""
        for part in self._parts:
            part.begin(tasks)

    def reopen_logs(self) -> None:
        """Write to new files where the old ones were moved away. Raises OSError."""
        self._telemetry.reopen_logs()

    async def aclose(self) -> None:
        """Take no more connections, stop probing, and write what waits."""
        for part in reversed(self._parts):
            await part.aclose()

    def readiness(self) -> Readiness:
        """Whether requests can be served."""
        backends = self._backends.backends
        fit = sum(backend.health.fit(clock.monotonic_s()) for backend in backends)
        if self.draining:
            return Readiness(False, "shutting down", fit, len(backends))
        # Those that failed in requests are tried all the same where there is no other one.
        if all(backend.health.probed_down for backend in backends):
            return Readiness(False, "no backend answers its probes", fit, len(backends))
        watch = self._watches.store
        if watch.trouble and needs_store(self.settings, has_keys=watch.has_keys):
            return Readiness(False, f"the store cannot be used: {watch.trouble}", fit, len(backends))
        # Policy decides meanwhile (`on_store_down`), so requests are served.
        return Readiness(True, "limits without Redis" if self._limits.limiter.degraded else "", fit, len(backends))
