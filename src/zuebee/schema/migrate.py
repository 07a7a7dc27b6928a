"""Takes a store through the migrations it has not seen. Only imported when there are any."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from zuebee.lib.sql.dsn import reason
from zuebee.schema.version import (
    CONNECT_TIMEOUT_S,
    HEAD,
    LOCK_TIMEOUT_S,
    SchemaError,
    StoreUnreachable,
    StoreUnreadable,
    check,
    check_whole,
    is_postgres,
    parsed,
    unusable,
)

_LOCK = 0x7A756562656500  # any number that other programs are unlikely to lock


def scripts() -> ScriptDirectory:
    """The migrations of this code."""
    config = Config()
    folder = Path(__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("version_locations", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    return ScriptDirectory.from_config(config)


def upgrade(url_or_path: str, revision: str = "head", said: Callable[[str], None] = lambda _: None) -> None:
    """Run the missing migrations, up to `revision`, in one transaction. `said` hears of each that is done.

    Raises `SchemaError`.
    """
    if is_postgres(url_or_path):
        _upgrade_postgres(url_or_path, revision, said)
    else:
        _upgrade_sqlite(Path(url_or_path), revision, said)


def _upgrade_sqlite(path: Path, revision: str, said: Callable[[str], None]) -> None:
    engine: Engine | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        engine = sqlalchemy.create_engine(
            "sqlite://", creator=lambda: _open_sqlite(path), poolclass=sqlalchemy.pool.NullPool
        )
        with engine.connect() as connection:
            # The driver would begin no transaction for CREATE TABLE; IMMEDIATE lets one process at a time through.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            _migrate(connection, revision, said)
            connection.exec_driver_sql("COMMIT")
    except sqlite3.Error as error:
        raise unusable(path, error) from None
    except sqlalchemy.exc.DBAPIError as error:
        raise _failed(path, error) from None
    except OSError as error:
        raise StoreUnreadable(f"{path}: {error.strerror}") from None
    finally:
        if engine is not None:
            engine.dispose()


def _open_sqlite(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=LOCK_TIMEOUT_S)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    check_whole(path, connection)
    return connection


def _failed(path: Path, error: sqlalchemy.exc.DBAPIError) -> SchemaError:
    if isinstance(error.orig, sqlite3.Error):
        return unusable(path, error.orig)
    return StoreUnreadable(f"{path}: {reason(error)}")


def _upgrade_postgres(url: str, revision: str, said: Callable[[str], None]) -> None:
    def connect() -> psycopg.Connection[Any]:
        # Behind a pooler, names of prepared statements would be left on a server that others use.
        return psycopg.connect(url, connect_timeout=round(CONNECT_TIMEOUT_S), prepare_threshold=None)

    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=connect, poolclass=sqlalchemy.pool.NullPool)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {round(LOCK_TIMEOUT_S * 1000)}")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            _migrate(connection, revision, said)
    except sqlalchemy.exc.OperationalError as error:
        raise StoreUnreachable(f"the database was lost while migrating: {reason(error)}") from None
    except sqlalchemy.exc.DBAPIError as error:
        raise SchemaError(f"the migration failed and changed nothing: {reason(error)}") from None
    finally:
        engine.dispose()


def _migrate(connection: Connection, revision: str, said: Callable[[str], None]) -> None:
    script = scripts()
    # Again, now that nobody else is migrating.
    check(parsed(MigrationContext.configure(connection).get_current_revision()))

    def steps(current: Any, _: MigrationContext) -> Any:
        return script._upgrade_revs(revision, current)

    def done(ctx: Any, step: Any, heads: Any, run_args: Any) -> None:
        said(f"the store has schema {int(step.up_revision_id)} of {HEAD}")

    with EnvironmentContext(Config(), script) as environment:
        environment.configure(connection=connection, fn=steps, on_version_apply=done)
        environment.run_migrations()
