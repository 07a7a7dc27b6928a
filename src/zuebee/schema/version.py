"""Which schema a store has, read with one plain query, and why a store cannot be used."""

import sqlite3
from pathlib import Path

from zuebee.lib.sql.dsn import connection_words, reason

HEAD = 6
"""The newest schema that this code knows; a test holds it to the migrations."""

CONNECT_TIMEOUT_S = 10.0
LOCK_TIMEOUT_S = 120.0
"""How long to wait for another process that is migrating."""

_VERSION = "SELECT version_num FROM alembic_version"


# Libpq does not tell the code of a failure to connect, so its words must do. Words that are not known (a server may
# speak any language) are waited for: they are in the log.
_MISTAKES = (
    "authentication failed", "does not exist", "no such database", "no such user", "no password supplied",
    "no pg_hba.conf entry", "not permitted to log in", "permission denied", "unrecognized configuration parameter",
    "certificate", "but SSL was required", "unsupported startup parameter",
)  # fmt: skip
_NO_TRANSACTIONS = "statement pooling mode"  # PgBouncer's words
_POOL_MODE = "it must have `pool_mode = transaction` or `session`"
_NOT_YET = ("starting up", "shutting down", "accepting connections", "in recovery mode")
_FULL = ("too many", "slots are reserved", "no more connections")


class SchemaError(Exception):
    """The store cannot be used as it is; the message says why and what to do, and holds no address."""


class SchemaTooNew(SchemaError):
    """A newer ZueBee has migrated this store."""


class NoStore(SchemaError):
    """There is nothing, or a database that is no store yet."""


class StoreUnreadable(SchemaError):
    """It is damaged, or not a store of ZueBee."""


class StoreUnreachable(SchemaError):
    """The database does not answer, now. Trying again may help."""


class StoreRefused(SchemaError):
    """The database is there and does not let us in: a wrong password, name or certificate."""


def meaning_of(error: Exception, secret: str) -> SchemaError:
    """What a failure to connect to PostgreSQL means, with the cause: StoreUnreachable or StoreRefused."""
    words = connection_words(str(error)) or type(error).__name__
    shown = words.replace(secret, "***") if secret else words
    if _NO_TRANSACTIONS in words:
        return StoreRefused(f"the pooler before it allows no transactions: {_POOL_MODE} ({shown})")
    if any(sign in words for sign in _MISTAKES):
        return StoreRefused(f"the database does not let us in: {shown}")
    if any(sign in words for sign in _FULL):
        return StoreUnreachable(f"it has too many connections ({shown})")
    if any(sign in words for sign in _NOT_YET):
        return StoreUnreachable(f"it takes no connections yet ({shown})")
    return StoreUnreachable(f"it does not answer ({shown})")


def is_postgres(url_or_path: str) -> bool:
    """Whether this names a PostgreSQL database; anything else is the path of a SQLite file."""
    return url_or_path.startswith(("postgresql://", "postgres://"))


def current_version(url_or_path: str, timeout_s: float = CONNECT_TIMEOUT_S) -> int:
    """The schema of a store, 0 when it has none yet. Raises `SchemaError`."""
    if is_postgres(url_or_path):
        return _postgres_version(url_or_path, timeout_s)
    path = Path(url_or_path)
    return _sqlite_version(path, timeout_s) if path.exists() and path.stat().st_size else 0


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


def _sqlite_version(path: Path, timeout_s: float) -> int:
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=timeout_s)
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


def _postgres_version(url: str, timeout_s: float) -> int:
    import psycopg  # 0.15 s that a start on SQLite can do without

    from zuebee.lib.sql.postgres import connect

    try:
        with connect(url, timeout_s=timeout_s) as connection:
            row = connection.execute(_VERSION).fetchone()
    except psycopg.errors.UndefinedTable:
        return 0
    except psycopg.OperationalError as error:
        raise meaning_of(error, str(psycopg.conninfo.conninfo_to_dict(url).get("password") or "")) from None
    except psycopg.Error as error:
        if error.sqlstate is None:  # its words may hold a password that was not escaped
            raise StoreRefused(
                "the URL cannot be understood: special characters of a password must be escaped"
            ) from None
        raise StoreUnreadable(f"the database cannot be read: {reason(error)}") from None
    return parsed(None if row is None else row[0])
