"""Invoices: what an organization used in a month, with a number that has no gap before it, kept as it was made.

They are made of totals that the settling transactions write and an invoice takes away: so each amount is on one
invoice, whenever it was settled and however long records are kept.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from zuebee.accounts import directory
from zuebee.accounts.directory import begin_write, to_row, to_view
from zuebee.accounts.schemas import AccountsError, month_bounds_s, show_amount
from zuebee.lib import clock
from zuebee.lib.sql.database import Database
from zuebee.schema.currency import hold_to
from zuebee.schema.tables import counters, invoices, unbilled_usage

COUNTER = "invoice"
SINCE = "unbilled_since"
"""The counter that says from when on all is known, in a store of an earlier version."""

MAX_TOTAL = (1 << 63) - 1
"""What a column of the store holds."""

MAX_LINES = 10_000
OTHER = "other"


class Invoices:
    """Makes and keeps invoices. Amounts are nano-units of `currency`. Methods block; they may raise AccountsError and
    DatabaseError.
    """

    def __init__(self, database: Database, *, currency: str, max_lines: int = MAX_LINES) -> None:
        self._database = database
        self._currency = currency
        self._max_lines = max_lines

    def make(self, organization_id: str, month: str) -> dict[str, Any]:
        """The invoice of a month that is over (`2026-10`), made once: later it is the same, whatever has changed."""
        starts_at_s, ends_at_s = month_bounds_s(month)
        if clock.wall_s() < ends_at_s:
            raise AccountsError("is not over: its invoice can only be previewed", field="month")
        return self._database.call(lambda c: self._make(c, organization_id, starts_at_s, ends_at_s))

    def preview(self, organization_id: str, month: str) -> dict[str, Any]:
        """What the invoice would say by now. It has no number and is not kept."""
        starts_at_s, ends_at_s = month_bounds_s(month)
        return self._database.call(lambda c: self._draft(c, organization_id, starts_at_s, ends_at_s))

    def listing(self, organization_id: str = "") -> list[dict[str, Any]]:
        """The latest 1,000 invoices, newest first."""
        statement = select(invoices).order_by(invoices.c.number.desc()).limit(1000)
        if organization_id:
            statement = statement.where(invoices.c.organization_id == organization_id)
        return self._database.call(lambda c: [to_view(dict(row)) for row in c.execute(statement).mappings()])

    def _make(self, connection: Connection, organization_id: str, starts_at_s: int, ends_at_s: int) -> dict[str, Any]:
        begin_write(connection)
        hold_to(connection, self._currency)
        _lock_counter(connection)
        columns = invoices.c
        found = connection.execute(
            select(invoices).where(
                columns.organization_id == organization_id,
                columns.starts_at_s == starts_at_s,
                columns.ends_at_s == ends_at_s,
            )
        ).mappings().first()  # fmt: skip
        if found is not None:
            return _named(connection, to_view(dict(found)))
        draft = self._draft(connection, organization_id, starts_at_s, ends_at_s, take=True)
        if draft["total_nano"] > MAX_TOTAL:
            raise AccountsError(f"comes to more than {show_amount(MAX_TOTAL, self._currency)}", field="month")
        taken = update(counters).where(counters.c.name == COUNTER).values(value=counters.c.value + 1)
        number = connection.execute(taken.returning(counters.c.value)).scalar_one()
        invoice = {**draft, "number": f"{int(number):08d}"}
        kept = {name: value for name, value in invoice.items() if name in columns}
        connection.execute(insert(invoices).values(**to_row(kept)))
        return invoice

    def _draft(
        self, connection: Connection, organization_id: str, starts_at_s: int, ends_at_s: int, *, take: bool = False
    ) -> dict[str, Any]:
        """What is on no invoice yet: of this month, and what came late of months that have one. `take`: it is now."""
        directory.must(connection, "organization", organization_id, field="organization")
        since_s = connection.execute(select(counters.c.value).where(counters.c.name == SINCE)).scalar()
        if since_s is not None and starts_at_s < since_s:
            raise AccountsError(
                "is not known whole: its records were removed before this version kept totals", field="month"
            )
        closed = select(invoices.c.starts_at_s).where(
            invoices.c.organization_id == organization_id, invoices.c.starts_at_s < starts_at_s
        )
        months = [starts_at_s, *(int(month) for (month,) in connection.execute(closed))]
        mine = (
            unbilled_usage.c.organization_id == organization_id,
            unbilled_usage.c.month.in_(months),
            # What cost nothing may be from before the store took over its currency.
            unbilled_usage.c.currency.in_(["", self._currency]) | (unbilled_usage.c.cost_nano == 0),
        )
        columns = [unbilled_usage.c[name] for name in ("month", "user_id", "model", *_SUMS)]
        statement: Any = (
            delete(unbilled_usage).where(*mine).returning(*columns) if take else select(*columns).where(*mine)
        )
        lines = _lines(connection.execute(statement), starts_at_s, self._max_lines)
        draft = {
            "number": "",
            "organization_id": organization_id,
            "starts_at_s": starts_at_s,
            "ends_at_s": ends_at_s,
            "currency": self._currency,
            "total_nano": sum(line["cost_nano"] for line in lines),
            "lines": lines,
            "created_at_s": clock.wall_s(),
        }
        return _named(connection, draft)


_SUMS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "cost_nano")


def _lines(rows: Iterable[Any], month: int, max_lines: int) -> list[dict[str, Any]]:
    """The dearest first; what came late says of which month it is, and beyond `max_lines` all is one line."""
    totals: dict[tuple[str, str, str], list[int]] = {}
    for at_s, user_id, model, *sums in rows:
        late = "" if at_s == month else datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m")
        _add(totals.setdefault((user_id, model, late), [0] * len(_SUMS)), sums)
    ordered = sorted(totals.items(), key=lambda each: (-each[1][-1], each[0]))
    kept, rest = ordered[: max_lines - 1], ordered[max_lines - 1 :]
    if len(rest) > 1:
        other = [0] * len(_SUMS)
        for _, sums in rest:
            _add(other, sums)
        rest = [(("", OTHER, ""), other)]
    lines = []
    for (user_id, model, late), sums in [*kept, *rest]:
        line = {"user_id": user_id, "model": model, **dict(zip(_SUMS, map(int, sums), strict=True))}
        lines.append({**line, "late_of": late} if late else line)
    return lines


def _add(total: list[int], more: Iterable[int]) -> None:
    for place, value in enumerate(more):
        total[place] += value


def _named(connection: Connection, invoice: Mapping[str, Any]) -> dict[str, Any]:
    row = directory.must(connection, "organization", invoice["organization_id"])
    return {**invoice, "organization_name": row["name"] or row["id"]}


def _lock_counter(connection: Connection) -> None:
    """Whoever comes second waits here, so that numbers follow one another and a month has one invoice."""
    kind = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(kind.insert(counters).values(name=COUNTER, value=0).on_conflict_do_nothing())
    connection.execute(update(counters).where(counters.c.name == COUNTER).values(value=counters.c.value))
