"""Which schema a store has, read with one plain query, and why a store cannot be used."""

import sqlite3
from pathlib import Path

HEAD = 2
"""The newest schema that this code knows; a test holds it to the migrations."""

CONNECT_TIMEOUT_S = 10.0
LOCK_TIMEOUT_S = 120.0
"""How long to wait for another process that is migrating."""

_VERSION = "SELECT version_num FROM alembic_version"


class SchemaError(Exception):
    """The store cannot be used as it is; the message says why and what to do, and holds no address."""


class SchemaTooNew(SchemaError):
    """A newer ZueBee has migrated this store."""


class StoreUnreadable(SchemaError):
    """It is damaged, or not a store of ZueBee."""


class StoreUnreachable(SchemaError):
    """The database does not answer, now. Trying again may help."""


class StoreRefused(SchemaError):
    """The database is there and does not let us in: a wrong password, name or certificate."""


def is_postgres(url_or_path: str) -> bool:
    """Whether this names a PostgreSQL database; anything else is the path of a SQLite file."""
    return url_or_path.startswith(("postgresql://", "postgres://"))


def current_version(url_or_path: str) -> int:
    """The schema of a store, 0 when it has none yet. Raises `SchemaError`."""
    if is_postgres(url_or_path):
        return _postgres_version(url_or_path)
    path = Path(url_or_path)
    return _sqlite_version(path) if path.exists() and path.stat().st_size else 0


def check(version: int) -> None:
    """Raises `SchemaTooNew` for a schema that this code does not know."""
    if version > HEAD:
        raise SchemaTooNew(
            f"the store has schema {version} and this version of ZueBee knows {HEAD}: a newer one has been here. "
            "Start that one, or restore the back-up from before the upgrade."
        )


def parsed(number: str | None) -> int:
    """The version as the store has it written down. Raises `StoreUnreadable`."""
    if number is None:
        return 0
    if not (number.isascii() and number.isdigit()):
        raise StoreUnreadable("the database is in use by another program: its alembic_version is not ZueBee's")
    return int(number)


def _sqlite_version(path: Path) -> int:
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=CONNECT_TIMEOUT_S)
        try:
            row = connection.execute(_VERSION).fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        if "no such table" in str(error):
            return 0
        raise unusable(path, error) from None
    return parsed(None if row is None else row[0])


def unusable(path: Path, error: sqlite3.Error) -> SchemaError:
    """What a failure on a SQLite file means."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreUnreachable(f"{path} is locked by another process")
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return StoreUnreadable(f"{path} is damaged or not a SQLite file ({error}). Restore it from a back-up.")
    return StoreUnreadable(f"{path}: {error}")


def check_whole(path: Path, connection: sqlite3.Connection) -> None:
    """Raises `StoreUnreadable` for a SQLite file with a damaged page."""
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreUnreadable(f"{path} is damaged ({found.splitlines()[-1]}). Restore it from a back-up.")


def _postgres_version(url: str) -> int:
    import psycopg  # 0.15 s that a start on SQLite can do without

    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=round(CONNECT_TIMEOUT_S)) as connection:
            row = connection.execute(_VERSION).fetchone()
    except psycopg.errors.UndefinedTable:
        return 0
    except psycopg.OperationalError as error:
        # The driver's words may hold the address.
        raise StoreUnreachable(f"the database does not answer ({type(error).__name__})") from None
    except psycopg.Error as error:
        raise StoreUnreadable(f"the database cannot be read ({type(error).__name__})") from None
    return parsed(None if row is None else row[0])
