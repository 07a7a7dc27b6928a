"""Settings -> the ledger and what belongs to it."""

from pathlib import Path

from zuebee.billing.batch import StoreFailed
from zuebee.billing.list_prices import ListPrices
from zuebee.billing.pricing import PriceBook
from zuebee.billing.service import LocalBilling
from zuebee.billing.store_sqlite import SqliteStore
from zuebee.config import Settings
from zuebee.kit.database import Database
from zuebee.schema.tables import metadata


def open_billing(settings: Settings) -> LocalBilling:
    """The ledger, ready. Raises OSError."""
    reporters = [r.name for r in settings.usage.reporters if r.enabled and r.type != "builtin"]
    Path(settings.store.path).parent.mkdir(parents=True, exist_ok=True)
    database = Database(f"sqlite:///{settings.store.path}", timeout_s=5)
    database.call(metadata.create_all)
    database.close()
    try:
        store = SqliteStore(
            settings.store.path,
            reporters=reporters if settings.usage.enabled else [],
            currency=settings.billing.currency,
            retention_days=settings.usage.retention_days,
        )
    except StoreFailed as error:
        raise OSError(str(error)) from None
    return LocalBilling(
        store,
        settings.billing,
        PriceBook(settings.billing, ListPrices().find),
        commit_interval_s=settings.store.commit_interval_s,
        timeout_s=settings.store.timeout_s,
        gate=lambda: None,
    )
