"""Settings -> what stands before and around requests: the firewall, kept answers, clients that leave."""

import os
from pathlib import Path

from zuebee.admission.firewall import Counts, OpenFirewall, RuleFirewall
from zuebee.answers.grouped import Grouped
from zuebee.answers.service import AnswerKeeper
from zuebee.config import Settings
from zuebee.contracts.admission import Firewall
from zuebee.kit.database import Database, DatabaseError, database_url
from zuebee.schema.tables import kept_answers

CONNECTIONS = 4


def build_firewall(settings: Settings, counts: Counts) -> Firewall:
    """The firewall of these settings; it goes on counting in `counts`."""
    return RuleFirewall(settings.firewall, counts) if settings.firewall.enabled else OpenFirewall()


def open_answers(settings: Settings) -> AnswerKeeper | None:
    """Who keeps answers; None: nobody does. Raises OSError or ValueError.

    On PostgreSQL they stand in the store. Beside a SQLite store they have a file of their own: answers are large, and
    nothing may make the ledger wait for the one writer that SQLite has.
    """
    kept, store = settings.idempotency, settings.store
    if not kept.enabled:
        return None
    if store.url:
        database = Database(database_url("postgres", store.url), timeout_s=store.timeout_s, max_connections=CONNECTIONS)
    else:
        path = answers_path(store.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # a new one is nobody else's to read, as the store
        database = Database(f"sqlite:///{path}", timeout_s=store.timeout_s, max_connections=1)
        try:
            database.call(lambda connection: kept_answers.create(connection, checkfirst=True))
        except DatabaseError as error:
            raise OSError(f"{path}: {error}") from None
    grouped = Grouped(database, timeout_s=2 * store.timeout_s, writers=CONNECTIONS if store.url else 1)
    return AnswerKeeper(grouped, retention_s=kept.retention_s, max_bytes=kept.max_answer_size)


def answers_path(store_path: str) -> Path:
    """The file of kept answers beside a SQLite store: `zuebee-answers.db` beside `zuebee.db`."""
    path = Path(store_path)
    return path.with_name(f"{path.stem}-answers{path.suffix}")
