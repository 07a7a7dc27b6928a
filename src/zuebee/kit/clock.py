"""The only place that asks what time it is."""

import time
from datetime import UTC, datetime

monotonic_s = time.monotonic
"""Seconds that never go back: for durations, deadlines and windows."""

wall_s = time.time
"""Seconds since 1970-01-01 UTC: for records only."""


def utc_now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


def rfc3339(at_s: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC with milliseconds and `Z`."""
    moment = datetime.fromtimestamp(at_s, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
