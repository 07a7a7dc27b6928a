"""Idempotency: the records of requests that may come again."""

import os
from pathlib import Path

from zuebee.app.parts.base import Part
from zuebee.config.settings import Settings
from zuebee.edge.idempotency import Replays
from zuebee.idempotency.service import DatabaseIdempotencyStore
from zuebee.idempotency.store import Grouped
from zuebee.lib.sql.database import Database, DatabaseError, database_url
from zuebee.lib.tasks import Tasks
from zuebee.schema.tables import kept_answers
from zuebee.telemetry.metrics import Metrics

ANSWER_CONNECTIONS = 4


class IdempotencyPart(Part):
    """Keeps answers. `replays` answers repeated requests with them; None: nobody does."""

    def __init__(self, settings: Settings) -> None:
        self._answers = open_answers(settings)
        self.replays = None if self._answers is None else Replays(self._answers)

    def lend(self, metrics: Metrics) -> None:
        replays, answers = self.replays, self._answers
        if replays is not None and answers is not None:
            counts = replays.counts
            metrics.lend("zuebee_idempotent_requests_total", lambda: (((what,), n) for what, n in counts.items()))
            metrics.lend("zuebee_idempotency_failures_total", lambda: [((), answers.failures)])

    def begin(self, tasks: Tasks) -> None:
        if self._answers is not None:
            self._answers.start()

    async def aclose(self) -> None:
        if self.replays is not None and self._answers is not None:
            await self.replays.aclose()
            await self._answers.aclose()


def open_answers(settings: Settings) -> DatabaseIdempotencyStore | None:
    """Who keeps answers; None: nobody does. Raises OSError or ValueError.

    On PostgreSQL they stand in the store. Beside a SQLite store they have a file of their own: answers are large, and
    nothing may make the ledger wait for the one writer that SQLite has.
    """
    kept, store = settings.idempotency, settings.store
    if not kept.enabled:
        return None
    if store.url:
        database = Database(
            database_url("postgres", store.url), timeout_s=store.timeout_s, max_connections=ANSWER_CONNECTIONS
        )
    else:
        path = answers_path(store.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # a new one is nobody else's to read, as the store
        database = Database(f"sqlite:///{path}", timeout_s=store.timeout_s, max_connections=1)
        try:
            database.call(lambda connection: kept_answers.create(connection, checkfirst=True))
        except DatabaseError as error:
            raise OSError(f"{path}: {error}") from None
    grouped = Grouped(database, timeout_s=2 * store.timeout_s, writers=ANSWER_CONNECTIONS if store.url else 1)
    return DatabaseIdempotencyStore(grouped, retention_s=kept.retention_s, max_bytes=kept.max_answer_size)


def answers_path(store_path: str) -> Path:
    """The file of idempotency records beside a SQLite store: `zuebee-answers.db` beside `zuebee.db`."""
    path = Path(store_path)
    return path.with_name(f"{path.stem}-answers{path.suffix}")
