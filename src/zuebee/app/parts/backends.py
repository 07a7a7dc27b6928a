"""The model servers: kept over reloads, probed, asked for their models, and chosen from."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

from zuebee.app.parts.base import Change, Part
from zuebee.config.providers import PROVIDERS, Spoken
from zuebee.config.settings import BackendSettings, RoutingSettings, Settings
from zuebee.contracts.inference import Head, Job
from zuebee.dispatch.balancer import Backend
from zuebee.dispatch.pool import BackendPool, Member, ModelList, Reachable, describe
from zuebee.dispatch.request_queue import RequestQueue
from zuebee.dispatch.service import Dispatcher
from zuebee.lib import clock
from zuebee.lib.tasks import Tasks
from zuebee.models.estimate import PromptSizes
from zuebee.models.service import BackendInference
from zuebee.telemetry.metrics import Metrics

MODELS_EVERY_S = 30.0
MAX_COUNTING = 4
MAX_COUNTING_IN_ALL = 64
"""Requests that ask a backend to count tokens at once, of one key and of all; others get an estimate."""


def spoken_by(member: Member) -> tuple[Spoken, ...]:
    """The dialects that a backend speaks."""
    return member.settings.dialects or PROVIDERS[member.settings.type].dialects


class BackendsPart(Part):
    """`dispatcher` is replaced by new settings, at first by those of the start; before, it has no backend.

    `models` knows what the servers list, `sizes` how long prompts become as tokens.
    """

    def __init__(self, settings: Settings) -> None:
        self.sizes = PromptSizes()
        self._counting: Counter[str] = Counter()
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

    async def count_tokens(self, job: Job) -> bytes | None:
        """What a backend answers that speaks the client's dialect itself; None: none does, or it has no time.

        Counting is free, so it is bounded for each key; and what becomes of it says nothing about the backend, else
        one caller could have it rested for all.
        """
        now_s, key = clock.monotonic_s(), "" if job.sender is None else job.sender.key_id
        able = (
            each for each in self._pool.members if each.backend.serves(job.model) and job.dialect in spoken_by(each)
        )
        member = next((each for each in able if each.backend.health.fit(now_s)), None)
        if member is None or self._counting[key] >= MAX_COUNTING or self._counting.total() >= MAX_COUNTING_IN_ALL:
            return None
        self._counting[key] += 1
        try:
            head, rest = await member.inference.run(job)
        finally:
            self._counting[key] -= 1
            self._counting += Counter()  # which drops those at zero
        if rest is not None:
            await rest.aclose()
        return head.rest[0] if isinstance(head, Head) and head.status == 200 and head.rest is not None else None

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
