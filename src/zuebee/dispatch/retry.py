"""PURE. Whether a failed try is worth another, when, and within which budget.

Full jitter after AWS' Builders' Library; the budget after Envoy: retries at once are a share of the running requests.
"""

from email.utils import parsedate_to_datetime
from typing import Final

from zuebee.config import RetrySettings
from zuebee.contracts.inference import End, Head, Headers

MIN_CONCURRENT_RETRIES: Final = 3
MAX_RETRY_AFTER_S: Final = 120.0
OVERLOADED: Final = frozenset({429, 503, 529})


class RetryBudget:
    """Counts running requests and retries. A retry holds its place while it waits and until its answer begins."""

    def __init__(self, percent: int) -> None:
        self.running = 0
        self.retrying = 0
        self._percent = percent

    def allows(self) -> bool:
        """Whether one more retry may begin now."""
        return self.retrying < max(MIN_CONCURRENT_RETRIES, self.running * self._percent / 100)


def is_failure(first: Head | End) -> bool:
    """Whether the beginning of a reply says that the backend failed."""
    if isinstance(first, Head):
        return first.status >= 500 or first.status == 429
    return first.cause != "none"


def worth_a_retry(first: Head | End, settings: RetrySettings) -> bool:
    """Whether another try could end better, by what the settings allow."""
    allowed = settings.retry_on
    if isinstance(first, Head):
        return "429" in allowed if first.status == 429 else first.status >= 500 and "5xx" in allowed
    if first.cause == "timeout":
        return "timeout" in allowed
    if first.cause in ("connect_failure", "broken", "unwelcome"):
        return "connect_failure" in allowed
    return first.cause == "overload" and "5xx" in allowed


def backoff_s(retry: int, settings: RetrySettings, draw: float) -> float:
    """How long to wait before the `retry`-th retry (from 1): anything up to an exponentially growing bound.

    `draw` is a random number between 0 and 1.
    """
    bound_s = min(settings.initial_wait_s * settings.multiplier ** (retry - 1), settings.max_wait_s)
    return draw * bound_s


def retry_after_s(headers: Headers, now_wall_s: float) -> float | None:
    """What `retry-after-ms` or `retry-after` (seconds or a date, RFC 9110 section 10.2.3) asks for, within bounds."""
    for name, value in headers:
        if name == b"retry-after-ms" and (milliseconds := _number(value)) is not None:
            return min(max(milliseconds / 1000, 0.0), MAX_RETRY_AFTER_S)
    for name, value in headers:
        if name != b"retry-after":
            continue
        seconds = _number(value)
        if seconds is None:
            try:
                seconds = parsedate_to_datetime(value.decode("latin-1")).timestamp() - now_wall_s
            except ValueError:
                return None
        return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)
    return None


def _number(value: bytes) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if number == number else None  # not NaN
