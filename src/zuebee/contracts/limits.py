"""PURE. From numbers as people write them to `Limit`s, for keys, plans and scopes alike; when periods begin."""

from datetime import UTC, datetime, timedelta
from typing import Final, Literal, Protocol

from zuebee.contracts.admission import Limit, Period

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400


class Rates(Protocol):
    """The numbers of one scope; 0 is no limit. Meanings are those of `LimitSettings`."""

    @property
    def requests_per_second(self) -> int: ...
    @property
    def burst_size(self) -> int: ...
    @property
    def requests_per_minute(self) -> int: ...
    @property
    def requests_per_hour(self) -> int: ...
    @property
    def requests_per_day(self) -> int: ...
    @property
    def tokens_per_minute(self) -> int: ...
    @property
    def tokens_per_hour(self) -> int: ...
    @property
    def tokens_per_day(self) -> int: ...
    @property
    def max_concurrent(self) -> int: ...
    @property
    def on_store_down(self) -> Literal["share", "open", "closed"]: ...


def limits_of(subject: str, rates: Rates, *, whole: bool = False) -> tuple[Limit, ...]:
    """The limits that these numbers set for a subject (`Limit.subject`).

    A limit that comes with a principal replaces that of the settings for its subject, kind and window, and one of
    amount 0 says that there is none. `whole`: the numbers of 0 are said as well, so that they replace all.
    """
    on_store_down = rates.on_store_down
    burst = rates.burst_size or 2 * rates.requests_per_second
    found = (
        Limit(subject, "concurrent", rates.max_concurrent, 0, 0, on_store_down),
        Limit(subject, "requests", rates.requests_per_second, 1, burst, on_store_down),
        Limit(subject, "requests", rates.requests_per_minute, MINUTE_S, 0, on_store_down),
        Limit(subject, "requests", rates.requests_per_hour, HOUR_S, 0, on_store_down),
        Limit(subject, "requests", rates.requests_per_day, DAY_S, 0, on_store_down),
        Limit(subject, "tokens", rates.tokens_per_minute, MINUTE_S, 0, on_store_down),
        Limit(subject, "tokens", rates.tokens_per_hour, HOUR_S, 0, on_store_down),
        Limit(subject, "tokens", rates.tokens_per_day, DAY_S, 0, on_store_down),
    )
    return tuple(limit for limit in found if limit.amount or whole)


# When budgets start again. All times are seconds since 1970, all periods UTC.


FOREVER_S: Final = 1 << 62
"""When a period `never` ends: later than any time."""


def period_start_s(period: Period, now_s: float) -> int:
    """When the period around `now_s` (seconds since 1970) began: midnight, Monday or the first, UTC; 0 for never."""
    if period == "never":
        return 0
    day = datetime.fromtimestamp(now_s, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "weekly":
        day -= timedelta(days=day.weekday())
    elif period == "monthly":
        day = day.replace(day=1)
    return int(day.timestamp())


def period_end_s(period: Period, starts_at_s: int) -> int:
    """When the period that began at `starts_at_s` ends."""
    if period == "never":
        return FOREVER_S
    start = datetime.fromtimestamp(starts_at_s, UTC)
    if period == "monthly":
        start = start.replace(day=28) + timedelta(days=4)
        return int(start.replace(day=1).timestamp())
    return int((start + timedelta(days=7 if period == "weekly" else 1)).timestamp())
