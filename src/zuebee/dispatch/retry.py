"""PURE. Whether a failed try is worth another, where, when, and within which budget.

What a backend may have begun to work on is not sent again by itself: each try is a whole generation, and somebody pays
for it (RFC 9110, section 9.2.2). Full jitter after AWS' Builders' Library; the budget after Envoy: retries at once are
a share of the running requests.
"""

from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Final, Literal

from zuebee.config import Repeated, RetrySettings
from zuebee.contracts.inference import End, Head, Headers

MIN_CONCURRENT_RETRIES: Final = 3
MAX_RETRY_AFTER_S: Final = 120.0
OVERLOADED: Final = frozenset({429, 503, 529})
"""Statuses of a server that has not begun."""

MAX_DOUBTS: Final = 1
"""So often a request may have been begun before it is sent once more: pool and dispatcher together resend it once."""

Where = Literal["nowhere", "elsewhere", "anywhere"]
"""Which backends another try may go to: none, another one, or the same one as well."""


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


def where_again(first: Head | End, settings: RetrySettings, repeat: Sequence[Repeated], doubts: int) -> Where:
    """Where a failed try may be made again.

    It may be made anywhere where nobody has begun to work: there was no connection, or the answer is 429, 503 or 529.
    A request that was lost with its connection may be taken over by another backend, once. `repeat`: what else the
    backend's operator wants to have sent again, at the price of a second generation. `doubts`: see `Job`.
    """
    if isinstance(first, Head):
        return _after_answer(first, settings, repeat)
    cause = first.cause
    reported = 0 if first.refusal is None else first.refusal.status
    if (
        cause in ("connect_failure", "gone", "died", "broken", "unwelcome")
        and "connect_failure" not in settings.retry_on
    ):
        return "nowhere"
    if cause == "unwelcome":
        return "elsewhere"
    if cause == "connect_failure":
        return "anywhere"
    if cause == "gone":
        return "anywhere" if doubts <= MAX_DOUBTS else "nowhere"
    if cause == "died":
        if "broken" in repeat:
            return "anywhere"
        return "elsewhere" if doubts <= MAX_DOUBTS else "nowhere"
    if cause == "broken":
        return "anywhere" if "broken" in repeat else "nowhere"
    if cause == "timeout":
        return "anywhere" if "timeout" in repeat and "timeout" in settings.retry_on else "nowhere"
    if cause == "overload" and "5xx" in settings.retry_on:
        return "anywhere" if not first.sent or reported in OVERLOADED or "5xx" in repeat else "nowhere"
    return "nowhere"


def _after_answer(head: Head, settings: RetrySettings, repeat: Sequence[Repeated]) -> Where:
    status, allowed = head.status, settings.retry_on
    if ("429" if status == 429 else "5xx") not in allowed:
        return "nowhere"
    if status not in OVERLOADED and (status < 500 or "5xx" not in repeat):
        return "nowhere"
    return "nowhere" if is_final(head.headers) else "anywhere"


def is_final(headers: Headers) -> bool:
    """Whether the backend says that another try is of no use (`x-should-retry: false`)."""
    return any(name == b"x-should-retry" and value.strip().lower() == b"false" for name, value in headers)


def weight(first: Head | End) -> int:
    """How much the caller should know of a try that failed, if no other helps; of equal ones the last is the answer.

    What may have been begun is told, for it is charged; then what a backend answered; then that there was no answer.
    """
    if isinstance(first, Head):
        return 1
    if first.sent and first.cause in ("timeout", "gone", "died", "broken"):
        return 2
    return 1 if first.sent and first.cause in ("overload", "unwelcome") else 0


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
