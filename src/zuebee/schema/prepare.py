"""Brings a store to the newest schema: cheap when there is nothing to do, as at most starts."""

import sqlite3
from pathlib import Path

from zuebee.schema.version import (
    CONNECT_TIMEOUT_S,
    HEAD,
    check,
    check_whole,
    current_version,
    is_postgres,
    unusable,
)

CHECKED_BYTES = 64 << 20
"""SQLite files up to this size are checked whole at each start (about 0.1 s); `zuebee ledger verify` checks any."""


def prepare(url_or_path: str) -> None:
    """Bring a store to the schema of this code, from nothing or from any older one. Raises `SchemaError`.

    One transaction: whatever ends this process, the store has its old schema or the new one. Processes that start
    together may all call this; one migrates and the others wait for it. Blocks: not for the event loop.
    """
    version = current_version(url_or_path)
    check(version)
    if version < HEAD:
        from zuebee.schema import migrate  # costs 0.4 s of imports that a start without migrations can do without

        migrate.upgrade(url_or_path)
    elif not is_postgres(url_or_path):
        _check_file(Path(url_or_path))


def _check_file(path: Path) -> None:
    if path.stat().st_size > CHECKED_BYTES:
        return
    try:
        connection = sqlite3.connect(path, timeout=CONNECT_TIMEOUT_S)
        try:
            check_whole(path, connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise unusable(path, error) from None
