"""Billing over a ledger on a SQLite file, for tests."""

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.support.empty_stores import empty_store
from zuebee.billing.pricing import PriceBook, cost_nano
from zuebee.billing.service import BillingService
from zuebee.config.settings_billing import BillingSettings
from zuebee.contracts.errors import Refusal
from zuebee.ledger.ledger import Ledger
from zuebee.ledger.postgres.commit import DEFAULT_WAITS, Hands, Order, SharedCommitter, Waits
from zuebee.ledger.postgres.ledger import PostgresLedger
from zuebee.ledger.sqlite.group_commit import Committer
from zuebee.ledger.sqlite.journal import Journal
from zuebee.ledger.sqlite.ledger import SqliteLedger
from zuebee.ledger.sqlite.store import SqliteStore
from zuebee.schema.prepare import prepare


def nobody() -> Refusal | None:
    """Why no metered request may be let in: nothing."""
    return None


def billing_on(
    store: SqliteStore,
    settings: BillingSettings,
    *,
    commit_interval_s: float = 0.01,
    timeout_s: float = 5.0,
    gate: Callable[[], Refusal | None] = nobody,
    journal: Journal | None = None,
) -> BillingService:
    """Billing over a store that is open."""
    ledger = SqliteLedger(
        store, hold_s=settings.hold_ttl_s, commit_interval_s=commit_interval_s, timeout_s=timeout_s, journal=journal
    )
    return BillingService(ledger, settings, PriceBook(settings), gate=gate)


def local_billing(
    path: Path, settings: BillingSettings, *, reporters: tuple[str, ...] = (), **parts: Any
) -> BillingService:
    """Billing over a file, which is made. `parts`: as `billing_on` and, named `open_log`, `SqliteStore` take them."""
    if path.exists():
        prepare(str(path))
    else:
        empty_store(path)
    of_store = {name: parts.pop(name) for name in ("open_log", "connect") if name in parts}
    store = SqliteStore(str(path), reporters=reporters, currency="USD", retention_days=0, **of_store)
    return billing_on(store, settings, **parts)


def unlock(path: Path) -> None:
    """As the end of a process that serves from a file would: its lock is free."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # it was only there to list them
            if os.readlink(f"/proc/self/fd/{name}") == f"{path.resolve()}.lock":
                fcntl.flock(int(name), fcntl.LOCK_UN)


def ledger_of(billing: BillingService) -> Ledger:
    """The ledger in memory."""
    assert isinstance(billing.ledger, SqliteLedger)
    return billing.ledger.ledger


def committer_of(billing: BillingService) -> Committer:
    """Who writes for the ledger on SQLite."""
    assert isinstance(billing.ledger, SqliteLedger)
    return billing.ledger.committer


def shared_billing(
    store: Any,
    settings: BillingSettings,
    *,
    spool_path: str,
    timeout_s: float = 5.0,
    waits: Waits = DEFAULT_WAITS,
    gate: Callable[[], Refusal | None] = nobody,
    hands: Callable[[Callable[[Order], bool]], Hands] = Hands,
) -> BillingService:
    """Billing over a ledger that many processes share. `store`: a `PostgresStore`, or what stands for one."""
    ledger = PostgresLedger(store, spool_path=spool_path, timeout_s=timeout_s, waits=waits, hands=hands)
    return BillingService(ledger, settings, PriceBook(settings), gate=gate)


def shared_committer_of(billing: BillingService) -> SharedCommitter:
    """Who does the operations of the ledger on PostgreSQL."""
    assert isinstance(billing.ledger, PostgresLedger)
    return billing.ledger.committer


def price(book: PriceBook, model: str, at_s: float, prompt: int, completion: int, cached: int = 0) -> int:
    """What so many tokens of a model cost, in nano-units."""
    rate = book.rate(model, at_s)
    assert rate is not None
    return cost_nano(rate, prompt, completion, cached)
