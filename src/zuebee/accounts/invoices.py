"""Invoices: what an organisation used in a month, with a number that has no gap before it, kept as it was made."""

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from zuebee.accounts import directory, reports
from zuebee.accounts.errors import AccountsError
from zuebee.accounts.periods import month_bounds_s
from zuebee.accounts.rows import begin_write, to_row, to_view
from zuebee.kit import clock
from zuebee.kit.database import Database
from zuebee.schema.tables import counters, invoices

COUNTER = "invoice"


class Invoices:
    """Makes and keeps invoices. Amounts are nano-units of `currency`. Methods block; they may raise AccountsError and
    DatabaseError.
    """

    def __init__(self, database: Database, *, currency: str) -> None:
        self._database = database
        self._currency = currency

    def make(self, organisation_id: str, month: str) -> dict[str, Any]:
        """The invoice of a month that is over (`2026-10`), made once: later it is the same, whatever has changed."""
        starts_at_s, ends_at_s = month_bounds_s(month)
        if clock.wall_s() < ends_at_s:
            raise AccountsError("is not over: its invoice can only be previewed", field="month")
        return self._database.call(lambda c: self._make(c, organisation_id, starts_at_s, ends_at_s))

    def preview(self, organisation_id: str, month: str) -> dict[str, Any]:
        """What the invoice would say by now. It has no number and is not kept."""
        starts_at_s, ends_at_s = month_bounds_s(month)
        return self._database.call(lambda c: self._draft(c, organisation_id, starts_at_s, ends_at_s))

    def listing(self, organisation_id: str = "") -> list[dict[str, Any]]:
        """The latest 1,000 invoices, newest first."""
        statement = select(invoices).order_by(invoices.c.number.desc()).limit(1000)
        if organisation_id:
            statement = statement.where(invoices.c.organisation_id == organisation_id)
        return self._database.call(lambda c: [to_view(dict(row)) for row in c.execute(statement).mappings()])

    def _make(
        self, connection: Connection, organisation_id: str, starts_at_s: float, ends_at_s: float
    ) -> dict[str, Any]:
        begin_write(connection)
        _lock_counter(connection)
        columns = invoices.c
        found = connection.execute(
            select(invoices).where(
                columns.organisation_id == organisation_id,
                columns.starts_at_s == starts_at_s,
                columns.ends_at_s == ends_at_s,
            )
        ).mappings().first()  # fmt: skip
        if found is not None:
            return _named(connection, to_view(dict(found)))
        draft = self._draft(connection, organisation_id, starts_at_s, ends_at_s)
        taken = update(counters).where(counters.c.name == COUNTER).values(value=counters.c.value + 1)
        number = connection.execute(taken.returning(counters.c.value)).scalar_one()
        invoice = {**draft, "number": f"{int(number):08d}"}
        kept = {name: value for name, value in invoice.items() if name in columns}
        connection.execute(insert(invoices).values(**to_row(kept)))
        return invoice

    def _draft(
        self, connection: Connection, organisation_id: str, starts_at_s: float, ends_at_s: float
    ) -> dict[str, Any]:
        directory.must(connection, "organisation", organisation_id, field="organisation")
        wanted = {"organisation_id": organisation_id}
        lines = reports.usage(connection, "user_and_model", wanted, since_s=starts_at_s, until_s=ends_at_s)
        if len(lines) == reports.MAX_ROWS:
            raise AccountsError(f"has more than {reports.MAX_ROWS} lines", field="organisation")
        lines = [line for line in lines if line["cost_nano"] or line["prompt_tokens"] or line["completion_tokens"]]
        draft = {
            "number": "",
            "organisation_id": organisation_id,
            "starts_at_s": starts_at_s,
            "ends_at_s": ends_at_s,
            "currency": self._currency,
            "total_nano": sum(line["cost_nano"] for line in lines),
            "lines": lines,
            "created_at_s": clock.wall_s(),
        }
        return _named(connection, draft)


def _named(connection: Connection, invoice: Mapping[str, Any]) -> dict[str, Any]:
    row = directory.must(connection, "organisation", invoice["organisation_id"])
    return {**invoice, "organisation_name": row["name"] or row["id"]}


def _lock_counter(connection: Connection) -> None:
    """Whoever comes second waits here, so that numbers follow one another and a month has one invoice."""
    kind = postgresql if connection.dialect.name == "postgresql" else sqlite
    connection.execute(kind.insert(counters).values(name=COUNTER, value=0).on_conflict_do_nothing())
    connection.execute(update(counters).where(counters.c.name == COUNTER).values(value=counters.c.value))


def to_json(invoice: Mapping[str, Any]) -> bytes:
    """An invoice for programs: amounts in nano-units, times in seconds since 1970."""
    return msgspec.json.format(msgspec.json.encode(invoice), indent=2)
