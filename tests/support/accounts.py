"""A store of accounts for tests: the services on a database, and what tests ask of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, insert
from sqlalchemy.dialects import postgresql, sqlite

from tests.support.empty_stores import empty_database
from zuebee.accounts.invoices import Invoices
from zuebee.accounts.payments import Payments
from zuebee.accounts.service import AccountsService
from zuebee.contracts.usage import RECORD_COLUMNS
from zuebee.ledger.usage_rows import Totals, Unbilled
from zuebee.lib.sql.database import Database
from zuebee.schema.tables import metadata, unbilled_usage, usage_records

UNBILLED_COLUMNS = (
    "organization_id", "month", "user_id", "model", "requests", "prompt_tokens", "cached_tokens", "completion_tokens",
    "cost_nano",
)  # fmt: skip
"""Of what `Totals.rows` answers with."""


class Store:
    """The services on one database, and what tests ask of it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.accounts = AccountsService(database, currency="USD")
        self.payments = Payments(database, currency="USD")
        self.invoices = Invoices(database, currency="USD")

    def acme(self) -> None:
        """An organization with a team, and users in and out of it."""
        self.accounts.create("organization", {"id": "acme"})
        self.accounts.create("organization", {"id": "other"})
        self.accounts.create("team", {"id": "research", "organization_id": "acme"})
        self.accounts.create("user", {"id": "ann", "organization_id": "acme", "team_id": "research", "role": "admin"})
        self.accounts.create("user", {"id": "bob", "organization_id": "acme"})

    def used(self, **fields: Any) -> None:
        """One usage record, and what it adds to the invoices to come."""
        row = {"request_id": "r", "model": "m", "prompt_tokens": 10, "completion_tokens": 5, **fields}
        self.database.call(lambda c: self._used(c, row))

    def _used(self, connection: Connection, row: dict[str, Any]) -> None:
        connection.execute(insert(usage_records).values(**row))
        totals = Totals(Unbilled(lambda organization, month: []))
        known = {"organization_id": "", "at_s": 0.0, "user_id": "", "cost_nano": 0, **row}
        totals.add(tuple(known.get(name) for name in RECORD_COLUMNS))
        kind: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
        for each in totals.rows():
            add = kind.insert(unbilled_usage).values(**dict(zip(UNBILLED_COLUMNS, each, strict=True)), currency="USD")
            more = {name: unbilled_usage.c[name] + add.excluded[name] for name in UNBILLED_COLUMNS[4:]}
            connection.execute(add.on_conflict_do_update(index_elements=unbilled_usage.primary_key, set_=more))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a statement finds."""
        return self.database.call(lambda c: [tuple(row) for row in c.exec_driver_sql(sql)])


@contextmanager
def opened(url: str) -> Iterator[Store]:
    """The store at a URL of SQLAlchemy, with all tables."""
    empty_database(url)
    database = Database(url, timeout_s=5, max_connections=4)
    database.call(metadata.create_all)
    try:
        yield Store(database)
    finally:
        database.close()
