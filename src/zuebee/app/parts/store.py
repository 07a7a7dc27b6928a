"""The store, open for work off the hot path, and what looks at it now and then."""

import logging
from collections.abc import Callable

from zuebee.accounts.principals import StoreSource
from zuebee.app.connect import prepare_store, store_database
from zuebee.app.parts.base import Part
from zuebee.app.watches import BooksWatch, StoreWatch
from zuebee.config.settings import Settings
from zuebee.lib.sql.database import Database
from zuebee.lib.tasks import Tasks
from zuebee.telemetry.metrics import Metrics


class DatabasePart(Part):
    """The store, brought to the schema of this version. `keys` looks up the keys in it."""

    def __init__(self, settings: Settings) -> None:
        prepare_store(settings.store, said=logging.getLogger("zuebee").info)
        self.database = store_database(settings.store)
        self.keys = StoreSource(self.database, currency=settings.billing.currency)

    async def aclose(self) -> None:
        self.database.close()


class WatchesPart(Part):
    """Looks whether the store can be used and the books add up. `ledger` says why it cannot be written."""

    def __init__(self, database: Database, keys: StoreSource, ledger: Callable[[], str]) -> None:
        self.store = StoreWatch(keys.has_keys, ledger)
        self._books = BooksWatch(database)

    def lend(self, metrics: Metrics) -> None:
        books = self._books
        metrics.lend("zuebee_store_up", lambda: [((), float(not self.store.trouble))])
        metrics.lend("zuebee_ledger_imbalance", lambda: [((), books.violations)])
        metrics.lend("zuebee_ledger_checked_at_seconds", lambda: [((), books.checked_at_s)])
        metrics.lend("zuebee_ledger_checks_failed_total", lambda: [((), books.failures)])

    def begin(self, tasks: Tasks) -> None:
        tasks.spawn(self._books.run(), "books")
        tasks.spawn(self.store.run(), "store")
