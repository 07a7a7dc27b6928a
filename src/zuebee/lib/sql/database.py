"""A relational database off the hot path: SQLAlchemy, called in threads, with a bound on everything."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy
from sqlalchemy import Connection, event

from zuebee.lib.sql.dsn import database_url, reason

__all__ = ["Connection", "Database", "DatabaseError", "database_url"]

T = TypeVar("T")


class Database:
    """One database. `url` is SQLAlchemy's; `timeout_s` bounds connecting, waiting for a connection and each statement.

    `read_only`: a file of somebody else's (SQLite): never made, never changed, not even its journal.

    Every public method may raise `DatabaseError`.
    """

    def __init__(self, url: str, *, timeout_s: float, max_connections: int = 4, read_only: bool = False) -> None:
        self._timeout_s = timeout_s
        if read_only and url.startswith("sqlite:///"):
            url = f"sqlite:///file:{quote(url.removeprefix('sqlite:///'))}?mode=ro&uri=true"
        self.engine = sqlalchemy.create_engine(url, **_engine_options(url, timeout_s, max_connections))
        if self.engine.dialect.name == "sqlite" and not read_only:
            event.listen(self.engine, "connect", _prepare_sqlite)
        if self.engine.dialect.name == "postgresql":
            _bound_postgres(self.engine, timeout_s)
        self._threads = ThreadPoolExecutor(max_connections, thread_name_prefix="database")

    def call(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction, in this thread."""
        try:
            with self.engine.begin() as connection:
                return work(connection)
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise DatabaseError(reason(error)) from error

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction, in a thread; later than `timeout_s` it counts as failed.

        The thread of a caller that stopped waiting finishes its transaction by itself, so no connection is shared
        while it is in use.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await loop.run_in_executor(self._threads, self.call, work)
        except TimeoutError:
            raise DatabaseError("no answer in time") from None

    def close(self) -> None:
        """Let go of all connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.engine.dispose()


class DatabaseError(Exception):
    """The database did not do what it was asked; the message holds no values and no address."""


def _engine_options(url: str, timeout_s: float, max_connections: int) -> dict[str, Any]:
    pool = {"pool_size": max_connections, "max_overflow": 0, "pool_timeout": timeout_s, "pool_pre_ping": True}
    seconds = max(1, round(timeout_s))
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": timeout_s, "check_same_thread": False}}
    if url.startswith("mysql"):
        limits = {"connect_timeout": seconds, "read_timeout": seconds, "write_timeout": seconds}
        return {**pool, "connect_args": limits}
    return pool


def _bound_postgres(engine: sqlalchemy.Engine, timeout_s: float) -> None:
    """Connections that end each wait themselves, and may lead through a pooler."""
    from zuebee.lib.sql import postgres

    mixed_up = False

    def connect(_: Any, __: Any, args: Any, named: Any) -> Any:
        settings = {"statement_timeout": str(round(timeout_s * 1000))}
        return postgres.connect(*args, **named, timeout_s=timeout_s, settings=settings, is_pooled=mixed_up)

    def begin(connection: Connection) -> None:
        connection.connection.dbapi_connection.set_locally()  # type: ignore[union-attr]

    def failed(context: Any) -> None:
        nonlocal mixed_up
        if isinstance(context.original_exception, postgres.MIXED_UP):
            mixed_up = context.is_disconnect = True

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "begin", begin)
    event.listen(engine, "handle_error", failed)


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
