"""Settings -> the ledger and what belongs to it."""

import logging
from typing import TYPE_CHECKING, TypeAlias

from zuebee.app.reporting import reporter_names
from zuebee.billing.journal import Journal
from zuebee.billing.list_prices import ListPrices
from zuebee.billing.pricing import PriceBook
from zuebee.billing.service import LocalBilling
from zuebee.billing.store_errors import StoreBusy, StoreFailed
from zuebee.billing.store_sqlite import SqliteStore
from zuebee.config import Settings
from zuebee.usage.gate import OutboxGate

if TYPE_CHECKING:
    from zuebee.billing.shared import SharedBilling

_log = logging.getLogger("zuebee.billing")

JOURNAL = ".settled"
"""What its name has behind the store's."""

AnyBilling: TypeAlias = "LocalBilling | SharedBilling"


def open_billing(settings: Settings, gate: OutboxGate, list_prices: ListPrices) -> AnyBilling:
    """The ledger, ready: of this process on SQLite, or shared on PostgreSQL. `gate` says whether usage
    events can be added just now. Raises OSError.
    """
    prices = PriceBook(settings.billing, list_prices.find)
    store = settings.store
    names, currency, days = reporter_names(settings), settings.billing.currency, settings.usage.retention_days
    if store.url is not None:
        # Its driver takes 0.15 s to import, which a start on SQLite can do without.
        from zuebee.billing.shared import SharedBilling
        from zuebee.billing.store_postgres import PostgresStore

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
        return LocalBilling(
            SqliteStore(store.path, reporters=names, currency=currency, retention_days=days, room=gate),
            settings.billing,
            prices,
            commit_interval_s=store.commit_interval_s,
            timeout_s=store.timeout_s,
            gate=gate.refusal,
            journal=_journal(store.path),
        )
    except (StoreBusy, StoreFailed) as error:
        raise OSError(str(error)) from None


def _journal(store_path: str) -> Journal | None:
    """What keeps settlements until they are in the store; None where such a file cannot be: then answers wait."""
    try:
        return Journal(f"{store_path}{JOURNAL}")
    except OSError as error:
        _log.warning("no journal of settlements, answers wait for the store: %s", error)
        return None
