"""Looks at the ledger now and then, so that a mistake in the books is seen before an auditor sees it."""

import asyncio
import logging

from zuebee.billing.quick_check import QuickCheck
from zuebee.kit.database import Database, DatabaseError

_log = logging.getLogger("zuebee.billing")

INTERVAL_S = 30.0


class BooksWatch:
    """`violations` is what the last look found: how many invariants of the ledger do not hold."""

    def __init__(self, database: Database) -> None:
        self.violations = 0
        self._database = database
        self._check = QuickCheck()

    async def run(self) -> None:
        """Look every INTERVAL_S, for ever."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.look()

    async def look(self) -> None:
        """Look once; when the store does not answer, the last finding stays."""
        try:
            found = await self._database.run(self._check.check)
        except DatabaseError as error:
            _log.debug("the books cannot be checked: %s", error)
            return
        if found and not self.violations:
            _log.error("the ledger does not add up (%d findings): %s; see `zuebee ledger verify`", len(found), found[0])
        self.violations = len(found)
