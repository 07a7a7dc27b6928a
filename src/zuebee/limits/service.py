"""How much, how fast? Counters of each key in the memory of this process."""

from collections.abc import Callable

from zuebee.contracts.admission import Limits, Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Usage
from zuebee.kit import clock
from zuebee.limits.buckets import SlidingWindow, period_start_s

TokensSince = Callable[[str, float], int]
"""(key id, seconds since 1970) -> tokens on record for the key since then."""


class _Counters:
    """What one key has used and holds."""

    __slots__ = ("period_s", "running", "tokens", "window")

    def __init__(self) -> None:
        self.window = SlidingWindow()
        self.running = 0
        self.tokens = 0
        self.period_s = -1.0


class MemoryLimiter:
    """Requests a minute, requests at once and tokens a period, for each key. One object for the life of the process.

    Tokens are charged when a request is over: requests that run at once can pass a quota together.
    """

    def __init__(self, tokens_since: TokensSince) -> None:
        self._tokens_since = tokens_since
        self._counters: dict[str, _Counters] = {}

    async def acquire(self, principal: Principal) -> Refusal | None:
        """See `Limiter.acquire`."""
        limits = principal.limits
        counters = self._counters.get(principal.key_id)
        if counters is None:
            counters = self._counters[principal.key_id] = _Counters()
        if limits.max_concurrent and counters.running >= limits.max_concurrent:
            return _too_many(
                "concurrent_limit_exceeded", f"This key may run {limits.max_concurrent} requests at once.", 1.0
            )
        if limits.total_tokens and self._tokens(principal.key_id, limits, counters) >= limits.total_tokens:
            return Refusal(429, "insufficient_quota", "quota_exceeded", "The token quota of this key is used up.")
        if limits.requests_per_minute:
            wait_s = counters.window.take(limits.requests_per_minute, clock.monotonic_s())
            if wait_s:
                message = f"This key may make {limits.requests_per_minute} requests a minute."
                return _too_many("rate_limit_exceeded", message, wait_s)
        counters.running += 1
        return None

    def release(self, principal: Principal, usage: Usage | None) -> None:
        """See `Limiter.release`."""
        counters = self._counters[principal.key_id]
        counters.running -= 1
        if usage is not None and principal.limits.total_tokens:
            self._tokens(principal.key_id, principal.limits, counters)
            counters.tokens += usage.prompt_tokens + usage.completion_tokens

    def _tokens(self, key_id: str, limits: Limits, counters: _Counters) -> int:
        """Tokens used in the current period; read from the records when a period begins for this process."""
        now_s = clock.wall_s()
        start_s = period_start_s(limits.token_period, now_s)
        if counters.period_s != start_s:
            first = counters.period_s < 0
            counters.period_s = start_s
            counters.tokens = self._tokens_since(key_id, start_s) if first else 0
        before = limits.tokens_used_before if limits.token_period == "never" else 0
        return counters.tokens + before


def _too_many(code: str, message: str, retry_after_s: float) -> Refusal:
    return Refusal(429, "rate_limit_error", code, message, None, retry_after_s, should_retry=True)
