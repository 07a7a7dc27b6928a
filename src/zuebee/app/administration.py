"""The store opened for the commands that manage accounts, beside a running server or without one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from zuebee.accounts.invoices import Invoices
from zuebee.accounts.payments import Payments
from zuebee.accounts.service import AccountsService
from zuebee.app.store import prepare_store, store_database
from zuebee.config import BillingSettings, StoreSettings
from zuebee.kit.database import Connection, Database, DatabaseError
from zuebee.schema.currency import OtherCurrency, claim, find


class CannotOpen(Exception):
    """The store cannot be opened or does not answer; the message holds no password."""


@dataclass(frozen=True)
class Administration:
    """What commands work with. `currency` is that of all money."""

    accounts: AccountsService
    payments: Payments
    invoices: Invoices
    currency: str


@contextmanager
def administration(
    store: StoreSettings, currency: str, said: Callable[[str], None] = lambda _: None
) -> Iterator[Administration]:
    """The store, brought to the schema of this version and open; none is made. `said` hears how a migration goes.

    Each order is a short transaction of its own, so that a server that runs on the same store goes on meanwhile.
    `currency`: that of the settings, which must be the store's; empty: there are none.
    Raises CannotOpen, also for what goes wrong while it is open.
    """
    database: Database | None = None
    try:
        database = _open(store, said)
        currency = database.call(lambda connection: _claimed(connection, currency, store))
        yield Administration(
            accounts=AccountsService(database, currency=currency),
            payments=Payments(database, currency=currency),
            invoices=Invoices(database, currency=currency),
            currency=currency,
        )
    except (DatabaseError, OSError, OtherCurrency) as error:
        raise CannotOpen(str(error)) from None
    finally:
        if database is not None:
            database.close()


def _claimed(connection: Connection, currency: str, store: StoreSettings) -> str:
    """The currency that is counted in."""
    currency = currency or find(connection) or BillingSettings().currency
    claim(connection, currency, path="" if store.url is not None else store.path)
    return currency


def _open(store: StoreSettings, said: Callable[[str], None]) -> Database:
    try:
        prepare_store(store, make=False, said=said)
        return store_database(store, max_connections=1)
    except ValueError:
        raise CannotOpen("store.url is not the URL of a PostgreSQL database") from None
