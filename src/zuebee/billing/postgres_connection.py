"""One connection to PostgreSQL whose every wait ends, and what its failures mean."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import errors

from zuebee.billing.store_errors import StoreBusy, StoreFailed

_TRY_AGAIN = (
    errors.DeadlockDetected, errors.SerializationFailure, errors.LockNotAvailable, errors.QueryCanceled,
    errors.UniqueViolation, errors.InsufficientResources,
)  # fmt: skip


# Whoever stops between the two round trips must not keep others from the balances it has locked. A server that is
# set to forget commits (`off`) is told not to; one that is set to more than `on` keeps that.
_SETTINGS = """
SELECT set_config('statement_timeout', %(bound)s, false), set_config('lock_timeout', %(bound)s, false),
    set_config('idle_in_transaction_session_timeout', %(bound)s, false),
    CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END
"""


class StoreLost(StoreBusy):
    """The connection is gone; whether the last transaction was committed is known once there is a new one."""


class PostgresConnection:
    """Belongs to one thread, but for `cut`. `timeout_s` bounds connecting, each statement and each wait for a lock."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._db: psycopg.Connection[Any] | None = None

    def connect(self) -> None:
        """Connect anew."""
        self.disconnect()
        bound_ms = round(self._timeout_s * 1000)
        try:
            db = psycopg.connect(
                self._url,
                autocommit=True,
                connect_timeout=max(2, round(self._timeout_s)),
                tcp_user_timeout=bound_ms,
                fallback_application_name="zuebee",
            )
            with self._lock:
                self._db = db
            db.execute(_SETTINGS, {"bound": str(bound_ms)})
        except psycopg.Error as error:
            self.disconnect()
            raise StoreLost(type(error).__name__) from None

    def disconnect(self) -> None:
        """Let go of the connection."""
        with self._lock:
            db, self._db = self._db, None
            if db is not None:
                db.close()

    def cut(self) -> None:
        """Called from another thread: end a wait that takes too long."""
        with self._lock:
            if self._db is not None and not self._db.closed:
                with suppress(OSError), socket.socket(fileno=self._db.fileno()) as connection:
                    try:
                        connection.shutdown(socket.SHUT_RDWR)
                    finally:
                        connection.detach()

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._db is not None

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """The connection. Raises StoreLost when there is none."""
        if self._db is None:
            raise StoreLost("not connected")
        return self._db

    @contextmanager
    def together(self) -> Iterator[psycopg.Connection[Any]]:
        """Statements that go in one round trip. Raises the first failure; psycopg would log what follows from it."""
        failure: psycopg.Error | None = None
        try:
            with self.connection.pipeline():
                try:
                    yield self.connection
                except psycopg.Error as error:
                    failure = error
        except psycopg.Error as error:
            failure = failure or error
        if failure is not None:
            raise failure

    def failure(self, error: psycopg.Error) -> Exception:
        """Undo what was begun, and say whether trying again makes sense."""
        db = self._db
        if db is None or db.closed or isinstance(error, errors.ReadOnlySqlTransaction):
            self.disconnect()
            return StoreLost(type(error).__name__)
        try:
            db.rollback()  # which, unlike the statement, forgets what was to be prepared
        except psycopg.Error:
            self.disconnect()
            return StoreLost(type(error).__name__)
        if isinstance(error, _TRY_AGAIN):
            return StoreBusy(type(error).__name__)
        if isinstance(error, errors.DataError | errors.IntegrityError | errors.ProgrammingError):
            return StoreFailed(type(error).__name__)
        self.disconnect()
        return StoreLost(type(error).__name__)

    def undo(self) -> None:
        """Leave the transaction that was begun."""
        try:
            if self._db is not None:
                self._db.rollback()
        except psycopg.Error:
            self.disconnect()
