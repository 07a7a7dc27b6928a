"""What was used: sums of the usage records by whom, what and when."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, Connection, cast, func, select

from zuebee.accounts.errors import AccountsError
from zuebee.schema.sums import Sums
from zuebee.schema.tables import usage_records

DAY_S = 86400
MAX_ROWS = 10_000
_BY = {
    "organisation": ("organisation_id",),
    "team": ("team_id",),
    "user": ("user_id",),
    "key": ("key_id",),
    "model": ("model",),
    "priority": ("priority",),
    "plan": ("plan",),
    "user_and_model": ("user_id", "model"),
    "day": (),
}
_SUMMED = ("prompt_tokens", "cached_tokens", "completion_tokens", "cost_nano")
FILTERS = ("organisation_id", "team_id", "user_id", "key_id", "model", "plan", "priority")


def usage(
    connection: Connection,
    by: str,
    wanted: Mapping[str, str],
    *,
    since_s: float,
    until_s: float,
    currency: str,
) -> list[dict[str, Any]]:
    """Requests, prompt, cached and completion tokens, and cost in nano-units of `currency`, one row for each value
    of `by`.

    `wanted` are exact values of FILTERS. With `by` = `day`, `day` is the first second of the day (UTC). At most
    10,000 rows, the dearest first. Refused requests count as requests that used nothing.
    """
    records = usage_records.c
    if by not in _BY:
        raise AccountsError(f"expected one of {', '.join(_BY)}", field="by")
    if unknown := sorted(set(wanted) - set(FILTERS)):
        raise AccountsError("there is no such filter", field=unknown[0])
    groups: list[Any] = [records[name] for name in _BY[by]]
    if by == "day":
        day: Any = records.at_s / DAY_S
        # SQLite cuts off when it casts, PostgreSQL would round.
        whole = day if connection.dialect.name == "sqlite" else func.floor(day)
        groups = [(cast(whole, BigInteger) * DAY_S).label("day")]
    sums = Sums(connection, [records[name] for name in _SUMMED])
    conditions = [records[name] == value for name, value in wanted.items()]
    statement = (
        select(*groups, func.count().label("requests"), *sums.columns)
        .where(records.at_s >= since_s, records.at_s < until_s, *conditions)
        .group_by(*groups)
        .order_by(sums.order[-1].desc(), *groups)
        .limit(MAX_ROWS)
    )
    names, width = [*(_BY[by] or ("day",)), "requests"], len(groups) + 1
    rows = []
    for row in connection.execute(statement):
        kept = {name: value if name in FILTERS else int(value) for name, value in zip(names, row, strict=False)}
        rows.append({**kept, **dict(zip(_SUMMED, sums.read(row[width:]), strict=True)), "currency": currency})
    return rows
