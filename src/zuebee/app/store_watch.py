"""Whether the store can be used: asked now and then, and of the ledger, which writes all the time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from zuebee.kit import clock
from zuebee.kit.database import DatabaseError

_log: Final = logging.getLogger("zuebee")

LOOK_S: Final = 2.0
SAY_AGAIN_S: Final = 60.0


class StoreWatch:
    """`trouble` is why the store cannot be used; empty while it can. `has_keys`: there were keys at the last look.

    `ask` reads from the store whether there are keys, `ledger` says what keeps the ledger from being written.
    """

    def __init__(self, ask: Callable[[], Awaitable[bool]], ledger: Callable[[], str]) -> None:
        self.trouble = ""
        self.has_keys = False
        self._ask = ask
        self._ledger = ledger
        self._since_s = self._said_at_s = 0.0

    async def run(self) -> None:
        """Look every LOOK_S, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once, and say in the log what has changed; once a minute what has not."""
        trouble = ""
        try:
            self.has_keys = await self._ask()
        except DatabaseError as error:
            trouble = str(error)
        self._note(trouble or self._ledger())

    def _note(self, trouble: str) -> None:
        before, self.trouble = self.trouble, trouble
        now_s = clock.monotonic_s()
        if trouble and not before:
            self._since_s = self._said_at_s = now_s
            _log.error("the store cannot be used, requests that need it are answered 503: %s", trouble)
        elif trouble and now_s - self._said_at_s >= SAY_AGAIN_S:
            self._said_at_s = now_s
            _log.error("the store still cannot be used, after %.0f s: %s", now_s - self._since_s, trouble)
        elif before and not trouble:
            _log.info("the store can be used again, after %.0f s", now_s - self._since_s)
