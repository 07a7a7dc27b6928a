"""PURE. When budgets start again. All times are seconds since 1970, all periods UTC."""

from datetime import UTC, datetime, timedelta

from zuebee.contracts.admission import Period


def period_start_s(period: Period, now_s: float) -> float:
    """When the period around `now_s` (seconds since 1970) began: midnight, Monday or the first, UTC; 0 for never."""
    if period == "never":
        return 0.0
    day = datetime.fromtimestamp(now_s, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "weekly":
        day -= timedelta(days=day.weekday())
    elif period == "monthly":
        day = day.replace(day=1)
    return day.timestamp()


def period_end_s(period: Period, starts_at_s: float) -> float:
    """When the period that began at `starts_at_s` ends."""
    if period == "never":
        return float("inf")
    start = datetime.fromtimestamp(starts_at_s, UTC)
    if period == "monthly":
        start = start.replace(day=28) + timedelta(days=4)
        return start.replace(day=1).timestamp()
    return (start + timedelta(days=7 if period == "weekly" else 1)).timestamp()
