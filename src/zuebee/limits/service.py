"""How much, how fast? Counters in the memory of this process."""

from collections.abc import Sequence

from zuebee.contracts.admission import Caller, Limit, Place, Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Headers, Job
from zuebee.kit import clock
from zuebee.limits.buckets import SlidingWindow


class _Counters:
    __slots__ = ("running", "window")

    def __init__(self) -> None:
        self.window = SlidingWindow()
        self.running = 0


class _Taken:
    __slots__ = ("limits",)

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = limits

    def headers(self) -> Headers:
        """See `Place.headers`."""
        return []


class MemoryLimiter:
    """Requests a minute and requests at once, for each key. One object for the life of the process."""

    def __init__(self) -> None:
        self._counters: dict[str, _Counters] = {}

    async def acquire(self, caller: Caller, principal: Principal, job: Job, tokens: int) -> Place | Refusal:
        """See `Limiter.acquire`."""
        for limit in principal.limits:
            counters = self._counters.setdefault(limit.subject, _Counters())
            if limit.kind == "concurrent" and counters.running >= limit.amount:
                return _too_many("concurrent_limit_exceeded", f"This key may run {limit.amount} requests at once.", 1.0)
            if limit.kind == "requests" and (wait_s := counters.window.take(limit.amount, clock.monotonic_s())):
                return _too_many("rate_limit_exceeded", f"This key may make {limit.amount} requests a minute.", wait_s)
        for limit in principal.limits:
            self._counters[limit.subject].running += limit.kind == "concurrent"
        return _Taken(principal.limits)

    def release(self, place: Place, tokens: int | None) -> None:
        """See `Limiter.release`."""
        assert isinstance(place, _Taken)
        for limit in place.limits:
            self._counters[limit.subject].running -= limit.kind == "concurrent"

    async def attend(self, places: Sequence[Place]) -> None:
        """See `Limiter.attend`."""

    def blocked(self, address: str) -> Refusal | None:
        """See `Limiter.blocked`."""
        return None

    def failed(self, address: str) -> None:
        """See `Limiter.failed`."""


def _too_many(code: str, message: str, retry_after_s: float) -> Refusal:
    return Refusal(429, "rate_limit_error", code, message, None, retry_after_s, should_retry=True)
