"""A small ledger on disk in which everything has happened once, as a gateway would have written it."""

import sqlite3
from pathlib import Path

from tests.support.empty_stores import empty_store
from zuebee.contracts.admission import Amount, Budget, Grant, Principal, Settlement
from zuebee.contracts.inference import Usage
from zuebee.contracts.limits import period_start_s
from zuebee.ledger.decide import record_of
from zuebee.ledger.entries import HoldState
from zuebee.ledger.ledger import Ledger
from zuebee.ledger.sqlite.group_commit import Batch
from zuebee.ledger.sqlite.store import SqliteStore
from zuebee.lib import clock

NOW_S = 1_794_700_000.0
STILL_OPEN_S = 9e9
KEY = Budget("key:k/tokens/daily", "tokens", "daily", 1_000)
TEAM = Budget("team:t/USD/never", "USD", "never", 5_000, 300)
ORGANIZATION = Budget("organization:o/USD/never", "USD", "never", None)
BUDGETS = (KEY, TEAM, ORGANIZATION)
PRINCIPAL = Principal("k", "a key", team_id="t", organization_id="o", budgets=BUDGETS)


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
    team = Budget(TEAM.account, TEAM.unit, TEAM.period, 1_000_000_000 + number % 2, TEAM.used_before)
    key = Budget(KEY.account, KEY.unit, KEY.period, 1_000_000_000)
    path = ledger.open_path((key, team, ORGANIZATION), NOW_S)
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
            batch.records.append(record_of(_settled(hold, 5, 9), billed=True))
        else:
            ledger.extend(hold, Amount(110, 210), NOW_S + 1)
            ledger.post(hold, Amount(tokens, cost_nano), NOW_S + 2)
        batch.records.append(record_of(_settled(hold, tokens, cost_nano), billed=True))
    ledger.reserve(f"open-{number}", path, Amount(10, 20), NOW_S, STILL_OPEN_S, "")
    batch.changes = ledger.take()
    store.write(batch)


def _settled(hold: str, tokens: int, cost_nano: int) -> Settlement:
    usage = Usage(tokens // 2, tokens - tokens // 2, "provider") if tokens else None
    return Settlement(
        hold, "POST", "/v1/chat/completions", "127.0.0.1", NOW_S, 200, "complete", "", PRINCIPAL,
        Grant(PRINCIPAL), "m", usage=usage, cost_nano=cost_nano,
    )  # fmt: skip


def change(path: Path, *statements: str) -> None:
    """Do what no gateway would: change rows by hand."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA ignore_check_constraints=ON")
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


UNIQUE_OFF = "DROP INDEX ledger_entries_once"
AGAIN = (
    "INSERT INTO ledger_entries (batch, kind, hold, step, path, tokens, cost_nano, released_tokens,"
    " released_cost_nano, owner, at_s) SELECT batch, kind, hold, step, path, tokens, cost_nano, released_tokens,"
    " released_cost_nano, owner, at_s FROM ledger_entries WHERE {}"
)
LIVE = f"UPDATE ledger_owners SET ended_at_s = 0, started_at_s = 1, seen_at_s = {clock.wall_s() + 1000}"

# What is broken by hand, and the invariant that must be named. Others may be named beside it: one wrong row can
# contradict several of them.
BROKEN = {
    "a balance that its entries do not explain": ("I1", ["UPDATE ledger_balances SET used = used + 1 WHERE id = 1"]),
    "less granted than used": ("I2", ["UPDATE ledger_balances SET granted = 5 WHERE id = 2"]),
    "a negative balance": ("I2", ["UPDATE ledger_balances SET held = -1 WHERE id = 1"]),
    "a hold resolved twice": ("I3", [UNIQUE_OFF, AGAIN.format("hold = 'within-1' AND step = 1")]),
    "a hold neither open nor resolved": ("I3", ["DELETE FROM ledger_holds WHERE hold = 'open-1'"]),
    "an open hold that was resolved": (
        "I3",
        ["UPDATE ledger_holds SET hold = 'within-1' WHERE hold = 'open-1'"],
    ),
    "a hold that nobody expired": ("I4", [LIVE, "UPDATE ledger_holds SET expires_at_s = 1000"]),
    "a charge beyond the hold": ("I5", ["UPDATE ledger_entries SET tokens = 111 WHERE hold = 'within-1' AND step = 1"]),
    "a changed entry": ("I5", ["UPDATE ledger_entries SET at_s = at_s + 1 WHERE hold = 'none-2' AND step = 0"]),
    "a removed entry": ("I5", ["DELETE FROM ledger_entries WHERE hold = 'beyond-1' AND step IS NULL"]),
    "a removed batch": (
        "I5",
        [f"DELETE FROM ledger_{t} = 2" for t in ("entries WHERE batch", "batches WHERE sequence")],
    ),
    "an overdraft of nothing": ("I5", ["UPDATE ledger_entries SET hold = 'other' WHERE kind = 'overdraft'"]),
    "two usage records of one request": (
        "I6",
        ["UPDATE usage_records SET request_id = 'within-1' WHERE request_id = 'none-1'"],
    ),
    "a usage record of other tokens": ("I6", ["UPDATE usage_records SET prompt_tokens = 1 WHERE id = 1"]),
    "a usage record of another price": ("I6", ["UPDATE usage_records SET cost_nano = 1 WHERE request_id = 'within-1'"]),
    "a charge without a usage record": ("I8", ["DELETE FROM usage_records WHERE request_id = 'within-1'"]),
    "an event that stands twice in the outbox": (
        "I8",
        [
            "INSERT INTO usage_outbox (event_id, reporter, payload, created_at_s, due_at_s)"
            " SELECT event_id, reporter, payload, created_at_s, due_at_s FROM usage_outbox WHERE event_id = 'none-1'"
        ],
    ),
    "an event of nothing": ("I8", ["UPDATE usage_outbox SET event_id = 'ghost' WHERE event_id = 'none-1'"]),
    "an event of another request": ("I8", ["UPDATE usage_outbox SET record = record + 1 WHERE event_id = 'none-1'"]),
    "a hold that left a level out": ("I9", ["UPDATE ledger_entries SET path = 2 WHERE hold = 'within-1' AND step = 1"]),
    "a path to nowhere": ("I9", ["UPDATE ledger_paths SET balances = balances || ',99' WHERE id = 1"]),
    "a path that is none": ("I9", ["UPDATE ledger_paths SET balances = 'x,y' WHERE id = 1"]),
    "a limit that no entry gave": ("I1", ["UPDATE ledger_balances SET limited = limited + 1 WHERE id = 1"]),
    "an account under another name": (
        "I1",
        ["UPDATE ledger_balances SET account = 'key:x/tokens/daily' WHERE id = 1"],
    ),
    "an account in another unit": ("I14", ["UPDATE ledger_balances SET unit = 'EUR' WHERE id = 2"]),
    "an amount that is no number": ("I5", ["UPDATE ledger_entries SET tokens = 'many' WHERE hold = 'within-1'"]),
    "half a token": ("I5", ["UPDATE ledger_entries SET tokens = 0.5 WHERE hold = 'within-1' AND step = 1"]),
    "a balance that is no number": ("I1", ["UPDATE ledger_balances SET used = 'much' WHERE id = 1"]),
    "a hold of no number": ("I3", ["UPDATE ledger_holds SET tokens = 'few' WHERE hold = 'open-1'"]),
    "money from nowhere": ("I1", ["UPDATE ledger_balances SET granted = granted + 1 WHERE id = 3"]),
    "a phantom hold": ("I11", ["UPDATE ledger_balances SET held = held + 7 WHERE id = 1"]),
    "owed to nobody": ("I11", ["UPDATE ledger_balances SET owed = 7 WHERE id = 2"]),
    "a debt that its balances do not know": ("I11", ["UPDATE ledger_holds SET owed_tokens = 5 WHERE hold = 'open-1'"]),
    "a grant counted twice": ("I13", [UNIQUE_OFF, AGAIN.format("hold = 'payment-1'")]),
    "a reserve in another period": (
        "I14",
        [f"UPDATE ledger_balances SET starts_at_s = {NOW_S - NOW_S % 86400 - 86400} WHERE id = 1"],
    ),
    "a period that starts at noon": ("I14", ["UPDATE ledger_balances SET starts_at_s = 43200 WHERE id = 1"]),
    "one account twice on a path": ("I14", ["UPDATE ledger_paths SET balances = '1,2,3,2' WHERE id = 1"]),
}  # fmt: skip
