"""What an operator asks the ledger: balances, last entries, open holds. Reads only; any SQLAlchemyError passes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from zuebee.billing.verify import begin_snapshot, store_time_s, verify
from zuebee.billing.verify_entries import Violation
from zuebee.kit.database import Database, DatabaseError, database_url
from zuebee.kit.driver_words import reason
from zuebee.schema.currency import find

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
_HEADS = """
SELECT owner, sequence, hash FROM ledger_batches b
WHERE sequence = (SELECT max(sequence) FROM ledger_batches WHERE owner = b.owner) ORDER BY owner
"""
_HASH = "SELECT hash FROM ledger_batches WHERE owner = :owner AND sequence = :sequence"


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The newest batch of an owner. Its hash stands for all entries of that owner up to it."""

    owner: int
    sequence: int
    hash: str


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
        raise DatabaseError(reason(error)) from error
    finally:
        database.close()


def violations(
    connection: Connection, *, sweep_s: float, records_since_s: float, said: Callable[[str], None] = lambda _: None
) -> Iterator[Violation]:
    """See `verify`."""
    return verify(connection, sweep_s=sweep_s, records_since_s=records_since_s, said=said)


def currency(connection: Connection) -> str:
    """That of all money in the store; empty if nobody has said it yet, or a version before schema 5 wrote it."""
    known = inspect(connection).has_table("store_facts")
    return find(connection) if known else ""


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


def heads_of(connection: Connection) -> list[Head]:
    """The ends of the chains of all owners, to be kept elsewhere: who changes the ledger later cannot change those."""
    return [Head(*row) for row in connection.execute(text(_HEADS))]


def heads_text(heads: Iterable[Head]) -> str:
    """Heads as they are kept: one JSON object a line."""
    return "".join(msgspec.json.encode(head).decode() + "\n" for head in heads)


def heads_from(kept: str) -> list[Head]:
    """Heads that were kept. Raises ValueError."""
    return [msgspec.json.decode(line, type=Head) for line in kept.splitlines() if line.strip()]


def missing(connection: Connection, kept: Iterable[Head]) -> Iterator[Violation]:
    """Which of these heads are not in their chains any more. Whether the entries give the hashes says `verify`."""
    for head in kept:
        values = {"owner": head.owner, "sequence": head.sequence}
        found = connection.execute(text(_HASH), values).scalar()
        if found is None:
            yield Violation("I5", "", f"owner {head.owner}: batch {head.sequence} was there once, and is gone")
        elif found != head.hash:
            yield Violation("I5", "", f"owner {head.owner}: batch {head.sequence} once had another hash")


def _dicts(connection: Connection, sql: str, **values: object) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(text(sql), values).mappings()]
