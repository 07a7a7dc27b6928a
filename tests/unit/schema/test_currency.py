"""The currency of a store: who says it, who may say another, and what a store from before it knew takes over."""

import fcntl
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert

from tests.support.databases import postgres_database
from zuebee.lib.sql.database import Database, database_url
from zuebee.schema import migrate, tables
from zuebee.schema.currency import OtherCurrency, claim, find, hold_to
from zuebee.schema.prepare import prepare


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        prepare(f"{tmp_path}/z.db")
        database = Database(f"sqlite:///{tmp_path}/z.db", timeout_s=5.0)
        yield database
        database.close()
        return
    with postgres_database() as url:
        prepare(url)
        database = Database(database_url("postgres", url), timeout_s=5.0)
        yield database
        database.close()


MONEY = {
    "a budget": (tables.budgets, {"account": "key:k/USD/monthly", "unit": "USD", "amount": 5}),
    "a plan": (tables.plans, {"id": "p", "budgets": '[{"unit":"tokens"},{"unit":"USD","amount":5}]'}),
    "a payment": (tables.payments, {"id": "p", "currency": "USD", "amount_nano": 5}),
    "an invoice": (tables.invoices, {"number": "1", "currency": "USD", "ends_at_s": 1}),
    "unbilled usage": (
        tables.unbilled_usage,
        {"organization_id": "o", "month": 1, "user_id": "", "model": "m", "currency": "USD", "cost_nano": 5},
    ),
    "a day": (tables.usage_days, {"key_id": "k", "day": 1, "cost_nano": 5}),
    "a balance": (tables.ledger_balances, {"account": "key:k/USD/never", "unit": "USD", "granted": 5}),
    "a hold": (tables.ledger_holds, {"hold": "h", "cost_nano": 5, "path": 1, "owner": 1}),
    "a record": (tables.usage_records, {"request_id": "r", "cost_nano": 5}),
    "an entry": (tables.ledger_entries, {"kind": "post", "hold": "h", "cost_nano": 5}),
}
NO_MONEY = {
    "a budget": (tables.budgets, {"account": "key:k/tokens/monthly", "unit": "tokens", "amount": 5}),
    "a plan": (tables.plans, {"id": "p", "budgets": '[{"unit":"tokens","amount":5}]'}),
    "a payment": (tables.payments, {"id": "p", "currency": "tokens", "amount_nano": 5}),
    "a record": (tables.usage_records, {"request_id": "r", "prompt_tokens": 5}),
    "an entry": (tables.ledger_entries, {"kind": "post", "hold": "h", "tokens": 5}),
    "an empty balance": (tables.ledger_balances, {"account": "key:k/USD/never", "unit": "USD"}),
}


def add(store: Database, table: Any, row: dict[str, Any]) -> None:
    if "path" in row:
        add(store, tables.ledger_paths, {"balances": "1"})
        add(store, tables.ledger_owners, {"name": "a server of before", "ended_at_s": 1.0})
    store.call(lambda connection: connection.execute(insert(table).values(**row)))


def test_the_first_says_it_and_a_store_without_money_takes_over_another(store: Database) -> None:
    assert store.call(find) == ""
    for currency in ("USD", "USD", "JPY"):
        store.call(lambda connection, currency=currency: claim(connection, currency))
        assert store.call(find) == currency
    for table, row in NO_MONEY.values():
        add(store, table, row)
    store.call(lambda connection: claim(connection, "EUR"))
    assert store.call(find) == "EUR"


def test_with_any_money_in_it_another_one_is_refused(store: Database) -> None:
    for what, (table, row) in MONEY.items():
        print(what)
        refuse_another(store, table, row)


def refuse_another(store: Database, table: Any, row: dict[str, Any]) -> None:
    """With nothing else in the store, and until that is gone."""
    store.call(lambda connection: claim(connection, "USD"))
    add(store, table, row)
    with pytest.raises(OtherCurrency, match=r"in USD, and `billing.currency` is JPY: .*`billing.currency: USD` back"):
        store.call(lambda connection: claim(connection, "JPY"))
    store.call(lambda connection: claim(connection, "USD"))
    assert store.call(find) == "USD"
    for each in (table, tables.ledger_paths, tables.ledger_owners):
        store.call(lambda connection, each=each: connection.execute(delete(each)))
    store.call(lambda connection: claim(connection, "JPY"))
    assert store.call(find) == "JPY"


def test_while_a_server_runs_on_it_another_one_is_refused(tmp_path: Path) -> None:
    path = f"{tmp_path}/z.db"
    prepare(path)
    database = Database(f"sqlite:///{path}", timeout_s=5.0)
    database.call(lambda connection: claim(connection, "USD"))
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OtherCurrency, match="a server is running on it"):
            database.call(lambda connection: claim(connection, "JPY", path=path))
    database.call(lambda connection: claim(connection, "JPY", path=path))
    assert database.call(find) == "JPY"
    database.close()


def test_who_writes_money_in_another_one_is_refused_in_that_transaction(store: Database) -> None:
    store.call(lambda connection: hold_to(connection, "USD"))
    store.call(lambda connection: claim(connection, "USD"))
    store.call(lambda connection: hold_to(connection, "USD"))
    with pytest.raises(OtherCurrency):
        store.call(lambda connection: hold_to(connection, "JPY"))


SAYS = {
    "payments": "INSERT INTO payments (id, currency, at_s) VALUES ('1', 'JPY', 1), ('2', 'tokens', 9)",
    "invoices": "INSERT INTO invoices (number, currency) VALUES ('1', 'JPY')",
    "unbilled": "INSERT INTO unbilled_usage (organisation_id, month, user_id, model, currency, cost_nano)"
    " VALUES ('o', 1, '', 'm', 'JPY', 1), ('o', 2, '', 'm', '', 1)",
    "outbox": "INSERT INTO usage_outbox (event_id, currency) VALUES ('e', 'JPY'), ('f', '')",
    "budgets": "INSERT INTO budgets (account, unit) VALUES ('a', 'JPY'), ('b', 'tokens')",
    "balances": "INSERT INTO ledger_balances (account, unit) VALUES ('a', 'tokens'), ('b', 'JPY')",
    "nothing": "INSERT INTO budgets (account, unit) VALUES ('b', 'tokens')",
}


@pytest.mark.parametrize("what", SAYS)
def test_a_store_from_before_has_the_currency_that_its_rows_say(tmp_path: Path, what: str) -> None:
    assert migrated(tmp_path / "z.db", SAYS[what]) == ([] if what == "nothing" else [("JPY",)])


def test_of_several_the_newest_that_was_paid_or_billed_counts_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = (
        "INSERT INTO payments (id, currency, at_s) VALUES ('1', 'USD', 5), ('2', 'EUR', 1);"
        "INSERT INTO invoices (number, currency, created_at_s) VALUES ('1', 'EUR', 3);"
        "INSERT INTO usage_outbox (event_id, currency) VALUES ('e', 'JPY')"
    )
    assert migrated(tmp_path / "z.db", rows) == [("USD",)]
    assert "amounts in USD and in EUR, JPY: from now on it counts in USD" in caplog.text


def test_a_store_from_before_on_postgres() -> None:
    with postgres_database() as url:
        migrate.upgrade(url, "0004")
        database = Database(database_url("postgres", url), timeout_s=5.0)
        add_row = "INSERT INTO payments (id, currency, at_s) VALUES ('1', 'JPY', 1)"
        database.call(lambda connection: connection.exec_driver_sql(add_row))
        prepare(url)
        assert database.call(find) == "JPY"
        database.close()


def migrated(path: Path, rows: str) -> list[tuple[str]]:
    migrate.upgrade(str(path), "0004")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(rows)
    prepare(str(path))
    found = connection.execute("SELECT value FROM store_facts WHERE name = 'currency'").fetchall()
    connection.close()
    return found
