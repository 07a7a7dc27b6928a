"""Keeps the answers of requests with an `Idempotency-Key`, for whoever repeats one."""

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection

from zuebee.contracts.admission import Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.idempotency import REUSED, TOO_LARGE, IdempotencyRecord, Ticket, in_progress
from zuebee.contracts.inference import Job
from zuebee.idempotency import store
from zuebee.idempotency.store import Grouped
from zuebee.lib import clock
from zuebee.lib.seldom import Seldom
from zuebee.lib.sql.database import DatabaseError
from zuebee.lib.tasks import Tasks

# What callers who repeat a request are told, where they cannot have its answer.

LOST = Refusal(
    409,
    "invalid_request_error",
    "idempotency_answer_lost",
    "The request with this Idempotency-Key was begun, and its answer could not be kept: it is not run again.",
    "Idempotency-Key",
)
UNKNOWN = Refusal(
    503,
    "api_error",
    "idempotency_unavailable",
    "Whether this request was answered before cannot be found out just now.",
    retry_after_s=1.0,
    should_retry=True,
)


LEASE_S = 15.0
RENEW_S = 5.0
SWEEP_EVERY = 12
"""Renewals between two sweeps: once a minute."""
POLL_S = 1.0
MAX_SWEEPS = 20
UNSURE_S = 30.0
"""After so long a transaction that was given up has been made, or never will be."""

MAX_LEFT_OVER = 10_000
"""What the database could not be told is told later, of so many keys at most."""

T = TypeVar("T")
_log = logging.getLogger("zuebee.idempotency")


class DatabaseIdempotencyStore:
    """`Answers` in a database. `start` it once the loop runs; `aclose` closes the database too."""

    def __init__(
        self,
        database: Grouped,
        *,
        retention_s: float,
        max_bytes: int,
        lease_s: float = LEASE_S,
        renew_interval_s: float = RENEW_S,
    ) -> None:
        self.max_bytes = max_bytes
        self.failures = 0
        self._seldom = Seldom(_log)
        self._database = database
        self._retention_s = retention_s
        self._lease_s = lease_s
        self._renew_interval_s = renew_interval_s
        self._claimed: set[int] = set()
        self._claims: dict[int, asyncio.Task[store.Row | None]] = {}
        self._left_over: dict[int, tuple[Callable[[Connection], object], float]] = {}
        self._tasks = Tasks()
        self._started = False

    def start(self) -> None:
        """Begin to renew leases and to remove what has expired. Again: nothing more happens."""
        if not self._started:
            self._started = True
            self._tasks.spawn(self._attend(), "idempotency store")

    async def aclose(self) -> None:
        """Stop, and let go of the database."""
        with suppress(DatabaseError):
            await self._catch_up()
        await self._tasks.aclose()
        await self._database.aclose()

    def ticket(self, principal: Principal, key: bytes, job: Job) -> Ticket:
        who = (principal.organization_id, principal.team_id, principal.user_id, principal.key_id)
        caller = tuple(part.encode() for part in who)
        root = store.root_secret(*caller, key, job.path.encode(), job.query, job.body)
        # SQL's integers have a sign.
        return Ticket(store.name(*caller, key), store.fingerprint(root), root, secrets.randbits(62))

    async def find(self, ticket: Ticket) -> IdempotencyRecord | Refusal | None:
        try:
            row = await self._run(lambda connection: store.read(connection, ticket.id, self._retention_s))
        except DatabaseError:
            return UNKNOWN
        if row is None:
            return None
        if row.fingerprint != ticket.fingerprint:
            return REUSED
        if row.state == "running":
            return in_progress(min(row.left_s, POLL_S))
        if row.state == "lost":
            return LOST
        if row.answer is None:
            return TOO_LARGE
        try:
            return store.unseal(ticket.secret, ticket.id, row.answer)
        except store.Unreadable:
            _log.error("an idempotency record cannot be read: it was changed in the database")
            return UNKNOWN

    async def claim(self, ticket: Ticket) -> Refusal | None:
        """Who leaves meanwhile frees it, and that waits for what is under way."""
        self._claimed.add(ticket.owner)
        enter = partial(store.claim, ticket=ticket, lease_s=self._lease_s, retention_s=self._retention_s)
        claiming = self._claims[ticket.owner] = self._tasks.spawn(self._entered(ticket, enter), "claim a key")
        try:
            other = await asyncio.shield(claiming)
        except DatabaseError:
            return UNKNOWN
        if other is None:
            return None
        self._claimed.discard(ticket.owner)
        if other.fingerprint != ticket.fingerprint:
            return REUSED
        return LOST if other.state == "lost" else in_progress(POLL_S)

    async def _entered(self, ticket: Ticket, enter: Callable[[Connection], store.Row | None]) -> store.Row | None:
        try:
            return await self._database.run(enter)
        except DatabaseError as error:
            self._failed(error)
            # It may be entered all the same, also later: for a request that does not run.
            self._claimed.discard(ticket.owner)
            self._do_later(ticket, partial(store.remove, ticket=ticket), UNSURE_S)
            raise
        finally:
            del self._claims[ticket.owner]

    async def keep(self, ticket: Ticket, answer: IdempotencyRecord | None) -> None:
        """It is done also for a caller that is cut meanwhile."""
        await asyncio.shield(self._tasks.spawn(self._keep(ticket, answer), "keep an answer"))

    async def _keep(self, ticket: Ticket, answer: IdempotencyRecord | None) -> None:
        def finish(connection: Connection) -> bool:
            sealed = None if answer is None else store.seal(ticket.secret, ticket.id, answer)
            state: store.State = "too_large" if answer is None else "done"
            return store.finish(connection, ticket, state, sealed, self._retention_s)

        try:
            if not await self._run(finish):
                self.failures += 1
                _log.error("an answer could not be kept: its row is gone")
        except DatabaseError:
            self._do_later(ticket, partial(self._lose, ticket), 0.0)
        self._claimed.discard(ticket.owner)

    def _lose(self, ticket: Ticket, connection: Connection) -> None:
        """Say of a run whose answer is not kept that it ran. Unless it was kept, and that was not seen."""
        row = store.read(connection, ticket.id, self._retention_s)
        if row is not None and row.owner == ticket.owner and row.state in ("running", "lost"):
            store.finish(connection, ticket, "lost", None, self._retention_s)

    async def free(self, ticket: Ticket) -> None:
        self._claimed.discard(ticket.owner)
        if (claiming := self._claims.get(ticket.owner)) is not None:
            await asyncio.wait([claiming])
        remove = partial(store.remove, ticket=ticket)
        try:
            await self._run(remove)
        except DatabaseError:
            self._do_later(ticket, remove, 0.0)

    def _do_later(self, ticket: Ticket, work: Callable[[Connection], object], for_s: float) -> None:
        """Try again until it is done, and has been for so long."""
        if len(self._left_over) < MAX_LEFT_OVER:
            self._left_over[ticket.owner] = work, clock.monotonic_s() + for_s

    async def _catch_up(self) -> None:
        for owner, (work, until_s) in list(self._left_over.items()):
            await self._run(work)
            if clock.monotonic_s() >= until_s:
                self._left_over.pop(owner, None)

    async def _run(self, work: Callable[[Connection], T]) -> T:
        try:
            return await self._database.run(work)
        except DatabaseError as error:
            self._failed(error)
            raise

    def _failed(self, error: DatabaseError) -> None:
        self.failures += 1
        self._seldom.error("idempotency store: %s", error)

    async def _attend(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(self._renew_interval_s)
            turn += 1
            with suppress(DatabaseError):
                await self.tend(sweep=turn % SWEEP_EVERY == 0)

    async def tend(self, *, sweep: bool = False) -> None:
        """What `start` does again and again, once: renew leases, tell the database what it could not be told, `sweep`.

        Raises DatabaseError.
        """
        if self._claimed:
            await self._renew()
        await self._catch_up()
        if sweep:
            await self._sweep()

    async def _renew(self) -> None:
        owners = list(self._claimed)
        for begin in range(0, len(owners), store.SWEEP_ROWS):
            part = owners[begin : begin + store.SWEEP_ROWS]
            await self._run(lambda connection, part=part: store.renew(connection, part, self._lease_s))  # type: ignore[misc]

    async def _sweep(self) -> None:
        for _ in range(MAX_SWEEPS):
            if await self._run(lambda connection: store.sweep(connection, self._retention_s)) < store.SWEEP_ROWS:
                break
