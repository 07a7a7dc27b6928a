"""What a process looks at now and then: the books, whether the store can be used, and what is known of models."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from zuebee.config.settings import Settings
from zuebee.contracts.inference import UNKNOWN, ModelFacts
from zuebee.ledger.audit import QuickCheck
from zuebee.ledger.invariants import Violation
from zuebee.lib import clock
from zuebee.lib.patterns import fits
from zuebee.lib.sql.database import Connection, Database, DatabaseError

_billing_log: Final = logging.getLogger("zuebee.billing")

INTERVAL_S: Final = 30.0
NOT_YET: Final = float("nan")


class BooksWatch:
    """`violations` is what the last look found that came to an end: how many invariants of the ledger do not hold; not
    a number (NaN) before. `checked_at_s` (seconds since 1970, NaN before) says how old it is, `failures` counts the
    looks since then and before that came to no end.
    """

    def __init__(self, database: Database, check: QuickCheck | None = None) -> None:
        self.violations = NOT_YET
        self.checked_at_s = NOT_YET
        self.failures = 0
        self._failing = False
        self._database = database
        self._check = check or QuickCheck()
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
                _billing_log.warning(
                    "the books cannot be checked, zuebee_ledger_imbalance is not up to date: %s", error
                )
            self._failing = True
            return
        if self._failing:
            _billing_log.info("the books can be checked again")
        self._failing = False
        if found and not self.violations > 0:
            _billing_log.error(
                "the ledger does not add up (%d findings): %s; see `zuebee ledger verify`", len(found), found[0]
            )
        self.violations, self.checked_at_s = float(len(found)), clock.wall_s()

    def _once(self, connection: Connection) -> list[Violation] | None:
        """In a thread, which goes on by itself if it takes too long: then the next one must not begin beside it."""
        if not self._turn.acquire(blocking=False):
            raise DatabaseError("the last check is still under way")
        try:
            return self._check.check(connection)
        finally:
            self._turn.release()


# Whether the store can be used: asked now and then, and of the ledger, which writes all the time.

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


# What is known of models, from whoever knows it: the settings, then the servers themselves, then public lists.

MAX_REMEMBERED = 10_000
MAX_NAME = 256


class KnownModels:
    """Looks up a model. `told`: what the servers say of theirs just now. `listed`: its context by public lists."""

    def __init__(
        self, settings: Settings, told: Callable[[], Mapping[str, ModelFacts]], listed: Callable[[str], int]
    ) -> None:
        self._own = [
            (entry.model, ModelFacts(entry.context_tokens, entry.max_output_tokens))
            for entry in settings.billing.models
        ]
        self._told = told
        self._listed = listed
        self._known: dict[str, ModelFacts] = {}
        self._source: Mapping[str, ModelFacts] | None = None

    def of(self, model: str) -> ModelFacts:
        """What is known of a model."""
        told = self._told()
        if told is not self._source:
            self._source = told
            self._known.clear()
        known = self._known.get(model)
        if known is None:
            if len(model) > MAX_NAME:
                return UNKNOWN
            while len(self._known) >= MAX_REMEMBERED:
                del self._known[next(iter(self._known))]
            known = self._known[model] = self._look_up(model, told)
        return known

    def _look_up(self, model: str, told: Mapping[str, ModelFacts]) -> ModelFacts:
        own = next((facts for pattern, facts in self._own if fits(model, pattern)), UNKNOWN)
        said = told.get(model, UNKNOWN)
        return ModelFacts(own.context or said.context or self._listed(model), own.answer or said.answer)
