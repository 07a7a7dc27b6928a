"""Settings -> the ledger and what belongs to it."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from zuebee.billing.journal import Journal
from zuebee.billing.list_prices import ListPrices
from zuebee.billing.pricing import PriceBook
from zuebee.billing.service import LocalBilling
from zuebee.billing.store_errors import StoreBusy, StoreFailed
from zuebee.billing.store_sqlite import SqliteStore
from zuebee.config import Settings
from zuebee.kit.database import Database, DatabaseError
from zuebee.schema.currency import OtherCurrency, claim
from zuebee.usage.service import Reporting

if TYPE_CHECKING:
    from zuebee.billing.shared import SharedBilling

_log = logging.getLogger("zuebee.billing")

JOURNAL = ".settled"
"""What its name has behind the store's."""

AnyBilling: TypeAlias = "LocalBilling | SharedBilling"


def open_billing(settings: Settings, reporting: Reporting, list_prices: ListPrices, database: Database) -> AnyBilling:
    """The ledger, ready: of this process on SQLite, or shared on PostgreSQL. `reporting` says who gets usage events,
    and whether some can be added just now. `database`: the store, which counts in our currency from now on. Raises
    OSError.
    """
    prices = PriceBook(settings.billing, list_prices.find)
    store = settings.store
    names, gate = reporting.names, reporting.gate
    currency, days = settings.billing.currency, settings.usage.retention_days
    if store.url is not None:
        # Its driver takes 0.15 s to import, which a start on SQLite can do without.
        from zuebee.billing.shared import SharedBilling
        from zuebee.billing.store_postgres import PostgresStore

        _claim(database, currency, waiting=_has_lines(store.spool_path))
        shared = PostgresStore(
            store.url,
            reporters=names,
            currency=currency,
            retention_days=days,
            timeout_s=store.timeout_s,
            hold_s=settings.billing.hold_s,
            room=gate,
        )
        return SharedBilling(
            shared, settings.billing, prices, spool_path=store.spool_path, timeout_s=store.timeout_s, gate=gate.refusal
        )
    try:
        local = SqliteStore(store.path, reporters=names, currency=currency, retention_days=days, room=gate)
        try:
            _claim(database, currency)  # nobody else serves from it now
        except OSError:
            local.close()
            local.close_side()
            raise
        return LocalBilling(
            local,
            settings.billing,
            prices,
            commit_interval_s=store.commit_interval_s,
            timeout_s=store.timeout_s,
            gate=gate.refusal,
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
