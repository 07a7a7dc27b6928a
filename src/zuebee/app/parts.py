"""Settings -> parts: firewall, kept answers, clients that leave, limits, money, and who is told of usage."""

import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from zuebee.admission.firewall import Counts, OpenFirewall, RuleFirewall
from zuebee.app.connect import redis_client, store_database
from zuebee.billing.list_prices import ListPrices
from zuebee.billing.pricing import PriceBook
from zuebee.billing.service import BillingService
from zuebee.config.settings import ProxySettings, Settings
from zuebee.config.settings_billing import ReporterSettings
from zuebee.contracts.admission import Firewall
from zuebee.idempotency.service import AnswerKeeper
from zuebee.idempotency.store import Grouped
from zuebee.ledger.errors import StoreBusy, StoreFailed
from zuebee.ledger.port import LedgerPort
from zuebee.ledger.sqlite.journal import Journal
from zuebee.ledger.sqlite.ledger import SqliteLedger
from zuebee.ledger.sqlite.store import SqliteStore
from zuebee.lib import clock
from zuebee.lib.sql.database import Database, DatabaseError, database_url
from zuebee.limits.redis_limiter import RedisLimiter
from zuebee.limits.service import MemoryLimiter
from zuebee.schema.currency import OtherCurrency, claim
from zuebee.schema.tables import kept_answers
from zuebee.telemetry.metrics import Metrics
from zuebee.telemetry.series import BalanceLike, BudgetGauges
from zuebee.usage.database import DatabaseSink
from zuebee.usage.gate import OutboxGate
from zuebee.usage.outbox import Outbox
from zuebee.usage.service import Planned, Reporter, Reporting, Sink
from zuebee.usage.webhook import WebhookSink

ANSWER_CONNECTIONS = 4


def build_firewall(settings: Settings, counts: Counts) -> Firewall:
    """The firewall of these settings; it goes on counting in `counts`."""
    return RuleFirewall(settings.firewall, counts) if settings.firewall.enabled else OpenFirewall()


def open_answers(settings: Settings) -> AnswerKeeper | None:
    """Who keeps answers; None: nobody does. Raises OSError or ValueError.

    On PostgreSQL they stand in the store. Beside a SQLite store they have a file of their own: answers are large, and
    nothing may make the ledger wait for the one writer that SQLite has.
    """
    kept, store = settings.idempotency, settings.store
    if not kept.enabled:
        return None
    if store.url:
        database = Database(
            database_url("postgres", store.url), timeout_s=store.timeout_s, max_connections=ANSWER_CONNECTIONS
        )
    else:
        path = answers_path(store.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # a new one is nobody else's to read, as the store
        database = Database(f"sqlite:///{path}", timeout_s=store.timeout_s, max_connections=1)
        try:
            database.call(lambda connection: kept_answers.create(connection, checkfirst=True))
        except DatabaseError as error:
            raise OSError(f"{path}: {error}") from None
    grouped = Grouped(database, timeout_s=2 * store.timeout_s, writers=ANSWER_CONNECTIONS if store.url else 1)
    return AnswerKeeper(grouped, retention_s=kept.retention_s, max_bytes=kept.max_answer_size)


def answers_path(store_path: str) -> Path:
    """The file of kept answers beside a SQLite store: `zuebee-answers.db` beside `zuebee.db`."""
    path = Path(store_path)
    return path.with_name(f"{path.stem}-answers{path.suffix}")


# Settings -> the limiter: counters in memory, or in Redis for many processes.


def build_limiter(settings: Settings) -> MemoryLimiter | RedisLimiter:
    """The limiter that the settings ask for. Redis need not be there yet."""
    limits, redis = settings.rate_limit, settings.redis
    if limits.storage == "memory" or not limits.enabled or redis is None:
        return MemoryLimiter(limits)
    client = redis_client(redis.url, timeout_s=redis.timeout_s, retry_after_s=redis.retry_after_s)
    return RedisLimiter(limits, client, prefix=redis.prefix)


def same_limiter(settings: Settings, running: Settings) -> bool:
    """Whether the running limiter can follow new settings."""
    ours, theirs = settings.rate_limit, running.rate_limit
    return (ours.storage, ours.processes, ours.enabled) == (theirs.storage, theirs.processes, theirs.enabled) or (
        ours.storage == theirs.storage == "memory"
    )


def lend_limits(limiter: MemoryLimiter | RedisLimiter, metrics: Metrics) -> None:
    """What the limits decided and hold, as metrics."""
    metrics.lend("zuebee_limiter_decisions_total", limiter.decisions)
    metrics.lend("zuebee_limiter_slots", limiter.slots)
    metrics.lend("zuebee_limiter_degraded", lambda: [((), float(limiter.degraded))])
    metrics.lend("zuebee_limiter_without_store_total", limiter.without_store)
    metrics.lend("zuebee_limiter_counters", limiter.counters)
    metrics.lend("zuebee_addresses_blocked", limiter.blocked_addresses)


# Settings -> the ledger and what belongs to it.

_log = logging.getLogger("zuebee.billing")

JOURNAL = ".settled"
"""What its name has behind the store's."""


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
    currency, days, hold_s = settings.billing.currency, settings.usage.retention_days, settings.billing.hold_s
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


# Settings -> those who tell others of each request.

EVENT_CONNECTIONS = 10
"""To the outbox, at most; they are opened as they are needed, and reporters come and go while the process runs."""


class ReportingPlan:
    """Makes the reporters that settings ask for."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def of(self, settings: Settings) -> list[Planned]:
        """Those that are on. To make one raises OSError or ValueError."""
        usage = settings.usage
        return [
            Planned(each.name, (each, settings.proxy), partial(self._make, each, settings.proxy))
            for each in (usage.reporters if usage.enabled else ())
            if each.enabled and each.type != "builtin"
        ]

    def _make(self, reporter: ReporterSettings, proxies: ProxySettings) -> Reporter:
        return Reporter(reporter.name, reporter.type, _sink(reporter, proxies), self._outbox)


def build_reporting(settings: Settings) -> tuple[Reporting, ReportingPlan]:
    """All reporters that are on, and what makes others. They begin with `start`. Raises OSError or ValueError."""
    usage = settings.usage
    database = store_database(settings.store, max_connections=EVENT_CONNECTIONS)
    outbox = Outbox(database)
    gate = OutboxGate(outbox, usage.max_outbox, refuse=usage.when_full == "refuse")
    plan = ReportingPlan(outbox)
    return Reporting(plan.of(settings), gate, usage.drain_s, close=database.close), plan


def lend_reporting(reporting: Reporting, metrics: Metrics) -> None:
    """Let the metrics show how the reporters stand."""
    metrics.lend("llmproxy_webhook_success_total", reporting.successes)
    metrics.lend("llmproxy_webhook_failure_total", reporting.failures)
    metrics.lend("zuebee_usage_deliveries_total", reporting.deliveries)
    metrics.lend("zuebee_usage_reporter_state", reporting.states)
    gate = reporting.gate
    metrics.lend("zuebee_usage_outbox_events", gate.sizes)
    metrics.lend("zuebee_usage_outbox_oldest_seconds", gate.ages)
    metrics.lend("zuebee_usage_outbox_parked", gate.parked)
    metrics.lend("zuebee_usage_outbox_fill", gate.fill)
    metrics.lend("zuebee_usage_outbox_alarm", gate.alarm)
    metrics.lend("zuebee_usage_outbox_counted_at_seconds", gate.counted_at)
    metrics.lend("zuebee_usage_outbox_counts_failed_total", gate.failures)
    metrics.lend("zuebee_usage_events_dropped_total", gate.lost)


def lend_budgets(balances: Callable[[], Iterable[BalanceLike]], metrics: Metrics, max_accounts: int) -> BudgetGauges:
    """Let the metrics show what is left in budgets."""
    gauges = BudgetGauges(balances, max_accounts, clock.wall_s)
    metrics.lend("zuebee_budget_granted", gauges.granted)
    metrics.lend("zuebee_budget_remaining", gauges.remaining)
    metrics.lend("zuebee_budgets", gauges.states)
    return gauges


def _sink(reporter: ReporterSettings, proxies: ProxySettings) -> Sink:
    if reporter.type == "database":
        return DatabaseSink(reporter)
    return WebhookSink(reporter, proxies.of(reporter.url or ""))
