"""A store of accounts for tests: the services on a database, and what tests ask of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import insert

from zuebee.accounts.invoices import Invoices
from zuebee.accounts.payments import Payments
from zuebee.accounts.service import AccountsService
from zuebee.kit.database import Database
from zuebee.schema.tables import metadata, usage_records


class Store:
    """The services on one database, and what tests ask of it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.accounts = AccountsService(database, currency="USD")
        self.payments = Payments(database, currency="USD")
        self.invoices = Invoices(database, currency="USD")

    def acme(self) -> None:
        """An organisation with a team, and users in and out of it."""
        self.accounts.create("organisation", {"id": "acme"})
        self.accounts.create("organisation", {"id": "other"})
        self.accounts.create("team", {"id": "research", "organisation_id": "acme"})
        self.accounts.create("user", {"id": "ann", "organisation_id": "acme", "team_id": "research", "role": "admin"})
        self.accounts.create("user", {"id": "bob", "organisation_id": "acme"})

    def used(self, **fields: Any) -> None:
        """One usage record."""
        row = {"request_id": "r", "model": "m", "prompt_tokens": 10, "completion_tokens": 5, **fields}
        self.database.call(lambda c: c.execute(insert(usage_records).values(**row)))

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a statement finds."""
        return self.database.call(lambda c: [tuple(row) for row in c.exec_driver_sql(sql)])


@contextmanager
def opened(url: str) -> Iterator[Store]:
    """The store at a URL of SQLAlchemy, with all tables."""
    database = Database(url, timeout_s=5, max_connections=4)
    database.call(metadata.create_all)
    try:
        yield Store(database)
    finally:
        database.close()
