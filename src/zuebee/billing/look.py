"""What an operator asks the ledger: balances, last entries, open holds. Reads only; any SQLAlchemyError passes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from zuebee.billing.verify import begin_snapshot, store_time_s, verify
from zuebee.billing.verify_entries import Violation
from zuebee.kit.database import Database, DatabaseError, database_url

TIMEOUT_S = 24 * 3600.0
"""For a check of a very large ledger; the report is written while it runs."""

_BALANCES = """
SELECT id, account, unit, period, starts_at_s, granted, used, held, overdraft FROM ledger_balances
WHERE account = :account ORDER BY starts_at_s DESC LIMIT :shown
"""
_LAST_ENTRIES = """
SELECT e.id, e.at_s, e.kind, e.hold, e.tokens, e.cost_nano, e.released_tokens, e.released_cost_nano
FROM ledger_entries e WHERE e.path IN
    (SELECT p.id FROM ledger_paths p WHERE ',' || p.balances || ',' LIKE :balance)
ORDER BY e.id DESC LIMIT :shown
"""
_HOLDS = """
SELECT hold, tokens, cost_nano, progress_tokens, progress_cost_nano, owner, expires_at_s
FROM ledger_holds ORDER BY expires_at_s, hold LIMIT :shown
"""


@contextmanager
def reading(store: str) -> Iterator[Connection]:
    """A connection to a SQLite file or a postgresql:// URL, closed at the end. Raises DatabaseError, or ValueError if
    it is no URL.
    """
    url = database_url("postgres" if "://" in store else "sqlite", store)
    database = Database(url, timeout_s=TIMEOUT_S, max_connections=1)
    try:
        with database.engine.begin() as connection:
            yield connection
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise DatabaseError(f"{type(cause).__name__}: {cause}".partition("\n")[0]) from error
    finally:
        database.close()


def violations(connection: Connection, *, sweep_s: float, records_since_s: float) -> Iterator[Violation]:
    """See `verify`."""
    return verify(connection, sweep_s=sweep_s, records_since_s=records_since_s)


def count_entries(connection: Connection) -> int:
    """How many entries the ledger has."""
    return int(connection.execute(text("SELECT count(*) FROM ledger_entries")).scalar_one())


def account(connection: Connection, name: str, shown: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The balances of an account, newest period first, and the last entries of the newest. Empty: there is none."""
    begin_snapshot(connection)
    balances = _dicts(connection, _BALANCES, account=name, shown=shown)
    for balance in balances:
        balance["available"] = balance["granted"] - balance["used"] - balance["held"]
    if not balances:
        return [], []
    return balances, _dicts(connection, _LAST_ENTRIES, balance=f"%,{balances[0]['id']},%", shown=shown)


def open_holds(connection: Connection, shown: int) -> tuple[list[dict[str, Any]], int]:
    """The holds that expire first, each with `expires_in_s`, and how many there are in all."""
    begin_snapshot(connection)
    now_s = store_time_s(connection)
    found = _dicts(connection, _HOLDS, shown=shown)
    for hold in found:
        hold["expires_in_s"] = round(hold["expires_at_s"] - now_s, 3)
    return found, int(connection.execute(text("SELECT count(*) FROM ledger_holds")).scalar_one())


def _dicts(connection: Connection, sql: str, **values: object) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(text(sql), values).mappings()]
