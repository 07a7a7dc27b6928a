"""A credit in the transaction of whoever counts the payment: decided by the ledger, written by the store's own writer.

It has an owner for itself, as every process has one: a running server on SQLite finds it by that, one on PostgreSQL
sees it in the balance when it next reads it.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from zuebee.contracts.usage import head_name
from zuebee.ledger.entries import Balance
from zuebee.ledger.ledger import Ledger
from zuebee.ledger.operations import Credit
from zuebee.ledger.snapshot import Snapshot
from zuebee.schema.tables import counters, ledger_balances, ledger_owners, ledger_paths

OWNER_NAME = "payments"
_BALANCE = (
    "id", "account", "unit", "period", "starts_at_s", "granted", "held", "used", "overdraft", "limited", "changes",
    "owed", "apart",
)  # fmt: skip


def credit(connection: Connection, operation: Credit) -> None:
    """Do it, in the caller's transaction. The balance is locked before the path, as by all who write to the ledger.

    Raises TooMuch.
    """
    balance = _balance(connection, operation)
    path_id = _path(connection, balance.id)
    at_s = operation.at_s
    owner_row = {"name": OWNER_NAME, "started_at_s": at_s, "seen_at_s": at_s, "ended_at_s": at_s}
    statement = insert(ledger_owners).values(**owner_row).returning(ledger_owners.c.id)
    owner = int(connection.execute(statement).scalar_one())
    ledger = Ledger(owner)
    ledger.add_path(path_id, [ledger.add_balance(balance)])
    snapshot = Snapshot(ledger, at_s, 0, "")
    snapshot.decide([operation])
    try:
        _write(connection, owner, snapshot)
    except connection.dialect.loaded_dbapi.Error as error:
        raise DBAPIError(None, None, error) from error  # as SQLAlchemy itself tells of it
    connection.execute(insert(counters).values(name=head_name(owner), value=1))


def _write(connection: Connection, owner: int, snapshot: Snapshot) -> None:
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "postgresql":
        from zuebee.ledger.postgres.store import write_ledger  # its driver takes 0.15 s to import

        write_ledger(driver, owner, snapshot)
    else:
        from zuebee.ledger.sqlite.store import write_entries

        write_entries(driver, owner, 1, "", snapshot.ledger.take().entries)


def _balance(connection: Connection, operation: Credit) -> Balance:
    """The account's balance, made if missing, and locked."""
    row = {"account": operation.account, "unit": operation.unit, "period": "never", "starts_at_s": 0}
    connection.execute(insert_if_missing(connection, ledger_balances, row))
    columns = ledger_balances.c
    found = connection.execute(
        select(*(columns[name] for name in _BALANCE))
        .where(columns.account == operation.account, columns.starts_at_s == 0)
        .with_for_update()
    )
    return Balance(*found.one())


def _path(connection: Connection, balance_id: int) -> int:
    connection.execute(insert_if_missing(connection, ledger_paths, {"balances": str(balance_id)}))
    found = connection.execute(select(ledger_paths.c.id).where(ledger_paths.c.balances == str(balance_id)))
    return int(found.scalar_one())


def insert_if_missing(connection: Connection, table: Any, row: Mapping[str, Any]) -> Any:
    """A statement that adds a row unless there is one with its key."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).values(**row).on_conflict_do_nothing()
    return sqlite.insert(table).values(**row).on_conflict_do_nothing()
