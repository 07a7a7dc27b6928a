"""The store as `zuebee usage` sees it, while a server may be running on it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from zuebee.app.store import store_database
from zuebee.config import Settings
from zuebee.kit import clock
from zuebee.kit.database import Connection, Database, DatabaseError
from zuebee.usage import outbox, report
from zuebee.usage.report import Filter, GroupBy, Totals

T = TypeVar("T")

QUERY_S = 300.0
"""A total over many millions of records may take its time; nobody else waits for it."""


class CannotRead(Exception):
    """Why the store cannot be used, in one line."""


class UsageDesk:
    """Questions about the usage records, and what an operator can do about the outbox. Raises CannotRead."""

    columns = report.COLUMNS

    def __init__(self, settings: Settings, database: Database) -> None:
        self.currency = settings.billing.currency
        self._settings = settings
        self._database = database

    def totals(self, by: Sequence[GroupBy], **chosen: Any) -> list[Totals]:
        """See `report.totals`; `chosen` are the fields of `Filter`."""
        return self._call(lambda connection: report.totals(connection, Filter(**chosen), by))

    def rows(self, **chosen: Any) -> Iterator[dict[str, Any]]:
        """See `report.rows`."""
        pages = report.Pages(Filter(**chosen))
        while (page := self._call(pages.read)) is not None:
            yield from page

    def money(self, cost_nano: int) -> str:
        """Nano-units as a decimal number."""
        return report.money(cost_nano)

    def outbox(self) -> list[dict[str, Any]]:
        """Each reporter that is configured or has events: its state in the settings, and what waits for it."""
        usage = self._settings.usage
        known: dict[str, dict[str, Any]] = {
            each.name: {"reporter": each.name, "type": each.type, "enabled": each.enabled and usage.enabled}
            for each in usage.reporters
        }
        for standing in self._call(outbox.standings):
            entry = known.setdefault(standing.reporter, {"reporter": standing.reporter, "type": "", "enabled": False})
            oldest_at_s = standing.oldest_at_s
            entry["waiting"], entry["parked"] = standing.waiting, standing.parked
            entry["oldest_s"] = None if oldest_at_s is None else round(max(0.0, clock.wall_s() - oldest_at_s), 1)
        return [{"waiting": 0, "parked": 0, "oldest_s": None, **entry} for entry in known.values()]

    def retry(self, reporter: str) -> int:
        """Make all events of a reporter due; how many of them were parked."""
        return self._call(lambda connection: outbox.retry(connection, reporter, clock.wall_s()))

    def discard(self, reporter: str) -> int:
        """Remove all events of a reporter; how many there were."""
        return self._call(lambda connection: outbox.discard(connection, reporter))

    def _call(self, work: Callable[[Connection], T]) -> T:
        try:
            return self._database.call(work)
        except DatabaseError as error:
            raise CannotRead(str(error)) from None


@contextmanager
def usage_desk(settings: Settings) -> Iterator[UsageDesk]:
    """The store of these settings. Raises CannotRead."""
    store = settings.store
    if store.url is None and not Path(store.path).is_file():
        raise CannotRead(f"{store.path}: no such file; nothing has been recorded yet")
    database = store_database(store, max_connections=1, timeout_s=QUERY_S)
    try:
        yield UsageDesk(settings, database)
    finally:
        database.close()
