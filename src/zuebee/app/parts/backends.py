"""The model servers: kept over reloads, probed, asked for their models, and chosen from."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from zuebee.app.parts.base import Change, Part
from zuebee.config.providers import PROVIDERS
from zuebee.config.settings import BackendSettings, RoutingSettings, Settings
from zuebee.dispatch.balancer import Backend
from zuebee.dispatch.pool import BackendPool, ModelList, Reachable, describe
from zuebee.dispatch.request_queue import RequestQueue
from zuebee.dispatch.service import Dispatcher
from zuebee.lib import clock
from zuebee.lib.tasks import Tasks
from zuebee.models.estimate import PromptSizes
from zuebee.models.service import BackendInference
from zuebee.telemetry.metrics import Metrics

MODELS_EVERY_S = 30.0


class BackendsPart(Part):
    """`dispatcher` is replaced by new settings, at first by those of the start; before, it has no backend.

    `models` knows what the servers list, `sizes` how long prompts become as tokens.
    """

    def __init__(self, settings: Settings) -> None:
        self.sizes = PromptSizes()
        self._pool = BackendPool(self._make, {kind: fact.health_path for kind, fact in PROVIDERS.items()})
        self.models = ModelList(self._pool)
        self._request_queue = RequestQueue(settings.routing.queue)
        self.dispatcher = Dispatcher([], RoutingSettings(), self._request_queue)
        self._asks_models = settings.health_check.enabled
        self._proxy = settings.proxy
        self._stream = settings.stream

    @property
    def backends(self) -> Sequence[Backend]:
        """Those of the settings in force."""
        return self.dispatcher.backends

    def providers(self) -> list[dict[str, Any]]:
        """What may be told of each backend."""
        return describe(self._pool.members)

    def lend(self, metrics: Metrics) -> None:
        metrics.lend("zuebee_backend_healthy", self._healthy)
        metrics.lend("zuebee_backend_in_flight", lambda: (((b.name,), b.in_flight) for b in self.backends))
        metrics.lend("zuebee_queue_depth", self._request_queue.depths)
        waits = self._request_queue.waits
        metrics.lend_histograms("zuebee_queue_wait_seconds", lambda: (((p,), h) for p, h in waits.items()))

    def begin(self, tasks: Tasks) -> None:
        tasks.spawn(self._watch_models(), "models")

    def prepare(self, settings: Settings) -> Change:
        plan = self._pool.plan(settings.backends, settings.health_check)

        def commit() -> None:
            backends = self._pool.change(plan)
            self.dispatcher = Dispatcher(backends, settings.routing, self._request_queue)
            self._request_queue.apply(settings.routing.queue)
            self._asks_models = settings.health_check.enabled

        async def drop() -> None:
            self._pool.drop(plan)

        return Change(commit, drop)

    async def aclose(self) -> None:
        await self._pool.aclose()

    async def _watch_models(self) -> None:
        """Ask the servers now and then what they know of their models, for those who ask for the answers' length."""
        while True:
            if self._asks_models:
                await self.models.cards()
            await asyncio.sleep(MODELS_EVERY_S)

    def _make(self, settings: BackendSettings) -> tuple[str, Reachable]:
        name = settings.name or urlsplit(settings.url).netloc
        proxy, stream = self._proxy.of(settings.url), self._stream
        keepalive_s, event_size = stream.keepalive_interval_s, stream.max_event_size
        return name, BackendInference(settings, name, proxy, keepalive_s, self.sizes, event_size)

    def _healthy(self) -> Iterable[tuple[tuple[str, ...], float]]:
        now_s = clock.monotonic_s()
        return (((b.name,), float(b.health.fit(now_s))) for b in self.backends)
