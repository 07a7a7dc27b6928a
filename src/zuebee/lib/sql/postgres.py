"""Connections to PostgreSQL whose every wait ends, and that know whether a pooler stands between.

A pooler may give each transaction another server process (PgBouncer, `pool_mode = transaction`). Then nothing of a
session can be relied on, neither settings nor the names of prepared statements: settings go with each transaction, and
nothing is prepared.
"""

import inspect
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import PQGen

from zuebee.lib import clock

GRACE_S = 1.0
"""The server has this much more time than it should need to end a statement; then the connection is cut."""

MIXED_UP = (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)
"""What is said where a pooler was taken for the server itself."""

_TIMED_OUT: Any = getattr(errors, "_WaitTimeout", None)
_CAN_END = _TIMED_OUT is not None and "timeout" in inspect.signature(psycopg.Connection.wait).parameters
"""Whether the driver counts the time itself, which is cheaper."""

T = TypeVar("T")


class PostgresLink(psycopg.Connection[Any]):
    """A connection that is cut when a wait takes longer than `wait_s`. It fails then as if the server had gone.

    `is_pooled`: what is set for the session, or prepared, may be gone with the next transaction. `settings` are then to
    be said at the beginning of each.
    """

    wait_s: float = 3600.0
    is_pooled: bool = False
    settings: Mapping[str, str]

    def wait(self, gen: PQGen[T], *how: Any, **more: Any) -> T:
        """Let the generator of an exchange with the server run to its end."""
        if not _CAN_END:
            return super().wait(self._until(gen, clock.monotonic_s() + self.wait_s), *how, **more)
        try:
            return super().wait(gen, *how, **{"timeout": self.wait_s, **more})
        except _TIMED_OUT:
            self.pgconn.finish()
            raise psycopg.OperationalError("no answer in time") from None

    def _until(self, gen: PQGen[T], until_s: float) -> PQGen[T]:
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if clock.monotonic_s() > until_s:
                    cut(self)
                wanted = gen.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result

    def set_locally(self) -> None:
        """In a transaction that has just begun: the settings that the session cannot keep. No snapshot is taken."""
        if self.is_pooled and self.settings:
            self.execute(";".join(f"SET LOCAL {name} = {value}" for name, value in self.settings.items()).encode())


def connect(
    url: str = "",
    *,
    timeout_s: float,
    settings: Mapping[str, str] | None = None,
    autocommit: bool = False,
    is_pooled: bool = False,
    **options: Any,
) -> PostgresLink:
    """Connect. `timeout_s` bounds connecting and, with `GRACE_S`, each wait for an answer. `is_pooled` is what is known
    of earlier connections; else it is found out: a pooler does not tell the number of the server process.

    Nothing but names that every pooler lets pass is said at the login. Raises psycopg.Error.
    """
    seconds = max(2, round(timeout_s))
    link = PostgresLink.connect(
        url,
        autocommit=True,
        connect_timeout=min(seconds, 60),
        fallback_application_name="zuebee",
        **options,
    )
    try:
        link.wait_s = timeout_s + GRACE_S
        link.settings = settings or {}
        link.is_pooled = is_pooled or not _settle_in(link)
        if link.is_pooled:
            link.prepare_threshold = None
        link.autocommit = autocommit
    except BaseException:
        link.close()
        raise
    return link


def _settle_in(link: PostgresLink) -> bool:
    """Set what is to be set for the session, if there is one: whether the server process is ours."""
    values = "".join(f", set_config('{name}', '{value}', false)" for name, value in link.settings.items())
    asked = f"SELECT CASE WHEN pg_backend_pid() = {link.info.backend_pid} THEN ARRAY['ours'{values}] END"
    row = link.execute(asked.encode()).fetchone()
    return row is not None and row[0] is not None


def cut(link: psycopg.Connection[Any]) -> None:
    """End a wait: whoever reads sees the end of the connection. May be called while another thread waits, if that does
    not close the connection meanwhile.
    """
    if not link.closed:
        with suppress(OSError), socket.socket(fileno=link.fileno()) as connection:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            finally:
                connection.detach()
