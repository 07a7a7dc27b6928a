"""The store opened for the commands that manage accounts, beside a running server or without one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from zuebee.accounts.invoices import Invoices
from zuebee.accounts.payments import Payments
from zuebee.accounts.service import AccountsService
from zuebee.app.store import prepare_store, store_database
from zuebee.config import StoreSettings
from zuebee.kit.database import Database, DatabaseError

_POSTGRES = ("postgres://", "postgresql://", "postgresql+psycopg://")


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
def administration(store: StoreSettings, currency: str) -> Iterator[Administration]:
    """The store, prepared and open. Each order is a short transaction of its own, so that a server that runs on the
    same store goes on meanwhile. Raises CannotOpen, also for what goes wrong while it is open.
    """
    database: Database | None = None
    try:
        database = _open(store)
        yield Administration(
            accounts=AccountsService(database, currency=currency),
            payments=Payments(database, currency=currency),
            invoices=Invoices(database, currency=currency),
            currency=currency,
        )
    except DatabaseError as error:
        raise CannotOpen(f"the store does not do what it should: {error}") from None
    except OSError as error:
        raise CannotOpen(str(error)) from None
    finally:
        if database is not None:
            database.close()


def store_named(store: StoreSettings, name: str) -> StoreSettings:
    """The store that a command line names: a postgresql:// URL, or the path of a SQLite file."""
    if name.startswith(_POSTGRES):
        return StoreSettings(url=name, timeout_s=store.timeout_s)
    return StoreSettings(path=name.removeprefix("sqlite:///"), timeout_s=store.timeout_s)


def _open(store: StoreSettings) -> Database:
    try:
        prepare_store(store)
        return store_database(store, max_connections=1)
    except ValueError:
        raise CannotOpen("store.url is not the URL of a PostgreSQL database") from None
