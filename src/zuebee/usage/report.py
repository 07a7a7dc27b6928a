"""Who used what: totals and rows of the usage records, read from the store."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Connection, Select, cast, func, select

from zuebee.lib.patterns import is_open, stem_of
from zuebee.lib.timestamps import rfc3339
from zuebee.schema.sums import Sums
from zuebee.schema.tables import usage_records

GroupBy = Literal["key", "user", "team", "organization", "plan", "model", "endpoint", "day", "hour"]

MAX_GROUPS = 10_000
ROWS_AT_ONCE = 2000

_rows = usage_records.c
_GROUPS: dict[str, ColumnElement[Any]] = {
    "key": _rows.key_name,
    "user": _rows.user_id,
    "team": _rows.team_id,
    "organization": _rows.organization_id,
    "plan": _rows.plan,
    "model": _rows.model,
    "endpoint": _rows.endpoint,
}
_SPANS_S = {"day": 86400, "hour": 3600}

EXPORTED = (
    "request_id", "at_s", "key_id", "key_name", "user_id", "team_id", "organization_id", "plan", "priority", "model",
    "method", "endpoint", "is_stream", "status", "termination_reason", "code", "backend", "backend_url", "attempts",
    "prompt_tokens", "completion_tokens", "cached_tokens", "usage_source", "cost_nano", "duration_ms",
    "first_token_ms", "tags",
)  # fmt: skip
COLUMNS = ("timestamp", *EXPORTED, "currency")
"""The names in the rows of `Pages`."""


class Filter(msgspec.Struct, frozen=True):
    """Which records count: equal to all that is given. `key` is a key's id or name; times are seconds since 1970,
    `until_s` excluded.
    """

    key: str | None = None
    user: str | None = None
    team: str | None = None
    organization: str | None = None
    plan: str | None = None
    model: str | None = None
    since_s: float | None = None
    until_s: float | None = None


class GroupTotals(msgspec.Struct, frozen=True):
    """What the records of one group add up to. `group` is their common values, in the order that was asked for."""

    group: tuple[str, ...]
    requests: int
    errors: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int
    cost_nano: int


def totals(connection: Connection, chosen: Filter, by: Sequence[GroupBy]) -> list[GroupTotals]:
    """Totals of each group, by time if that is asked for, else the dearest first; at most 10,000 groups.

    Without `by` there is one group. Days and hours are UTC.
    """
    groups = [_group(connection, name) for name in by]
    sums = Sums(connection, [_rows.prompt_tokens, _rows.completion_tokens, _rows.cached_tokens, _rows.cost_nano])
    query = select(*groups, func.count(), func.count().filter(_rows.status >= 400), *sums.columns)
    order: list[ColumnElement[Any]] = [g for g, name in zip(groups, by, strict=True) if name in _SPANS_S]
    prompt, completion, _, cost = sums.order
    order += [cost.desc(), (prompt + completion).desc(), func.count().desc(), *groups]
    query = _where(query, chosen).group_by(*groups).order_by(*order).limit(MAX_GROUPS)
    return [_totals(row, by, sums) for row in connection.execute(query)]


class Pages:
    """The records themselves, in the order in which they were written, a page at a time."""

    def __init__(self, chosen: Filter, currency: str, *, rows_at_once: int = ROWS_AT_ONCE) -> None:
        self._chosen = chosen
        self._currency = currency  # of the store: that of records that name none
        self._rows_at_once = rows_at_once
        self._last = 0
        self._ended = False

    def read(self, connection: Connection) -> list[dict[str, Any]] | None:
        """The next page; None after the last one."""
        if self._ended:
            return None
        columns = [_rows[name] for name in (*EXPORTED, "currency")]
        query = _where(select(_rows.id, *columns), self._chosen).where(_rows.id > self._last)
        found = connection.execute(query.order_by(_rows.id).limit(self._rows_at_once)).all()
        self._ended = len(found) < self._rows_at_once
        self._last = found[-1][0] if found else self._last
        return [
            {
                "timestamp": rfc3339(row.at_s),
                **dict(zip(EXPORTED, row[1:-1], strict=True)),
                "currency": row.currency or self._currency,
            }
            for row in found
        ]


def money(cost_nano: int) -> str:
    """Nano-units as a decimal number, with two digits behind the point at least."""
    value = Decimal(cost_nano).scaleb(-9).normalize()
    places = max(2, -int(value.as_tuple().exponent))
    return f"{value:.{places}f}"


def _group(connection: Connection, name: str) -> ColumnElement[Any]:
    if name in _GROUPS:
        return _GROUPS[name]
    span_s = _SPANS_S[name]
    whole = _rows.at_s / span_s
    # SQLite cuts when it casts, but need not have `floor`; PostgreSQL rounds.
    if connection.dialect.name != "sqlite":
        whole = func.floor(whole)
    return (cast(whole, BigInteger) * span_s).label(name)


def _where(query: Select[Any], chosen: Filter) -> Select[Any]:
    if chosen.key is not None:
        query = query.where((_rows.key_id == chosen.key) | (_rows.key_name == chosen.key))
    for name, column in (
        ("user", _rows.user_id),
        ("team", _rows.team_id),
        ("organization", _rows.organization_id),
        ("plan", _rows.plan),
    ):
        if (value := getattr(chosen, name)) is not None:
            query = query.where(column == value)
    if chosen.model is not None:
        # `*` at the end matches any rest, as everywhere; what LIKE would understand in the rest is text.
        if is_open(chosen.model):
            query = query.where(_rows.model.startswith(stem_of(chosen.model), autoescape=True))
        else:
            query = query.where(_rows.model == chosen.model)
    if chosen.since_s is not None:
        query = query.where(_rows.at_s >= chosen.since_s)
    if chosen.until_s is not None:
        query = query.where(_rows.at_s < chosen.until_s)
    return query


def _totals(row: Any, by: Sequence[GroupBy], sums: Sums) -> GroupTotals:
    group = tuple(_shown(name, value) for name, value in zip(by, row, strict=False))
    requests, errors = (int(value) for value in row[len(by) : len(by) + 2])
    prompt, completion, cached, cost_nano = sums.read(row[len(by) + 2 :])
    return GroupTotals(group, requests, errors, prompt, completion, prompt + completion, cached, cost_nano)


def _shown(name: str, value: Any) -> str:
    if name not in _SPANS_S:
        return str(value)
    text = rfc3339(float(value))
    return text[:10] if name == "day" else f"{text[:13]}:00Z"
