"""The currency of a store: all money in it is of one, whatever settings say later.

A store without any money takes over what the settings say, unless a server is running on it.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, select, text, update

from zuebee.schema import tables

SILENT_S = 600.0
"""PostgreSQL: whoever gave no sign of life for so long is no running server."""

LOOK_S = 3600.0
"""The longest look for money."""

_FIND = "SELECT value FROM store_facts WHERE name = 'currency'"
_FIRST = "INSERT INTO store_facts (name, value) VALUES ('currency', :currency) ON CONFLICT (name) DO NOTHING"
_TAKE_OVER = "UPDATE store_facts SET value = :currency WHERE name = 'currency'"
_SERVING = """
SELECT 1 FROM ledger_owners WHERE ended_at_s = 0 AND name <> 'payments'
    AND seen_at_s > extract(epoch FROM clock_timestamp()) - :silent_s LIMIT 1
"""
_b, _e, _h = tables.ledger_balances.c, tables.ledger_entries.c, tables.ledger_holds.c

# The small tables first: one finding is enough.
_MONEY: tuple[Select[Any], ...] = tuple(
    select(1).where(condition).limit(1)
    for condition in (
        tables.budgets.c.unit != "tokens",
        tables.payments.c.currency != "tokens",
        tables.invoices.c.number != "",
        tables.unbilled_usage.c.cost_nano != 0,
        tables.usage_days.c.cost_nano != 0,
        (_b.unit != "tokens") & ((_b.granted != 0) | (_b.used != 0) | (_b.held != 0) | (_b.overdraft != 0)),
        (_h.cost_nano != 0) | (_h.progress_cost_nano != 0),
        tables.usage_records.c.cost_nano != 0,
        (_e.cost_nano != 0) | (_e.released_cost_nano != 0),
    )
)


class OtherCurrency(Exception):
    """The settings have another currency than the store; the message says what to do."""

    def __init__(self, stores: str, settings: str, why: str = "there is money in it") -> None:
        super().__init__(
            f"the store counts money in {stores}, and `billing.currency` is {settings}: {why}. "
            f"Put `billing.currency: {stores}` back, or use another store (docs/store.md#currency)"
        )


def find(connection: Connection) -> str:
    """The currency of the store; empty if nobody has said it yet."""
    return str(connection.execute(text(_FIND)).scalar() or "")


def claim(connection: Connection, currency: str, *, path: str = "", waiting: bool = False) -> None:
    """Let the store count in this currency, in a transaction that has just begun. Raises OtherCurrency.

    `path`: of a SQLite file, whose lock tells whether another process serves from it; empty where that is out of
    question. `waiting`: there are settlements that are not in the store yet.
    """
    if find(connection) == currency:
        return
    if connection.dialect.name == "sqlite":
        if not connection.connection.in_transaction:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        lock = ""
    else:
        lock = " FOR UPDATE"
    connection.execute(text(_FIRST), {"currency": currency})
    known = str(connection.execute(text(_FIND + lock)).scalar_one())
    if known == currency:
        return
    with _unhurried(connection):
        if waiting or _has_money(connection):
            raise OtherCurrency(known, currency)
        if _is_served(connection, path):
            raise OtherCurrency(known, currency, "a server is running on it")
        connection.execute(text(_TAKE_OVER), {"currency": currency})
        connection.execute(update(tables.ledger_owners).values(currency=currency))


def hold_to(connection: Connection, currency: str) -> None:
    """Make sure, in a transaction that writes money, that the store has this currency until its end.

    Raises OtherCurrency. A store that has none yet, or is none of ours, says nothing.
    """
    lock = "" if connection.dialect.name == "sqlite" else " FOR SHARE"
    known = connection.execute(text(_FIND + lock)).scalar()
    if known not in (None, currency):
        raise OtherCurrency(str(known), currency)


@contextmanager
def _unhurried(connection: Connection) -> Iterator[None]:
    """To look for money in many records takes longer than a statement may else, by the server's clock and by ours."""
    if connection.dialect.name == "sqlite":
        yield
        return
    link: Any = connection.connection.dbapi_connection  # see lib/sql/postgres.py
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    before_s, link.wait_s = link.wait_s, LOOK_S
    try:
        yield
    finally:
        link.wait_s = before_s


def _has_money(connection: Connection) -> bool:
    for query in _MONEY:
        if connection.execute(query).first() is not None:
            return True
    plans = connection.execute(select(tables.plans.c.budgets).where(tables.plans.c.budgets != "[]")).scalars()
    return any(budget["unit"] != "tokens" for budgets in plans for budget in msgspec.json.decode(budgets))


def _is_served(connection: Connection, path: str) -> bool:
    if connection.dialect.name != "sqlite":
        return connection.execute(text(_SERVING), {"silent_s": SILENT_S}).first() is not None
    if not path:
        return False
    with suppress(FileNotFoundError), open(f"{path}.lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
