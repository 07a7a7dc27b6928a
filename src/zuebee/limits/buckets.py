"""PURE. Counting against limits. Times come from the caller; nothing here waits or looks at a clock."""

from collections import deque
from datetime import UTC, datetime, timedelta

WINDOW_S = 60.0
MAX_TIMES = 10_000


class SlidingWindow:
    """At most `limit` events in any 60 seconds.

    Up to MAX_TIMES it is exact: it remembers when each event was. Beyond, one time stands for several events, as late
    as their last, so that memory is bounded; then a place comes free a moment late, never early.
    """

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self._in_last = 0

    def take(self, limit: int, now_s: float) -> float:
        """Count an event, if it fits: 0. Else the seconds until one would fit; nothing is counted."""
        times = self._times
        horizon = now_s - WINDOW_S
        while times and times[0] <= horizon:
            times.popleft()
        if limit <= MAX_TIMES:
            if len(times) >= limit:
                return times[len(times) - limit] - horizon
            times.append(now_s)
            return 0.0
        return self._take_many(1 + (limit - 1) // MAX_TIMES, limit, now_s)

    def _take_many(self, group: int, limit: int, now_s: float) -> float:
        times = self._times
        if times and (len(times) - 1) * group + self._in_last >= limit:
            return times[0] - (now_s - WINDOW_S)
        if times and self._in_last < group:
            times[-1] = now_s
            self._in_last += 1
        else:
            times.append(now_s)
            self._in_last = 1
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
