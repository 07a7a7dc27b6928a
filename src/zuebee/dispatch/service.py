"""Chooses a backend for each job, tries again where that may help, and learns from how it went.

A retry happens only before anything of an answer was passed on. Another backend is tried at once; the same one only
after a wait. When no try helped, the last real answer is the answer.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from functools import partial
from typing import Final

from zuebee.config import RoutingSettings
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import End, Event, Events, Head, Job, Reply
from zuebee.dispatch.backend import Backend
from zuebee.dispatch.balancer import CHOOSERS, fit, matches
from zuebee.dispatch.following import begun, follow
from zuebee.dispatch.retry import OVERLOADED, RetryBudget, backoff_s, is_failure, retry_after_s, worth_a_retry
from zuebee.dispatch.turns import Turns, Visit
from zuebee.kit import clock

_log: Final = logging.getLogger("zuebee.dispatch")

DEFAULT_COOLDOWN_S: Final = 1.0


class Dispatcher:
    """An `Inference` over several backends. On reload it is replaced as a whole; running jobs keep the old one.

    `turns` hands out the places of bounded backends, and outlives it.
    """

    def __init__(self, backends: Sequence[Backend], routing: RoutingSettings, turns: Turns | None = None) -> None:
        self.backends = list(backends)
        self._retry = routing.retry
        self._chooser = CHOOSERS[routing.load_balance]()
        self._by_latency = routing.load_balance == "latency_based"
        self._budget = RetryBudget(routing.retry.budget_percent)
        by_url = {backend.url.rstrip("/"): backend for backend in backends}
        self._chains = [
            (rule.models, [by_url[url.rstrip("/")] for url in (rule.primary, *rule.fallback)])
            for rule in routing.fallback
        ]
        self._turns = Turns(routing.queue) if turns is None else turns
        self._bounded = any(backend.load.limit is not None for backend in backends)
        self._alike = not self._chains and not any(backend.selective for backend in backends)

    async def run(self, job: Job) -> Reply:
        """See `Inference.run`."""
        candidates, chained = self._candidates(job.model)
        if not candidates:
            return End(refusal=_no_such_model(job.model), sent=False, attempts=0), None
        tried: list[Backend] = []
        budget = self._budget
        budget.running += 1
        visit = self._visit(job, candidates, tried) if self._bounded else None
        holding = 0  # a place in the budget, held from the decision to try again until that try has begun its answer
        followed: Events | None = None  # it gives the places back when it ends
        try:
            while True:
                if visit is None:
                    backend = self._pick(candidates, chained, tried, job.model)
                else:
                    backend = await self._enter(visit, chained, tried)
                started_s = clock.monotonic_s() if self._by_latency else 0.0
                if not isinstance(backend, Backend):
                    return backend, None
                tried.append(backend)
                wait_s = None
                try:
                    first, rest = await backend.inference.run(job)
                    budget.retrying -= holding
                    holding = 0
                    failed = is_failure(first)
                    if failed:
                        wait_s = self._retry_wait_s(backend, job.model, first, candidates, tried)
                    elif self._by_latency:
                        now_s = clock.monotonic_s()
                        backend.observe(now_s - started_s, now_s)
                    if wait_s is None:
                        first.attempts = len(tried)
                        if rest is not None:
                            followed = await begun(follow(rest, partial(self._over, backend, failed=failed)))
                        elif not failed:
                            self._note_end(backend, first.rest[1] if isinstance(first, Head) and first.rest else first)
                        return first, followed
                    budget.retrying += 1
                    holding = 1
                    if rest is not None:
                        await rest.aclose()
                finally:
                    if followed is None:
                        self._leave(backend)
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
        finally:
            budget.retrying -= holding
            if followed is None:
                budget.running -= 1

    def _over(self, backend: Backend, last: Event, *, failed: bool) -> None:
        """An answer that was passed on ended with this."""
        if not failed:
            self._note_end(backend, last)
        self._leave(backend)
        self._budget.running -= 1

    def _leave(self, backend: Backend) -> None:
        if self._bounded:
            self._turns.leave(backend)
        else:
            backend.load.in_flight -= 1

    def _candidates(self, model: str) -> tuple[list[Backend], bool]:
        """The backends for a model, and whether they are to be tried in just this order."""
        if self._alike:
            return self.backends, False
        for models, chain in self._chains:
            if not models or any(matches(pattern, model) for pattern in models):
                return chain, True
        return [backend for backend in self.backends if backend.serves(model)], False

    def _pick(self, candidates: list[Backend], chained: bool, tried: list[Backend], model: str) -> Backend | End:
        """The backend for the next try, with a place taken there."""
        backend = candidates[0]
        if len(candidates) > 1:
            backend = self._choose(candidates, chained, tried, model)
        if not tried and (cooling_s := backend.cooling_s(model, clock.monotonic_s())):
            return End(refusal=_cooling(cooling_s), sent=False, backend=backend.name, attempts=0)
        backend.load.in_flight += 1
        return backend

    def _choose(self, candidates: list[Backend], chained: bool, tried: list[Backend], model: str) -> Backend:
        now_s = clock.monotonic_s()
        nodes = _welcome(candidates, tried, model, now_s)
        if not nodes:
            return min(candidates, key=lambda backend: backend.cooling_s(model, now_s))
        return self._chosen(nodes, chained, now_s)

    def _chosen(self, nodes: Sequence[Backend], chained: bool, now_s: float) -> Backend:
        chosen = nodes[0] if chained else self._chooser.choose(nodes, now_s)
        assert isinstance(chosen, Backend)
        return chosen

    def _visit(self, job: Job, candidates: list[Backend], tried: list[Backend]) -> Visit:
        return self._turns.visit(job, candidates, lambda: _welcome(candidates, tried, job.model, clock.monotonic_s()))

    async def _enter(self, visit: Visit, chained: bool, tried: list[Backend]) -> Backend | End:
        """As `_pick`, where backends are bounded: waits in the line until one has a place."""
        turns, job = self._turns, visit.job
        turns.hand_out()  # who waits goes first
        now_s = clock.monotonic_s()
        nodes = visit.welcome()
        if not nodes and not tried:
            backend = min(visit.backends, key=lambda backend: backend.cooling_s(job.model, now_s))
            refusal = _cooling(backend.cooling_s(job.model, now_s))
            return End(refusal=refusal, sent=False, backend=backend.name, attempts=0)
        if free := [backend for backend in nodes if backend.load.free]:
            backend = self._chosen(free, chained, now_s)
            backend.load.in_flight += 1
            return backend
        lane = (job.model, *map(id, visit.backends), None, *map(id, tried))
        job.waiting = not tried
        self._budget.running -= 1  # who waits is no reason for others to try again
        try:
            got = await turns.wait(visit, lane)
        finally:
            self._budget.running += 1
        job.waiting = False
        if isinstance(got, Backend):
            return got
        return End(refusal=got, sent=bool(tried), attempts=len(tried))

    def _retry_wait_s(
        self, backend: Backend, model: str, first: Head | End, candidates: list[Backend], tried: list[Backend]
    ) -> float | None:
        """Learn from a try that failed. How long to wait before the next one, or None if this is the answer."""
        now_s = clock.monotonic_s()
        self._note_failure(backend, model, first, now_s)
        settings = self._retry
        if not settings.enabled or len(tried) > settings.max_retries:
            return None
        if not worth_a_retry(first, settings):
            return None
        others = [other for other in candidates if other not in tried and not other.cooling_s(model, now_s)]
        # What a dying backend drops is taken over outside the budget: the others get no more than its own share.
        dropped = isinstance(first, End) and first.cause in ("connect_failure", "broken")
        takeover = dropped and any(other.health.fit(now_s) for other in others)
        if not takeover and not self._budget.allows():
            return None
        if others:
            return 0.0
        if isinstance(first, End) and first.cause == "unwelcome":
            return None
        wait_s = max(backoff_s(len(tried), settings, random.random()), backend.cooling_s(model, now_s))
        return wait_s if wait_s <= settings.max_wait_s else None

    def _note_failure(self, backend: Backend, model: str, first: Head | End, now_s: float) -> None:
        if isinstance(first, Head) and first.status in OVERLOADED:
            asked_s = retry_after_s(first.headers, clock.wall_s())
            if asked_s is not None or first.status == 429:
                backend.cool_down(model, now_s + (DEFAULT_COOLDOWN_S if asked_s is None else asked_s))
        overloaded = isinstance(first, Head) and first.status == 429
        if not overloaded and backend.health.request_failed(now_s):
            _log.warning("backend %s is ejected: too many failures in a row", backend.name)

    def _note_end(self, backend: Backend, last: Event) -> None:
        """Only the end tells whether a reply that began well was a success; without one its reader has left."""
        if not isinstance(last, End):
            return
        now_s = clock.monotonic_s()
        if last.cause == "none":
            backend.health.request_succeeded(now_s)
        elif backend.health.request_failed(now_s):
            _log.warning("backend %s is ejected: too many answers broke off", backend.name)


def _welcome(candidates: list[Backend], tried: list[Backend], model: str, now_s: float) -> Sequence[Backend]:
    """The backends that may have the next try, by what is known of them now."""
    rested = [backend for backend in candidates if not backend.cooling_s(model, now_s)]
    fresh = [backend for backend in rested if backend not in tried]
    return fit(fresh or rested, now_s)


def _no_such_model(model: str) -> Refusal:
    return Refusal(404, "not_found_error", "model_not_found", f"No backend serves the model `{model[:200]}`.", "model")


def _cooling(wait_s: float) -> Refusal:
    message = "The model server asked to wait before the next request."
    return Refusal(429, "rate_limit_error", "backend_rate_limited", message, None, wait_s, should_retry=True)
