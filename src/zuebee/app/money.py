"""Settings -> the ledger and what belongs to it."""

from zuebee.billing.batch import StoreFailed
from zuebee.billing.list_prices import ListPrices
from zuebee.billing.pricing import PriceBook
from zuebee.billing.service import LocalBilling
from zuebee.billing.store_sqlite import SqliteStore
from zuebee.config import Settings
from zuebee.schema.prepare import prepare
from zuebee.schema.version import SchemaError


def open_billing(settings: Settings) -> LocalBilling:
    """The ledger, ready. Raises OSError."""
    reporters = [r.name for r in settings.usage.reporters if r.enabled and r.type != "builtin"]
    try:
        prepare(settings.store.path)
        store = SqliteStore(
            settings.store.path,
            reporters=reporters if settings.usage.enabled else [],
            currency=settings.billing.currency,
            retention_days=settings.usage.retention_days,
        )
    except (SchemaError, StoreFailed) as error:
        raise OSError(str(error)) from None
    return LocalBilling(
        store,
        settings.billing,
        PriceBook(settings.billing, ListPrices().find),
        commit_interval_s=settings.store.commit_interval_s,
        timeout_s=settings.store.timeout_s,
        gate=lambda: None,
    )
