"""What requests cost: the ledger and what belongs to it, prices, and how budgets stand."""

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from zuebee.app.parts.base import Change, Part
from zuebee.billing.list_prices import ListPrices
from zuebee.billing.pricing import PriceBook
from zuebee.billing.service import BillingService
from zuebee.config.settings import Settings
from zuebee.ledger.errors import StoreBusy, StoreFailed
from zuebee.ledger.port import LedgerPort
from zuebee.ledger.sqlite.journal import Journal
from zuebee.ledger.sqlite.ledger import SqliteLedger
from zuebee.ledger.sqlite.store import SqliteStore
from zuebee.lib import clock
from zuebee.lib.sql.database import Database, DatabaseError
from zuebee.lib.tasks import Tasks
from zuebee.schema.currency import OtherCurrency, claim
from zuebee.telemetry.metrics import Metrics
from zuebee.telemetry.series import BudgetGauges
from zuebee.usage.service import Reporting

_log = logging.getLogger("zuebee.billing")

JOURNAL = ".settled"
"""What its name has behind the store's."""


class BillingPart(Part):
    """The ledger, open; prices follow new settings. `service` is asked for each request."""

    def __init__(self, settings: Settings, reporting: Reporting, database: Database) -> None:
        self._list_prices = ListPrices()
        self._reads_list = settings.billing.built_in_prices
        self._currency: Final = settings.billing.currency
        self.service = open_billing(settings, reporting, self._list_prices, database)
        self._gauges = BudgetGauges(self.service.ledger.balances, settings.metrics.max_accounts, clock.wall_s)

    def lend(self, metrics: Metrics) -> None:
        ledger = self.service.ledger
        metrics.lend("zuebee_budget_granted", self._gauges.granted)
        metrics.lend("zuebee_budget_remaining", self._gauges.remaining)
        metrics.lend("zuebee_budgets", self._gauges.states)
        metrics.lend("zuebee_billing_currency_info", lambda: [((self._currency,), 1)])
        metrics.lend("zuebee_holds_open", lambda: [((), ledger.open_holds()[0])])
        metrics.lend("zuebee_hold_oldest_seconds", lambda: [((), ledger.open_holds()[1])])
        metrics.lend("zuebee_ledger_operations_total", self._operations)
        metrics.lend("zuebee_ledger_commits_total", lambda: [((), ledger.commits)])
        metrics.lend("zuebee_ledger_commit_seconds_total", lambda: [((), ledger.commit_s)])
        metrics.lend("zuebee_journal_damaged_total", lambda: [((), ledger.damaged)])
        metrics.lend("zuebee_budgets_read_at_seconds", lambda: [((), ledger.balances_at_s)])

    def begin(self, tasks: Tasks) -> None:
        tasks.spawn(self.read_prices(), "prices")

    def prepare(self, settings: Settings) -> Change:
        prices = PriceBook(settings.billing, self._list_prices.find)

        def commit() -> None:
            self.service.prices = prices
            self._gauges.limit = settings.metrics.max_accounts
            self._reads_list = settings.billing.built_in_prices

        return Change(commit)

    async def aclose(self) -> None:
        await self.service.aclose()

    async def read_prices(self) -> None:
        """Read the list prices beforehand: the first request need not wait for them."""
        if self._reads_list:
            await asyncio.get_running_loop().run_in_executor(None, self._list_prices.load)

    def listed_context(self, model: str) -> int:
        """How long prompt and answer of a model may be together, as public lists say; 0: not known."""
        return self._list_prices.context(model) if self._reads_list else 0

    def _operations(self) -> Iterable[tuple[tuple[str, ...], float]]:
        yield ("reserve",), self.service.ledger.reserved
        yield ("short",), self.service.short


def open_billing(
    settings: Settings, reporting: Reporting, list_prices: ListPrices, database: Database
) -> BillingService:
    """Billing over the ledger that is kept in the store of the settings. The file or the database must be up to date.

    Raises OSError.
    """
    prices = PriceBook(settings.billing, list_prices.find)
    ledger = _open_ledger(settings, reporting, database)
    return BillingService(ledger, settings.billing, prices, gate=reporting.gate.refusal)


def _open_ledger(settings: Settings, reporting: Reporting, database: Database) -> LedgerPort:
    store, names, gate = settings.store, reporting.names, reporting.gate
    currency, days, hold_s = settings.billing.currency, settings.usage.retention_days, settings.billing.hold_ttl_s
    if store.url is not None:
        # Its driver takes 0.15 s to import, which a start on SQLite can do without.
        from zuebee.ledger.postgres.ledger import PostgresLedger
        from zuebee.ledger.postgres.store import PostgresStore

        _claim(database, currency, waiting=_has_lines(store.spool_path))
        shared = PostgresStore(
            store.url,
            reporters=names,
            currency=currency,
            retention_days=days,
            timeout_s=store.timeout_s,
            hold_s=hold_s,
            room=gate,
        )
        return PostgresLedger(shared, spool_path=store.spool_path, timeout_s=store.timeout_s)
    try:
        local = SqliteStore(store.path, reporters=names, currency=currency, retention_days=days, room=gate)
        try:
            _claim(database, currency)  # nobody else serves from it now
        except OSError:
            local.close()
            local.close_side()
            raise
        return SqliteLedger(
            local,
            hold_s=hold_s,
            commit_interval_s=store.commit_interval_s,
            timeout_s=store.timeout_s,
            journal=_journal(store.path),
        )
    except (StoreBusy, StoreFailed) as error:
        raise OSError(str(error)) from None


def _claim(database: Database, currency: str, *, waiting: bool = False) -> None:
    try:
        database.call(lambda connection: claim(connection, currency, waiting=waiting))
    except (OtherCurrency, DatabaseError) as error:
        raise OSError(str(error)) from None


def _has_lines(spool_path: str) -> bool:
    """Whether an earlier process left settlements that the database may not have."""
    spool = Path(spool_path)
    return spool.exists() and spool.stat().st_size > 0


def _journal(store_path: str) -> Journal | None:
    """What keeps settlements until they are in the store; None where such a file cannot be: then answers wait."""
    try:
        return Journal(f"{store_path}{JOURNAL}")
    except OSError as error:
        _log.warning("no journal of settlements, answers wait for the store: %s", error)
        return None
