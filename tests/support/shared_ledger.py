"""The ledger on PostgreSQL for tests: stores, operations, and the books as they stand."""

import hashlib
import json
from collections import Counter
from typing import Any

import psycopg

from zuebee.contracts.admission import Amount, Budget, Grant, Principal, Settlement
from zuebee.contracts.inference import Usage
from zuebee.ledger.decide import record_of
from zuebee.ledger.entries import Figures, HoldState, Short
from zuebee.ledger.operations import Answer, Record, Reserve, Settle
from zuebee.ledger.postgres.store import PostgresStore

AT_S = 1_800_000_000.0
WAITS_FOR_A_LOCK = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
PRINCIPAL = Principal("key_1", "mine", "me")


def store_on(
    url: str, *, hold_s: float = 30.0, timeout_s: float = 5.0, reporters: tuple[str, ...] = ()
) -> PostgresStore:
    store = PostgresStore(
        url, reporters=reporters, currency="USD", retention_days=0, timeout_s=timeout_s, hold_s=hold_s
    )
    store.start("test")
    return store


def reserve(
    hold: str,
    budgets: tuple[Budget, ...],
    tokens: int,
    cost_nano: int = 0,
    hold_s: float = 30.0,
    least: int | None = None,
) -> Reserve:
    enough = None if least is None else Amount(least)
    return Reserve(hold, budgets, Amount(tokens, cost_nano), AT_S, hold_s, least=enough)


def record(request_id: str, tokens: int = 0, cost_nano: int = 0, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "request_id": request_id,
        "method": "POST",
        "route": "/v1/chat/completions",
        "address": "",
        "at_s": AT_S,
        "principal": PRINCIPAL,
        "grant": Grant(PRINCIPAL),
        "usage": Usage(tokens, 0, "provider") if tokens else None,
        "cost_nano": cost_nano,
    }
    return record_of(Settlement(**{**fields, **changes}), billed=True)


def post(hold: str, tokens: int, cost_nano: int = 0) -> Settle:
    return Settle(hold, Amount(tokens, cost_nano), record(hold, tokens, cost_nano))


def void(hold: str) -> Settle:
    return Settle(hold, None, record(hold))


def told(answer: Answer) -> tuple[object, ...] | None:
    """What a caller sees of an answer."""
    if isinstance(answer, HoldState):
        return answer.id, answer.state, answer.tokens, answer.cost_nano, answer.charged
    if isinstance(answer, Short):
        return answer.account, answer.available, answer.asked
    return None


def query(url: str, question: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(question.encode(), values or None).fetchall()


def empty(url: str) -> None:
    """As if nothing had happened."""
    tables = "ledger_entries, ledger_balances, ledger_paths, ledger_holds, ledger_batches, ledger_owners, usage_records"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"TRUNCATE {tables} RESTART IDENTITY".encode())
        connection.execute("DELETE FROM counters WHERE name LIKE 'chain/%'")


def balances(url: str) -> dict[str, tuple[int, ...]]:
    """By account: granted, held, used, overdraft, limited."""
    with psycopg.connect(url, autocommit=True) as connection:
        return balances_on(connection)


def balances_on(connection: "psycopg.Connection[tuple[Any, ...]]") -> dict[str, tuple[int, ...]]:
    """The same, asked for on a connection."""
    rows = connection.execute("SELECT account, granted, held, used, overdraft, limited FROM ledger_balances")
    return {row[0]: row[1:] for row in rows}


def check_books(url: str) -> None:
    """Balances are what their entries say, holds are what is held, chains are whole, records say what was charged."""
    paths = {number: [int(each) for each in names.split(",")] for number, names in query(url, "TABLE ledger_paths")}
    units = dict(query(url, "SELECT id, unit FROM ledger_balances"))
    folded = {number: Figures() for number in units}
    entries = query(
        url,
        "SELECT owner, batch, kind, hold, step, path, tokens, cost_nano, released_tokens, released_cost_nano, at_s"
        " FROM ledger_entries ORDER BY id",
    )
    rows: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
    for owner, batch, kind, hold, step, path, tokens, cost, released, released_cost, at_s in entries:
        for number in paths[path]:
            of_tokens = units[number] == "tokens"
            figures = folded[number]
            figures.add(kind, tokens if of_tokens else cost, released if of_tokens else released_cost)
            assert figures.held >= 0
        row = (batch, kind, hold, step, path, tokens, cost, released, released_cost, owner, at_s)
        rows.setdefault((owner, batch), []).append(row)
    stored = query(url, "SELECT id, granted, held, used, overdraft FROM ledger_balances")
    told = {number: (each.granted, each.held, each.used, each.overdraft) for number, each in folded.items()}
    assert told == {number: tuple(figures) for number, *figures in stored}
    held: Counter[int] = Counter()
    for path, tokens, cost in query(url, "SELECT path, tokens, cost_nano FROM ledger_holds"):
        for number in paths[path]:
            held[number] += tokens if units[number] == "tokens" else cost
    assert {number: each.held for number, each in folded.items()} == {number: held[number] for number in folded}
    _check_chains(url, rows)


def _check_chains(url: str, rows: dict[tuple[int, int], list[tuple[Any, ...]]]) -> None:
    last: dict[int, tuple[int, str]] = {}
    chained = query(url, "SELECT owner, sequence, entries, hash FROM ledger_batches ORDER BY owner, sequence")
    for owner, sequence, count, digest in chained:
        before, previous = last.get(owner, (0, ""))
        assert sequence == before + 1
        said = rows.pop((owner, sequence))
        assert count == len(said)
        text = previous + json.dumps(said, separators=(",", ":"), ensure_ascii=False)
        assert digest == hashlib.sha256(text.encode()).hexdigest()
        last[owner] = (sequence, digest)
    assert rows == {}


def check_usage(url: str) -> None:
    """Records and totals of days say the same as what was charged through holds with records."""
    totals = "SELECT coalesce(sum({}), 0)::int8, coalesce(sum(cost_nano), 0)::int8 FROM {}"
    of_records = query(url, totals.format("total_tokens", "usage_records"))
    of_days = query(url, totals.format("prompt_tokens + completion_tokens", "usage_days"))
    assert of_records == of_days
