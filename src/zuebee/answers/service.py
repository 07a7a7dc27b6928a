"""Keeps the answers of requests with an `Idempotency-Key`, for whoever repeats one."""

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from sqlalchemy import Connection

from zuebee.answers import envelope, store
from zuebee.answers.grouped import Grouped
from zuebee.answers.refusals import REUSED, TOO_LARGE, UNKNOWN, in_progress
from zuebee.contracts.admission import Principal
from zuebee.contracts.answers import KeptAnswer, Ticket
from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Job
from zuebee.kit import clock
from zuebee.kit.database import DatabaseError
from zuebee.kit.tasks import Tasks

LEASE_S = 15.0
RENEW_S = 5.0
SWEEP_EVERY = 12
"""Renewals between two sweeps: once a minute."""
POLL_S = 1.0
MAX_SWEEPS = 20

T = TypeVar("T")
_log = logging.getLogger("zuebee.answers")


class AnswerKeeper:
    """`Answers` in a database. `start` it once the loop runs; `aclose` closes the database too."""

    def __init__(self, database: Grouped, *, retention_s: float, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.failures = 0
        self._database = database
        self._retention_s = retention_s
        self._claimed: set[int] = set()
        self._tasks = Tasks()
        self._started = False

    def start(self) -> None:
        """Begin to renew leases and to remove what has expired. Again: nothing more happens."""
        if not self._started:
            self._started = True
            self._tasks.spawn(self._attend(), "kept answers")

    async def aclose(self) -> None:
        """Stop, and let go of the database."""
        await self._tasks.aclose()
        await self._database.aclose()

    def ticket(self, principal: Principal, key: bytes, job: Job) -> Ticket:
        """See `Answers.ticket`."""
        who = (principal.organisation_id, principal.team_id, principal.user_id, principal.key_id)
        caller = tuple(part.encode() for part in who)
        root = envelope.root_secret(*caller, key, job.path.encode(), job.query, job.body)
        # SQL's integers have a sign.
        return Ticket(envelope.name(*caller, key), envelope.fingerprint(root), root, secrets.randbits(62))

    async def find(self, ticket: Ticket) -> KeptAnswer | Refusal | None:
        """See `Answers.find`."""
        now_s = clock.wall_s()
        try:
            row = await self._run(lambda connection: store.read(connection, ticket.id, now_s))
        except DatabaseError:
            return UNKNOWN
        if row is None:
            return None
        if row.fingerprint != ticket.fingerprint:
            return REUSED
        if row.state == "running":
            return in_progress(min(row.expires_at_s - now_s, POLL_S))
        if row.answer is None:
            return TOO_LARGE
        try:
            return envelope.unseal(ticket.secret, ticket.id, row.answer)
        except envelope.Unreadable:
            _log.error("a kept answer cannot be read: it was changed in the database")
            return UNKNOWN

    async def claim(self, ticket: Ticket) -> Refusal | None:
        """See `Answers.claim`."""
        self._claimed.add(ticket.owner)
        try:
            other = await self._run(lambda db: store.claim(db, ticket, clock.wall_s(), LEASE_S))
        except DatabaseError:
            # It may have been entered all the same: then its lease ends by itself.
            self._claimed.discard(ticket.owner)
            return UNKNOWN
        if other is None:
            return None
        self._claimed.discard(ticket.owner)
        return in_progress(POLL_S) if other.fingerprint == ticket.fingerprint else REUSED

    async def keep(self, ticket: Ticket, answer: KeptAnswer | None) -> None:
        """See `Answers.keep`."""
        until_s = clock.wall_s() + self._retention_s

        def finish(connection: Connection) -> bool:
            sealed = None if answer is None else envelope.seal(ticket.secret, ticket.id, answer)
            return store.finish(connection, ticket, sealed, until_s)

        with suppress(DatabaseError):
            if not await self._run(finish):
                self.failures += 1
                _log.error("an answer could not be kept: its lease was lost")
        self._claimed.discard(ticket.owner)

    async def free(self, ticket: Ticket) -> None:
        """See `Answers.free`."""
        self._claimed.discard(ticket.owner)
        with suppress(DatabaseError):  # counted and logged; its lease ends by itself
            await self._run(lambda connection: store.remove(connection, ticket))

    async def _run(self, work: Callable[[Connection], T]) -> T:
        try:
            return await self._database.run(work)
        except DatabaseError as error:
            self.failures += 1
            _log.error("kept answers: %s", error)
            raise

    async def _attend(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(RENEW_S)
            turn += 1
            try:
                if self._claimed:
                    await self._renew()
                if turn % SWEEP_EVERY == 0:
                    await self._sweep()
            except DatabaseError:
                continue

    async def _renew(self) -> None:
        owners = list(self._claimed)
        until_s = clock.wall_s() + LEASE_S
        for begin in range(0, len(owners), store.SWEEP_ROWS):
            part = owners[begin : begin + store.SWEEP_ROWS]
            await self._run(lambda connection, part=part: store.renew(connection, part, until_s))  # type: ignore[misc]

    async def _sweep(self) -> None:
        now_s = clock.wall_s()
        for _ in range(MAX_SWEEPS):
            if await self._run(lambda connection: store.sweep(connection, now_s)) < store.SWEEP_ROWS:
                break
