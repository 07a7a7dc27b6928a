"""Settings -> the ledger and what belongs to it."""

from collections.abc import Callable

from zuebee.app.reporting import reporter_names
from zuebee.billing.batch import StoreFailed
from zuebee.billing.list_prices import ListPrices
from zuebee.billing.pricing import PriceBook
from zuebee.billing.service import LocalBilling
from zuebee.billing.store_sqlite import SqliteStore
from zuebee.config import Settings
from zuebee.contracts.errors import Refusal
from zuebee.schema.prepare import prepare
from zuebee.schema.version import SchemaError


def open_billing(settings: Settings, gate: Callable[[], Refusal | None]) -> LocalBilling:
    """The ledger, ready. `gate` says why no usage event may be added just now. Raises OSError."""
    try:
        prepare(settings.store.path)
        store = SqliteStore(
            settings.store.path,
            reporters=reporter_names(settings),
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
        gate=gate,
    )
