"""Waiting for a place at a backend: the line of `queue.py` with its clock.

A place is never free between two jobs: who gives one back hands it to the next in the line at once, so that no
newcomer can slip in. What frees a place without anybody giving it back (a backend that is well again, a cooldown that
is over) is found by looking again every `LOOK_AGAIN_S` while somebody waits.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterable, Sequence

from zuebee.config.settings import QueueSettings
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Job, Priority
from zuebee.dispatch.balancer import Backend
from zuebee.dispatch.priority_queue import CLASSES, Load, PriorityEntry, PriorityQueue
from zuebee.lib import clock
from zuebee.telemetry.series import FIRST_TOKEN_BUCKETS_S, Histogram

LOOK_AGAIN_S = 0.1

QUEUE_FULL = Refusal(
    503,
    "overloaded_error",
    "queue_full",
    "All model servers are busy, and no more requests can wait for them.",
    retry_after_s=1.0,
    should_retry=True,
)
QUEUE_TIMEOUT = Refusal(
    503,
    "overloaded_error",
    "queue_timeout",
    "No model server was free for this request in time.",
    retry_after_s=1.0,
    should_retry=True,
)


class QueueEntry(PriorityEntry):
    """One job on its way to a backend; it waits as often as it is tried, always in the place of its arrival.

    `welcome` answers with the backends that may have the job just now, were they free. `waited_s` is over all tries.
    """

    __slots__ = ("backends", "future", "job", "waited_s", "welcome")

    def __init__(
        self, job: Job, number: int, backends: Sequence[Backend], welcome: Callable[[], Sequence[Backend]]
    ) -> None:
        super().__init__(job.priority, number, None)
        self.job = job
        self.backends = backends
        self.welcome = welcome
        self.waited_s = 0.0
        self.future: asyncio.Future[Backend | Refusal] | None = None

    def at(self, load: Load) -> Backend | None:
        """The backend with this load, if it may have the job just now."""
        return next((backend for backend in self.welcome() if backend.load is load), None)


class RequestQueue:
    """Hands out the places of bounded backends. One for the whole process: it outlives the dispatchers of reloads."""

    def __init__(self, settings: QueueSettings) -> None:
        self.waits: dict[Priority, Histogram] = {priority: Histogram(FIRST_TOKEN_BUCKETS_S) for priority in CLASSES}
        self._settings = settings
        self._queue: PriorityQueue[QueueEntry] = PriorityQueue()
        self._loads: set[Load] = set()  # those that somebody in the line may use
        self._arrivals = 0
        self._looking: asyncio.TimerHandle | None = None

    def apply(self, settings: QueueSettings) -> None:
        """Put settings in force, for those who come from now on, and see who can go after backends changed."""
        self._settings = settings
        self.hand_out()

    def depths(self) -> Iterable[tuple[tuple[str, ...], float]]:
        """How many wait, by class."""
        return [((priority,), self._queue.depth(priority)) for priority in CLASSES]

    def entry(self, job: Job, backends: Sequence[Backend], welcome: Callable[[], Sequence[Backend]]) -> QueueEntry:
        """A job arrives."""
        self._arrivals += 1
        return QueueEntry(job, self._arrivals, backends, welcome)

    def hand_out(self) -> None:
        """Give every free place to whom it is due."""
        for load in tuple(self._loads):
            self._hand_out(load)

    def leave(self, backend: Backend) -> None:
        """A place is given back: the next one gets it."""
        backend.load.in_flight -= 1
        if self._queue.length:
            self._hand_out(backend.load)

    async def wait(self, entry: QueueEntry, lane: Hashable) -> Backend | Refusal:
        """Stand in the line until a backend has a place, which then is taken; the caller gives it back with `leave`.

        `lane`: equal for jobs that can always use the same backends. Who is cancelled meanwhile has taken nothing.
        """
        loop = asyncio.get_running_loop()
        entry.lane = lane
        future: asyncio.Future[Backend | Refusal] = loop.create_future()
        entry.future = future
        unlucky = self._queue.join(entry, self._settings.max_length)
        if unlucky is entry:
            return QUEUE_FULL
        if unlucky is not None:
            self._dismiss(unlucky, QUEUE_FULL)
        self._loads.update(backend.load for backend in entry.backends)
        began_s = clock.monotonic_s()
        left_s = max(self._settings.timeout_s - entry.waited_s, 0.0)
        deadline = loop.call_later(left_s, self._dismiss, entry, QUEUE_TIMEOUT)
        if self._looking is None:
            self._looking = loop.call_later(LOOK_AGAIN_S, self._look_again)
        try:
            return await future
        except BaseException:
            # The place may have been handed over in the very moment in which the client left.
            if future.done() and not future.cancelled() and isinstance(got := future.result(), Backend):
                self.leave(got)
            raise
        finally:
            deadline.cancel()
            self._queue.remove(entry)
            waited_s = clock.monotonic_s() - began_s
            entry.waited_s += waited_s
            self.waits[entry.priority].observe(waited_s)
            self._rest()

    def _hand_out(self, load: Load) -> None:
        while load.free and (entry := self._queue.take(load, lambda other: other.at(load) is not None)) is not None:
            future, backend = entry.future, entry.at(load)
            # Done already: its task was cancelled, and did not come to leave the line by itself yet.
            if future is not None and backend is not None and not future.done():
                load.in_flight += 1
                future.set_result(backend)

    def _dismiss(self, entry: QueueEntry, refusal: Refusal) -> None:
        self._queue.remove(entry)
        if entry.future is not None and not entry.future.done():
            entry.future.set_result(refusal)

    def _look_again(self) -> None:
        self._looking = None
        self.hand_out()
        if self._queue.length:
            self._looking = asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._look_again)

    def _rest(self) -> None:
        if self._queue.length:
            return
        self._loads.clear()
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
