"""The store opened for the commands that manage accounts, beside a running server or without one."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from zuebee.accounts.invoices import Invoices
from zuebee.accounts.payments import Payments
from zuebee.accounts.service import AccountsService
from zuebee.app.connect import prepare_store, store_database
from zuebee.config.settings_billing import BillingSettings, StoreSettings, UsageSettings
from zuebee.lib import clock
from zuebee.lib.sql.database import Connection, Database, DatabaseError
from zuebee.schema.currency import OtherCurrency, claim, find
from zuebee.usage import outbox, report
from zuebee.usage.report import Filter, GroupBy, GroupTotals


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


# The store as `zuebee usage` sees it, while a server may be running on it.

T = TypeVar("T")

QUERY_S = 300.0
"""A total over many millions of records may take its time; nobody else waits for it."""


class CannotRead(Exception):
    """Why the store cannot be used, in one line."""


class UsageDesk:
    """Questions about the usage records, and what an operator can do about the outbox. Raises CannotRead."""

    columns = report.COLUMNS

    def __init__(self, usage: UsageSettings, database: Database, currency: str) -> None:
        self._usage = usage
        self._database = database
        self.currency = self._call(find) or currency

    def totals(self, by: Sequence[GroupBy], **chosen: Any) -> list[GroupTotals]:
        """`chosen` are the fields of `Filter`."""
        return self._call(lambda connection: report.totals(connection, Filter(**chosen), by))

    def rows(self, **chosen: Any) -> Iterator[dict[str, Any]]:
        pages = report.Pages(Filter(**chosen), self.currency)
        while (page := self._call(pages.read)) is not None:
            yield from page

    def money(self, cost_nano: int) -> str:
        """Nano-units as a decimal number."""
        return report.money(cost_nano)

    def outbox(self) -> list[dict[str, Any]]:
        """Each reporter that is configured or has events: its state in the settings, and what waits for it."""
        usage = self._usage
        known: dict[str, dict[str, Any]] = {
            each.name: {"reporter": each.name, "type": each.type, "enabled": each.enabled and usage.enabled}
            for each in usage.reporters
        }
        for standing in self._call(outbox.standings):
            entry = known.setdefault(standing.reporter, {"reporter": standing.reporter, "type": "", "enabled": False})
            oldest_at_s = standing.oldest_at_s
            entry["waiting"], entry["parked"] = standing.waiting, standing.parked
            entry["oldest_s"] = None if oldest_at_s is None else round(max(0.0, clock.wall_s() - oldest_at_s), 1)
        return [{"waiting": 0, "parked": 0, "oldest_s": None, **entry} for entry in known.values()]

    def retry(self, reporter: str) -> int:
        """Make all events of a reporter due; how many of them were parked."""
        return self._call(lambda connection: outbox.retry(connection, reporter, clock.wall_s()))

    def discard(self, reporter: str) -> int:
        """Remove all events of a reporter; how many there were."""
        return self._call(lambda connection: outbox.discard(connection, reporter))

    def _call(self, work: Callable[[Connection], T]) -> T:
        try:
            return self._database.call(work)
        except DatabaseError as error:
            raise CannotRead(str(error)) from None


@contextmanager
def usage_desk(
    store: StoreSettings, usage: UsageSettings, currency: str, said: Callable[[str], None] = lambda _: None
) -> Iterator[UsageDesk]:
    """The store, which must be there. `currency`: for a store that does not know its own yet. Raises CannotRead."""
    try:
        prepare_store(store, make=False, said=said)  # records of an older version have not all columns
    except OSError as error:
        raise CannotRead(str(error)) from None
    database = store_database(store, max_connections=1, timeout_s=QUERY_S)
    try:
        yield UsageDesk(usage, database, currency)
    finally:
        database.close()
