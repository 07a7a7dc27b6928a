"""PURE. Months and times as people write them. All in UTC unless they say otherwise."""

import re
from datetime import UTC, datetime, timedelta

from zuebee.accounts.errors import AccountsError

_MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])", re.ASCII)


def month_bounds_s(month: str) -> tuple[float, float]:
    """First second of a month written `2026-10`, and of the next one. Raises AccountsError."""
    found = _MONTH.fullmatch(month)
    if found is None or not 1970 <= int(found[1]) < 9999:
        raise AccountsError("expected a month such as 2026-10", field="month")
    start = datetime(int(found[1]), int(found[2]), 1, tzinfo=UTC)
    end = (start + timedelta(days=32)).replace(day=1)
    return start.timestamp(), end.timestamp()


def read_time_s(text: str, *, field: str) -> float:
    """An RFC 3339 time, or a date (its midnight); without an offset it is UTC. Raises AccountsError."""
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise AccountsError("expected a time such as 2026-12-31T12:00:00Z, or a date", field=field) from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
