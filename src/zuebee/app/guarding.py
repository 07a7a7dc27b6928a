"""Settings -> what stands before and around requests: the firewall, kept answers, clients that leave."""

from pathlib import Path

from zuebee.admission.firewall import Counts, OpenFirewall, RuleFirewall
from zuebee.answers.service import AnswerKeeper
from zuebee.config import Settings
from zuebee.contracts.admission import Firewall
from zuebee.kit.database import Database, database_url

CONNECTIONS = 4


def build_firewall(settings: Settings, counts: Counts) -> Firewall:
    """The firewall of these settings; it goes on counting in `counts`."""
    return RuleFirewall(settings.firewall, counts) if settings.firewall.enabled else OpenFirewall()


def open_answers(settings: Settings) -> AnswerKeeper | None:
    """Who keeps answers in the store, whose tables are there already; None: nobody does. Raises ValueError."""
    if not settings.idempotency.enabled:
        return None
    store = settings.store
    url = database_url("postgres", store.url) if store.url else f"sqlite:///{Path(store.path)}"
    database = Database(url, timeout_s=store.timeout_s, max_connections=CONNECTIONS)
    kept = settings.idempotency
    return AnswerKeeper(database, retention_s=kept.retention_s, max_bytes=kept.max_answer_size)
