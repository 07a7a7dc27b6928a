"""What each request passes: whether it may run, and the pipeline that runs it."""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable

from zuebee.admission.firewall import Counts, OpenFirewall, RuleFirewall
from zuebee.admission.service import AdmissionService
from zuebee.app.parts.auth import AuthPart
from zuebee.app.parts.backends import BackendsPart
from zuebee.app.parts.base import Change, Part
from zuebee.app.parts.billing import BillingPart
from zuebee.app.parts.idempotency import IdempotencyPart
from zuebee.app.parts.limits import LimitsPart
from zuebee.app.watches import KnownModels
from zuebee.config.settings import Settings
from zuebee.contracts.admission import Firewall, Recorder
from zuebee.edge.pipeline import Pipeline
from zuebee.lib.tasks import Tasks
from zuebee.telemetry.metrics import PRIORITIES, Metrics

PATIENCE_S = 0.05
"""Most bodies come right behind their head, and a place in Redis takes a call."""

_log = logging.getLogger("zuebee")


class AdmissionPart(Part):
    """Lets requests in, or refuses them. It changes after `auth`, whose authenticator it asks."""

    def __init__(
        self,
        settings: Settings,
        *,
        auth: AuthPart,
        limits: LimitsPart,
        billing: BillingPart,
        backends: BackendsPart,
        recorders: list[Recorder],
    ) -> None:
        self._auth = auth
        self._matches: Counts = {}
        models = backends.models
        self.service = AdmissionService(
            authenticator=auth.authenticator,
            firewall=build_firewall(settings, self._matches),
            limiter=limits.limiter,
            billing=billing.service,
            recorders=recorders,
            sizes=backends.sizes.sizes,
            facts=KnownModels(settings, lambda: models.facts, billing.listed_context).of,
            served=models.serves,
            default_output_tokens=settings.billing.default_output_tokens,
            max_output_tokens=settings.billing.max_output_tokens,
        )

    def lend(self, metrics: Metrics) -> None:
        metrics.lend("zuebee_firewall_matches_total", self._matches.items)

    def prepare(self, settings: Settings) -> Change:
        firewall = build_firewall(settings, self._matches)

        def commit() -> None:
            self.service.authenticator = self._auth.authenticator
            self.service.firewall = firewall

        return Change(commit)


class RequestsPart(Part):
    """The pipeline, and what looks after the requests in it. It changes after `backends`, whose dispatcher it asks."""

    def __init__(
        self, settings: Settings, admission: AdmissionPart, backends: BackendsPart, idempotency: IdempotencyPart
    ) -> None:
        self._backends = backends
        self._interval_s = settings.billing.renew_interval_s
        self.pipeline = Pipeline(
            admission.service, backends.dispatcher, idempotency.replays, settings.stream.keepalive_interval_s
        )
        if settings.rate_limit.storage == "redis":
            self.pipeline.patience_s = PATIENCE_S

    def lend(self, metrics: Metrics) -> None:
        pipeline = self.pipeline
        metrics.lend("zuebee_requests_running", lambda: [((), len(pipeline.running))])
        metrics.lend("zuebee_requests_detached", lambda: [((), pipeline.disconnects.running)])
        metrics.lend("zuebee_priority_running", self._running_by_priority)

    def begin(self, tasks: Tasks) -> None:
        tasks.spawn(self._attend(), "attend")

    def prepare(self, settings: Settings) -> Change:
        def commit() -> None:
            self.pipeline.inference = self._backends.dispatcher
            self.pipeline.disconnects.rules = settings.on_disconnect
            self.pipeline.aliases = settings.routing.aliases

        return Change(commit)

    async def aclose(self) -> None:
        await self.pipeline.tasks.aclose()

    async def _attend(self) -> None:
        """Look after running requests: their holds, their leases, their keys."""
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.pipeline.attend()
            except Exception:
                _log.exception("running requests could not be looked after")

    def _running_by_priority(self) -> Iterable[tuple[tuple[str, ...], float]]:
        counts: Counter[str] = Counter(exchange.settlement.principal.priority for exchange in self.pipeline.running)
        return (((priority,), counts[priority]) for priority in PRIORITIES)


def build_firewall(settings: Settings, counts: Counts) -> Firewall:
    """The firewall of these settings; it goes on counting in `counts`."""
    return RuleFirewall(settings.firewall, counts) if settings.firewall.enabled else OpenFirewall()
