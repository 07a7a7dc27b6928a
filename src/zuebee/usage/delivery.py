"""When an event is tried again, when a reporter is left alone, and how fast it may catch up. PURE.

All times are seconds on a clock that the caller reads.
"""

from email.utils import parsedate_to_datetime
from typing import Literal

import msgspec

SCHEDULE_S = (0.0, 5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0)
"""The waits before each round of an event, as Standard Webhooks recommends: 27.6 hours in all."""

JITTER = 0.1
PARKED_AT_S = 1e12
"""When a parked event is due: never."""

DOWN_AFTER = 5
PROBE_WAITS_S = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
MAX_RETRY_AFTER_S = 3600.0


class Delivered(msgspec.Struct, frozen=True):
    """The receiver has it."""


class Failed(msgspec.Struct, frozen=True):
    """It may not have it. `retry_after_s`: how long it wants to be left alone, if it said so."""

    reason: str
    retry_after_s: float | None = None


class Gone(msgspec.Struct, frozen=True):
    """It wants nothing any more (410)."""


Outcome = Delivered | Failed | Gone


def judge(status: int, retry_after: str | None, now_s: float) -> Outcome:
    """What an HTTP answer means: 2xx is success, 410 the end, and all else, redirects too, a failure.

    `retry_after`: seconds or a date (RFC 9110, section 10.2.3).
    """
    if 200 <= status < 300:
        return Delivered()
    if status == 410:
        return Gone()
    wait_s = _seconds(retry_after.strip(), now_s) if status in (429, 503) and retry_after else None
    return Failed(f"status {status}", wait_s)


def _seconds(retry_after: str, now_s: float) -> float | None:
    if retry_after.isdecimal():
        return min(float(retry_after), MAX_RETRY_AFTER_S)
    try:
        wait_s = parsedate_to_datetime(retry_after).timestamp() - now_s
    except (ValueError, OverflowError):
        return None
    return min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)


def due_after(rounds: int, now_s: float, chance: float) -> float:
    """When an event is due again of which so many rounds failed; PARKED_AT_S after the last of them.

    `chance` is a random number in [0, 1): waits differ by up to 10 % either way, so that events spread.
    """
    if rounds >= len(SCHEDULE_S):
        return PARKED_AT_S
    return now_s + SCHEDULE_S[rounds] * (1 - JITTER + 2 * JITTER * chance)


def attempt_wait_s(attempt: int) -> float:
    """The wait after failed attempt number `attempt` (from 1) of one round."""
    return 0.1 * attempt


def masked(text: str) -> str:
    """The first and the last four characters; of a short text nothing."""
    return f"{text[:4]}***{text[-4:]}" if len(text) > 8 else "***" if text else ""


class Health:
    """Whether a reporter's receiver takes events.

    `up`: as many at once as are due. `down`, after five failed events in a row or when it asked for a rest: one event
    at a time, after 5, 10, 20, ... 300 s. `paused`: none.
    """

    def __init__(self) -> None:
        self.state: Literal["up", "down", "paused"] = "up"
        self.next_at_s = 0.0
        self._failures = 0

    @property
    def fails(self) -> bool:
        """Whether the last round failed."""
        return self._failures > 0

    def wait_s(self, now_s: float) -> float:
        """How long to leave the receiver alone."""
        return 0.0 if self.state == "up" else max(0.0, self.next_at_s - now_s)

    def note(self, outcome: Outcome, now_s: float) -> bool:
        """Take note of a round; True when a receiver that was down is back."""
        if self.state == "paused":
            return False
        if isinstance(outcome, Delivered):
            was_down = self.state == "down"
            self.resume()
            return was_down
        if isinstance(outcome, Gone):
            self.state = "paused"
            return False
        waits = self.state == "down" and now_s < self.next_at_s
        if waits and outcome.retry_after_s is None:
            return False  # one of many at once, or of one batch: they count as one
        self._failures += 1
        if self._failures >= DOWN_AFTER or outcome.retry_after_s is not None:
            beyond = max(0, self._failures - DOWN_AFTER)
            wait_s = PROBE_WAITS_S[min(beyond, len(PROBE_WAITS_S) - 1)]
            self.state = "down"
            self.next_at_s = max(self.next_at_s, now_s + max(wait_s, outcome.retry_after_s or 0.0))
        return False

    def resume(self) -> None:
        """Take it as fit again."""
        self.state, self._failures, self.next_at_s = "up", 0, 0.0


class Pace:
    """A bucket of bytes: `rate` a second on average, one second's worth at once."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._level = rate
        self._at_s = 0.0

    def wait_s(self, now_s: float) -> float:
        """How long to wait before anything more may be sent."""
        self._fill(now_s)
        return max(0.0, -self._level / self._rate)

    def spend(self, size_bytes: int, now_s: float) -> None:
        """So much is sent now; more than is there must be waited for afterwards."""
        self._fill(now_s)
        self._level -= size_bytes

    def _fill(self, now_s: float) -> None:
        self._level = min(self._rate, self._level + max(0.0, now_s - self._at_s) * self._rate)
        self._at_s = now_s
