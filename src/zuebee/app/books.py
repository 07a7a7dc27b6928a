"""Looks at the ledger now and then, so that a mistake in the books is seen before an auditor sees it."""

import asyncio
import logging
import threading
from typing import Final

from zuebee.billing.quick_check import QuickCheck
from zuebee.billing.verify_entries import Violation
from zuebee.kit import clock
from zuebee.kit.database import Connection, Database, DatabaseError

_log: Final = logging.getLogger("zuebee.billing")

INTERVAL_S: Final = 30.0
UNKNOWN: Final = float("nan")


class BooksWatch:
    """`violations` is what the last look found that came to an end: how many invariants of the ledger do not hold; not
    a number (NaN) before. `checked_at_s` (seconds since 1970, NaN before) says how old it is, `failures` counts the
    looks since then and before that came to no end.
    """

    def __init__(self, database: Database) -> None:
        self.violations = UNKNOWN
        self.checked_at_s = UNKNOWN
        self.failures = 0
        self._failing = False
        self._database = database
        self._check = QuickCheck()
        self._turn = threading.Lock()

    async def run(self) -> None:
        """Look every INTERVAL_S, for ever."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.look()

    async def look(self) -> None:
        """Look once; when the store does not answer, the last finding stays, and its age tells."""
        try:
            found = None
            while found is None:
                found = await self._database.run(self._once)
        except DatabaseError as error:
            self.failures += 1
            if not self._failing:
                _log.warning("the books cannot be checked, zuebee_ledger_imbalance is not up to date: %s", error)
            self._failing = True
            return
        if self._failing:
            _log.info("the books can be checked again")
        self._failing = False
        if found and not self.violations > 0:
            _log.error("the ledger does not add up (%d findings): %s; see `zuebee ledger verify`", len(found), found[0])
        self.violations, self.checked_at_s = float(len(found)), clock.wall_s()

    def _once(self, connection: Connection) -> list[Violation] | None:
        """In a thread, which goes on by itself if it takes too long: then the next one must not begin beside it."""
        if not self._turn.acquire(blocking=False):
            raise DatabaseError("the last check is still under way")
        try:
            return self._check.check(connection)
        finally:
            self._turn.release()
