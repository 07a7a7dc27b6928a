"""A small ledger on disk in which everything has happened once, as a gateway would have written it."""

import sqlite3
from pathlib import Path

from tests.support.ledger_targets import empty_store
from zuebee.billing.batch import Batch
from zuebee.billing.ledger import HoldState, Ledger
from zuebee.billing.store_sqlite import SqliteStore
from zuebee.contracts.admission import Amount, Budget, Grant, Principal, Settlement
from zuebee.contracts.inference import Usage
from zuebee.contracts.periods import period_start_s

NOW_S = 1_794_700_000.0
KEY = Budget("key:k/tokens/daily", "tokens", "daily", 1_000)
TEAM = Budget("team:t/USD/never", "USD", "never", 5_000, 300)
ORGANISATION = Budget("organisation:o/USD/never", "USD", "never", None)
BUDGETS = (KEY, TEAM, ORGANISATION)
PRINCIPAL = Principal("k", "a key", team_id="t", organisation_id="o", budgets=BUDGETS)


def write_history(path: Path, *, rounds: int = 1) -> None:
    """Each round: a top-up, a post within the hold and one beyond it, an extension, a void, an expiry with a late
    settlement, a changed limit, and one hold that stays open.
    """
    empty_store(path)
    store = SqliteStore(str(path), reporters=("hook",), currency="USD", retention_days=0)
    ledger = Ledger(store.start("test", NOW_S).owner)
    starts_s = [period_start_s(budget.period, NOW_S) for budget in BUDGETS]
    for path_id, balances in store.open_path(BUDGETS, starts_s):
        ledger.add_path(path_id, [ledger.add_balance(balance) for balance in balances])
    try:
        for number in range(rounds):
            _round(store, ledger, number)
    finally:
        store.close()
    late = "(SELECT max(id) FROM usage_outbox GROUP BY event_id HAVING count(*) > 1)"
    change(path, f"UPDATE usage_outbox SET event_id = event_id || '/late' WHERE id IN {late}")


def _round(store: SqliteStore, ledger: Ledger, number: int) -> None:
    team = Budget(TEAM.account, TEAM.unit, TEAM.period, 1_000_000 + number % 2, TEAM.used_before)
    key = Budget(KEY.account, KEY.unit, KEY.period, 1_000_000_000)
    path = ledger.open_path((key, team, ORGANISATION), NOW_S)
    ledger.grant(f"payment-{number}", path.balances[2], 10_000, NOW_S)
    batch = Batch()
    for name, tokens, cost_nano in (("within", 40, 70), ("beyond", 150, 220), ("none", 0, 0), ("lost", 30, 60)):
        hold = f"{name}-{number}"
        held = ledger.reserve(hold, path, Amount(100, 200), NOW_S, NOW_S + 30, "")
        assert isinstance(held, HoldState)
        batch.progress.append((NOW_S + 30, 0, 0, hold))
        if name == "none":
            ledger.void(hold, NOW_S + 1)
        elif name == "lost":
            held.progress = Amount(tokens, cost_nano)
            ledger.expire(hold, NOW_S + 31)
            ledger.post(hold, Amount(tokens + 5, cost_nano + 9), NOW_S + 40)
            batch.records.append(_settled(hold, 5, 9))
        else:
            ledger.extend(hold, Amount(110, 210), NOW_S + 1)
            ledger.post(hold, Amount(tokens, cost_nano), NOW_S + 2)
        batch.records.append(_settled(hold, tokens, cost_nano))
    ledger.reserve(f"open-{number}", path, Amount(10, 20), NOW_S, NOW_S + 30, "")
    batch.changes = ledger.take()
    store.write(batch)


def _settled(hold: str, tokens: int, cost_nano: int) -> Settlement:
    usage = Usage(tokens // 2, tokens - tokens // 2, "provider") if tokens else None
    return Settlement(
        hold, "POST", "/v1/chat/completions", "127.0.0.1", NOW_S, 200, "complete", "", PRINCIPAL,
        Grant(PRINCIPAL, hold, "m"), "m", usage=usage, cost_nano=cost_nano,
    )  # fmt: skip


def change(path: Path, *statements: str) -> None:
    """Do what no gateway would: change rows by hand."""
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
