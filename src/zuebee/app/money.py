"""Settings -> the ledger and what belongs to it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from zuebee.billing.shared import SharedBilling


def open_billing(settings: Settings, gate: Callable[[], Refusal | None]) -> "LocalBilling | SharedBilling":
    """The ledger, ready. `gate` says why no usage event may be added just now. Raises OSError."""
    store = settings.store
    try:
        prepare(store.url or store.path)
        if store.url:
            return _open_shared(settings, store.url, gate)
        local = SqliteStore(
            store.path,
            reporters=reporter_names(settings),
            currency=settings.billing.currency,
            retention_days=settings.usage.retention_days,
        )
    except (SchemaError, StoreFailed) as error:
        raise OSError(str(error)) from None
    return LocalBilling(
        local,
        settings.billing,
        PriceBook(settings.billing, ListPrices().find),
        commit_interval_s=store.commit_interval_s,
        timeout_s=store.timeout_s,
        gate=gate,
    )


def _open_shared(settings: Settings, url: str, gate: Callable[[], Refusal | None]) -> "SharedBilling":
    # The driver costs 0.15 s of imports that a start on SQLite can do without.
    from zuebee.billing.shared import SharedBilling
    from zuebee.billing.store_postgres import PostgresStore

    store = PostgresStore(
        url,
        reporters=reporter_names(settings),
        currency=settings.billing.currency,
        retention_days=settings.usage.retention_days,
        timeout_s=settings.store.timeout_s,
        hold_s=settings.billing.hold_s,
    )
    return SharedBilling(
        store,
        settings.billing,
        PriceBook(settings.billing, ListPrices().find),
        spool_path=settings.store.spool_path,
        timeout_s=settings.store.timeout_s,
        gate=gate,
    )
