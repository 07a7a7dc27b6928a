"""PURE. Counting against limits. Times come from the caller; nothing here waits or looks at a clock."""

from collections import deque
from datetime import UTC, datetime, timedelta

WINDOW_S = 60.0


class SlidingWindow:
    """At most `limit` events in any 60 seconds, exactly: it remembers when each one was."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def take(self, limit: int, now_s: float) -> float:
        """Count an event, if it fits: 0. Else the seconds until one would fit; nothing is counted."""
        times = self._times
        horizon = now_s - WINDOW_S
        while times and times[0] <= horizon:
            times.popleft()
        if len(times) >= limit:
            return times[len(times) - limit] - horizon
        times.append(now_s)
        return 0.0


def period_start_s(period: str, now_s: float) -> float:
    """When the period around `now_s` (seconds since 1970) began: midnight, Monday or the first, UTC; 0 for never."""
    if period == "never":
        return 0.0
    day = datetime.fromtimestamp(now_s, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "weekly":
        day -= timedelta(days=day.weekday())
    elif period == "monthly":
        day = day.replace(day=1)
    return day.timestamp()
