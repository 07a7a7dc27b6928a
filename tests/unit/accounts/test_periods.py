from datetime import UTC, datetime

import pytest

from zuebee.accounts.schemas import AccountsError, month_bounds_s, read_time_s


def at(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[misc,arg-type]


def test_a_month_begins_where_the_last_one_ends() -> None:
    assert month_bounds_s("2026-10") == (at(2026, 10, 1), at(2026, 11, 1))
    assert month_bounds_s("2026-12") == (at(2026, 12, 1), at(2027, 1, 1))
    assert month_bounds_s("2028-02") == (at(2028, 2, 1), at(2028, 3, 1))


@pytest.mark.parametrize("text", ["", "2026", "2026-13", "2026-1", "0000-01", "9999-12", "2026-10-01"])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(AccountsError, match="month"):
        month_bounds_s(text)


def test_times_are_utc_unless_they_say_otherwise() -> None:
    assert read_time_s("2026-10-01", field="f") == at(2026, 10, 1)
    assert read_time_s("2026-10-01T12:00:00Z", field="f") == at(2026, 10, 1, 12)
    assert read_time_s("2026-10-01T12:00:00+02:00", field="f") == at(2026, 10, 1, 10)
    with pytest.raises(AccountsError, match="f: expected a time"):
        read_time_s("soon", field="f")
