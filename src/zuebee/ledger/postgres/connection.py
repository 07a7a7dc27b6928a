"""One connection to PostgreSQL whose every wait ends, and what its failures mean."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors

from zuebee.ledger.errors import StoreBusy, StoreFailed
from zuebee.lib.sql import postgres
from zuebee.lib.sql.postgres import MIXED_UP, PostgresLink

_TRY_AGAIN = (
    errors.DeadlockDetected, errors.SerializationFailure, errors.LockNotAvailable, errors.QueryCanceled,
    errors.UniqueViolation, errors.InsufficientResources,
)  # fmt: skip


# Their fault alone, whenever they are tried: values that do not fit, or are too long for an index; or (a programming
# error without a code) of a type that the driver cannot send.
_NEVER = (errors.DataError, errors.IntegrityError, errors.ProgramLimitExceeded)

# Whoever stops between the two round trips must not keep others from the balances it has locked.
_BOUNDED = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
# A server that is set to forget commits (`off`) is told not to; one that is set to more than `on` keeps that.
_REMEMBER = "CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', {}) END"
_FOR_SESSION = f"SELECT {_REMEMBER.format('false')}"
_SETTINGS = ", ".join(f"set_config('{name}', %(bound)s, true)" for name in _BOUNDED)
_FOR_TRANSACTION = f"SELECT {_SETTINGS}, {_REMEMBER.format('true')}"


class StoreLost(StoreBusy):
    """The connection is gone; whether the last transaction was committed is known once there is a new one."""


class PostgresConnection:
    """Belongs to one thread, but for `cut`. `timeout_s` bounds connecting, each statement and each wait for a lock."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._db: PostgresLink | None = None
        self._is_pooled = False  # an earlier connection has shown it

    def connect(self) -> None:
        """Connect anew."""
        self.disconnect()
        bound_ms = round(self._timeout_s * 1000)
        try:
            db = postgres.connect(
                self._url,
                timeout_s=self._timeout_s,
                settings=dict.fromkeys(_BOUNDED, str(bound_ms)),
                autocommit=True,
                is_pooled=self._is_pooled,
                tcp_user_timeout=bound_ms,
            )
            with self._lock:
                self._db = db
            if not db.is_pooled:
                db.execute(_FOR_SESSION)
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
            if self._db is not None:
                postgres.cut(self._db)

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

    def begin(self, db: psycopg.Connection[Any]) -> None:
        """Begin a transaction whose every statement is bounded."""
        db.execute("BEGIN")
        if self._db is not None and self._db.is_pooled:
            db.execute(_FOR_TRANSACTION, {"bound": str(round(self._timeout_s * 1000))})

    @contextmanager
    def apart(self) -> Iterator[psycopg.Connection[Any]]:
        """Statements of which each may be a transaction of its own."""
        db = self.connection
        if self._db is None or not self._db.is_pooled:
            yield db
            return
        self.begin(db)
        yield db
        db.execute("COMMIT")

    def failure(self, error: psycopg.Error) -> Exception:
        """Undo what was begun, and say whether trying again makes sense."""
        db = self._db
        self._is_pooled = self._is_pooled or isinstance(error, MIXED_UP)
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
        if isinstance(error, _NEVER) or (isinstance(error, errors.ProgrammingError) and error.sqlstate is None):
            return StoreFailed(type(error).__name__)
        # A table or a right that is missing for now, names of another's statements, a server that shuts down: the next
        # connection may find it in order, and until then it is an outage.
        self.disconnect()
        return StoreLost(type(error).__name__)

    def undo(self) -> None:
        """Leave the transaction that was begun."""
        try:
            if self._db is not None:
                self._db.rollback()
        except psycopg.Error:
            self.disconnect()
