"""Chooses a backend for each job, tries again where that may help, and learns from how it went.

A retry happens only before anything of an answer was passed on, and of what a backend may have begun only where
`retry.where_again` says so. Another backend is tried at once; the same one only after a wait. When no try helped, the
last real answer is the answer.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from functools import partial
from typing import Final, NoReturn

from zuebee.config.settings import RoutingSettings
from zuebee.contracts.errors import Refusal, no_such_model
from zuebee.contracts.inference import End, Event, Events, FailureCause, Head, Job, Reply
from zuebee.dispatch.balancer import (
    CHOOSERS,
    OVERLOADED,
    Backend,
    RetryBudget,
    backoff_s,
    fit,
    is_failure,
    retry_after_s,
    weight,
    where_again,
)
from zuebee.dispatch.following import begun, follow
from zuebee.dispatch.request_queue import QueueEntry, RequestQueue
from zuebee.lib import clock
from zuebee.lib.patterns import allowed

_log: Final = logging.getLogger("zuebee.dispatch")

DEFAULT_COOLDOWN_S: Final = 1.0
MAX_REST_S: Final = 5.0
"""Who would wait longer for a backend that asked to wait is told so."""

_LOST: Final[tuple[FailureCause, ...]] = ("connect_failure", "gone", "died")
_NOT_THERE_AGAIN: Final[tuple[FailureCause, ...]] = ("died", "unwelcome")


class Dispatcher:
    """An `Inference` over several backends. On reload it is replaced as a whole; running jobs keep the old one.

    `queue` hands out the places of bounded backends, and outlives it. `budget` counts what runs, and bounds how much of
    that may be tried again.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        routing: RoutingSettings,
        queue: RequestQueue | None = None,
        budget: RetryBudget | None = None,
    ) -> None:
        self.backends = list(backends)
        self._retry = retry = routing.retry
        self._takes_over = retry.enabled and retry.max_retries > 0 and "connect_failure" in retry.retry_on
        self._chooser = CHOOSERS[routing.load_balance]()
        self._by_latency = routing.load_balance == "latency_based"
        self._budget = RetryBudget(routing.retry.budget_percent) if budget is None else budget
        self._queue_settings = routing.queue
        self._resting = 0
        by_url = {backend.url.rstrip("/"): backend for backend in backends}
        self._chains = [
            (rule.models, [by_url[url.rstrip("/")] for url in (rule.primary, *rule.fallback)])
            for rule in routing.fallback
        ]
        self._request_queue = RequestQueue(routing.queue) if queue is None else queue
        self._bounded = any(backend.load.limit is not None for backend in backends)
        self._alike = not self._chains and not any(backend.selective for backend in backends)

    async def run(self, job: Job) -> Reply:
        candidates, chained = self._candidates(job.model)
        if not candidates:
            return End(refusal=no_such_model(job.model), sent=False, attempts=0), None
        tried: list[Backend] = []
        budget = self._budget
        budget.running += 1
        entry = self._visit(job, candidates, tried) if self._bounded else None
        holding = 0  # a place in the budget, held from the decision to try again until that try has begun its answer
        followed: Events | None = None  # it gives the places back when it ends
        standing: Reply | None = None  # of the tries that failed: what the caller is told if no other one helps
        try:
            while True:
                if entry is not None:
                    backend = await self._enter(entry, chained, tried)
                elif isinstance(backend := self._pick(candidates, chained, tried, job), End):
                    backend = await self._wait_out(job, candidates, chained, backend)
                if not isinstance(backend, Backend):
                    standing = standing or (backend, None)
                    break
                started_s = clock.monotonic_s() if self._by_latency else 0.0
                tried.append(backend)
                rested, wait_s = backend.rests and _rests_for(backend, job), None
                try:
                    first, rest = await backend.inference.run(job)
                    budget.retrying, holding = budget.retrying - holding, 0
                    if failed := is_failure(first):
                        wait_s = self._retry_wait_s(backend, job, first, candidates, tried)
                    else:
                        self._note_begin(backend, job, started_s, rested=rested, streams=rest is not None)
                    if wait_s is None and (standing is None or not failed):
                        first.attempts = len(tried)
                        if rest is not None:
                            followed = await begun(follow(rest, partial(self._over, backend, job.model, failed=failed)))
                        elif not failed:
                            self._note_end(backend, job.model, _last_of(first))
                        standing = standing and await _close(standing)
                        return first, followed
                    if wait_s is not None:
                        budget.retrying, holding = budget.retrying + 1, 1
                        candidates = _still_asked(candidates, backend, first, entry)
                finally:
                    if followed is None:
                        self._leave(backend)
                standing = await _weightier(standing, (first, rest))
                if wait_s is None:
                    break
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
            (first, rest), standing = standing, None
            first.attempts = len(tried)
            followed = None if rest is None else await begun(follow(rest, self._passed_on))
            return first, followed
        except BaseException as error:
            failure = error
        finally:
            budget.retrying -= holding
            if followed is None:
                budget.running -= 1
        return await _give_up(standing, followed, failure)

    def _note_begin(self, backend: Backend, job: Job, started_s: float, *, rested: bool, streams: bool) -> None:
        """A try went well so far. `rested`: its backend had asked this caller to wait."""
        if self._by_latency:
            _note_speed(backend, started_s)
        if rested:
            backend.warm_up(job.model)
        if streams:  # the others have ended already
            backend.health.answered_at_s = clock.monotonic_s()

    def _over(self, backend: Backend, model: str, last: Event, *, failed: bool) -> None:
        """An answer that was passed on ended with this."""
        if not failed:
            self._note_end(backend, model, last)
        self._leave(backend)
        self._budget.running -= 1

    def _passed_on(self, last: Event) -> None:
        """The same of one whose backend's place was given back before."""
        self._budget.running -= 1

    def _leave(self, backend: Backend) -> None:
        if self._bounded:
            self._request_queue.leave(backend)
        else:
            backend.load.in_flight -= 1

    def _candidates(self, model: str) -> tuple[list[Backend], bool]:
        """The backends for a model, and whether they are to be tried in just this order."""
        if self._alike:
            return self.backends, False
        for models, chain in self._chains:
            if allowed(model, models):
                return chain, True
        return [backend for backend in self.backends if backend.serves(model)], False

    def _pick(self, candidates: list[Backend], chained: bool, tried: list[Backend], job: Job) -> Backend | End:
        """The backend for the next try, with a place taken there."""
        backend = candidates[0]
        if len(candidates) > 1:
            backend = self._choose(candidates, chained, tried, job)
        if not tried and backend.rests and (refused := _asked_to_wait(backend, job)) is not None:
            return refused
        backend.load.in_flight += 1
        return backend

    async def _wait_out(self, job: Job, candidates: list[Backend], chained: bool, refused: End) -> Backend | End:
        """All backends rest: wait for the first that goes on, if that is soon."""
        until_s = clock.monotonic_s() + min(self._queue_settings.timeout_s, MAX_REST_S)
        found: Backend | End = refused
        while isinstance(found, End) and found.refusal is not None and self._resting < self._queue_settings.max_length:
            wait_s = found.refusal.retry_after_s or 0.0
            if clock.monotonic_s() + wait_s > until_s:
                break
            self._resting += 1
            self._budget.running -= 1
            job.waiting = True
            try:
                # Not all at the same moment.
                await asyncio.sleep(wait_s * random.uniform(1.0, 1.2) + 0.001)
            finally:
                job.waiting = False
                self._budget.running += 1
                self._resting -= 1
            found = self._pick(candidates, chained, [], job)
        return found

    def _choose(self, candidates: list[Backend], chained: bool, tried: list[Backend], job: Job) -> Backend:
        now_s = clock.monotonic_s()
        nodes = _welcome(candidates, tried, job, now_s)
        job.shared = self._takes_over and len(nodes) > 1
        if not nodes:
            return min(candidates, key=lambda backend: backend.cooling_s(job.model, now_s, _who(job)))
        return self._chosen(nodes, chained, now_s)

    def _chosen(self, nodes: Sequence[Backend], chained: bool, now_s: float) -> Backend:
        chosen = nodes[0] if chained else self._chooser.choose(nodes, now_s)
        assert isinstance(chosen, Backend)
        return chosen

    def _visit(self, job: Job, candidates: list[Backend], tried: list[Backend]) -> QueueEntry:
        entry = self._request_queue.entry(
            job, candidates, lambda: _welcome(entry.backends, tried, job, clock.monotonic_s())
        )
        return entry

    async def _enter(self, entry: QueueEntry, chained: bool, tried: list[Backend]) -> Backend | End:
        """As `_pick`, where backends are bounded: waits in the line until one has a place."""
        queue, job = self._request_queue, entry.job
        queue.hand_out()  # who waits goes first
        now_s = clock.monotonic_s()
        nodes = entry.welcome()
        job.shared = self._takes_over and len(nodes) > 1
        if not nodes and not tried:
            backend = min(entry.backends, key=lambda backend: backend.cooling_s(job.model, now_s, _who(job)))
            refused = _asked_to_wait(backend, job)
            if refused is None:
                nodes = [backend]
            elif not _is_soon(refused, self._queue_settings.timeout_s):
                return refused
        if free := [backend for backend in nodes if backend.load.free]:
            backend = self._chosen(free, chained, now_s)
            backend.load.in_flight += 1
            return backend
        lane = (job.model, *map(id, entry.backends), None, *map(id, tried))
        job.waiting = not tried
        self._budget.running -= 1  # who waits is no reason for others to try again
        try:
            got = await queue.wait(entry, lane)
        finally:
            self._budget.running += 1
        job.waiting = False
        if isinstance(got, Backend):
            return got
        return End(refusal=got, sent=bool(tried), attempts=len(tried))

    def _retry_wait_s(
        self, backend: Backend, job: Job, first: Head | End, candidates: list[Backend], tried: list[Backend]
    ) -> float | None:
        """Learn from a try that failed. How long to wait before the next one, or None if this is the answer."""
        now_s, model = clock.monotonic_s(), job.model
        self._note_failure(backend, job, first, now_s, alone=len(candidates) == 1, again=tried.count(backend) > 1)
        if isinstance(first, End) and first.cause == "died":
            job.doubts += 1
        settings = self._retry
        if not settings.enabled or len(tried) > settings.max_retries:
            return None
        where = where_again(first, settings, backend.retry_started_on, job.doubts)
        if where == "nowhere":
            return None
        who = _who(job)
        others = [other for other in candidates if other not in tried and not other.cooling_s(model, now_s, who)]
        # What a dying backend drops is taken over outside the budget: the others get no more than its own share.
        dropped = isinstance(first, End) and first.cause in _LOST
        takeover = dropped and any(other.health.fit(now_s) for other in others)
        if not takeover and not self._budget.allows():
            return None
        if others:
            return 0.0
        if where == "elsewhere":
            return None
        wait_s = max(backoff_s(len(tried), settings, random.random()), backend.cooling_s(model, now_s, who))
        return wait_s if wait_s <= settings.max_wait_s else None

    def _note_failure(
        self, backend: Backend, job: Job, first: Head | End, now_s: float, *, alone: bool, again: bool
    ) -> None:
        """Learn from a try that failed. `again`: this request failed there before, and counts once."""
        if isinstance(first, Head) and first.status in OVERLOADED:
            asked_s = retry_after_s(first.headers, clock.wall_s())
            if asked_s is not None or first.status == 429 or not alone:
                wait_s = DEFAULT_COOLDOWN_S if asked_s is None else asked_s
                backend.cool_down(job.model, now_s, now_s + wait_s, _who(job))
            return  # it is there, and has too much to do
        if isinstance(first, End) and first.cause == "overload" and not first.sent:
            return  # it is our own bound that was met
        if not again and backend.health.request_failed(now_s, others=self._others(backend, job.model, now_s)):
            _log.warning("backend %s is ejected: too many failures in a row", backend.name)

    def _others(self, backend: Backend, model: str, now_s: float) -> bool:
        """Whether another one could take its requests."""
        return any(other is not backend and other.health.fit(now_s) for other in self._candidates(model)[0])

    def _note_end(self, backend: Backend, model: str, last: Event) -> None:
        """Only the end tells whether a reply that began well was a success; without one its reader has left."""
        if not isinstance(last, End):
            return
        now_s = clock.monotonic_s()
        if last.cause == "none":
            if backend.health.request_succeeded(now_s):
                _log.info("backend %s is back: it answers", backend.name)
        elif backend.health.request_failed(now_s, others=self._others(backend, model, now_s)):
            _log.warning("backend %s is ejected: too many answers broke off", backend.name)


def _who(job: Job) -> str:
    return "" if job.sender is None else job.sender.key_id


def _rests_for(backend: Backend, job: Job) -> bool:
    return backend.cooling_s(job.model, clock.monotonic_s(), _who(job)) > 0


def _asked_to_wait(backend: Backend, job: Job) -> End | None:
    """The answer to a job whose backend wants to be left alone; None: it does not, or one shall find out if it does."""
    now_s = clock.monotonic_s()
    cooling_s = backend.cooling_s(job.model, now_s, _who(job))
    if not cooling_s or backend.takes_trial(job.model, now_s):
        return None
    return End(refusal=_cooling(cooling_s), sent=False, backend=backend.name, attempts=0)


def _is_soon(refused: End, timeout_s: float) -> bool:
    assert refused.refusal is not None
    return (refused.refusal.retry_after_s or 0.0) <= min(timeout_s, MAX_REST_S)


def _welcome(candidates: Sequence[Backend], tried: list[Backend], job: Job, now_s: float) -> Sequence[Backend]:
    """The backends that may have the next try, by what is known of them now."""
    model, who = job.model, _who(job)
    rested = [backend for backend in candidates if not backend.cooling_s(model, now_s, who)]
    fresh = [backend for backend in rested if backend not in tried]
    return fit(fresh or rested, now_s)


def _last_of(first: Head | End) -> Event:
    """The end of an answer that is all there."""
    return first.rest[1] if isinstance(first, Head) and first.rest else first


def _note_speed(backend: Backend, started_s: float) -> None:
    now_s = clock.monotonic_s()
    backend.observe(now_s - started_s, now_s)


def _still_asked(
    candidates: list[Backend], backend: Backend, first: Head | End, entry: QueueEntry | None
) -> list[Backend]:
    """The candidates of the next try: not one that was lost with the request, or will have none of us."""
    if isinstance(first, Head) or first.cause not in _NOT_THERE_AGAIN:
        return candidates
    if first.cause == "died" and "broken" in backend.retry_started_on:
        return candidates
    left = [other for other in candidates if other is not backend]
    if entry is not None:
        entry.backends = left
    return left


async def _weightier(standing: Reply | None, reply: Reply) -> Reply:
    """Of two failed tries the one that the caller is to be told of; the other one is closed."""
    if standing is None or weight(reply[0]) >= weight(standing[0]):
        await _close(standing)
        return reply
    await _close(reply)
    return standing


async def _give_up(standing: Reply | None, followed: Events | None, failure: BaseException) -> NoReturn:
    """Close what a job has begun that is called off, and raise why.

    Not in the handler: what is compiled may not wait while an exception is on its way (`closing` in edge/prelude.py).
    """
    if standing is not None:
        await _close(standing)
    if followed is not None:
        await followed.aclose()
    raise failure


async def _close(reply: Reply | None) -> Reply | None:
    """Close a reply; None: there is none any more."""
    if reply is not None and reply[1] is not None:
        await reply[1].aclose()
    return None


def _cooling(wait_s: float) -> Refusal:
    message = "The model server asked to wait before the next request."
    return Refusal(429, "rate_limit_error", "backend_rate_limited", message, None, wait_s, should_retry=True)
