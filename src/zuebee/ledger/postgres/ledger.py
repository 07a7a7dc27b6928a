"""The ledger that many processes share: what is asked in a moment is one transaction on PostgreSQL.

Invariants: a reservation that is answered is on disk. What is settled is done once, by this process or from its spool
file by the next one.
"""

from collections.abc import Awaitable, Callable, Sequence

from zuebee.contracts.inference import Job
from zuebee.ledger.entries import Balance, HoldState, Path, Short
from zuebee.ledger.errors import StoreBusy, StoreFailed
from zuebee.ledger.operations import Extend, Renew, Reserve, Settle
from zuebee.ledger.port import Reservation, tell_nobody
from zuebee.ledger.postgres.commit import DEFAULT_WAITS, Hands, Order, SharedCommitter, Waits
from zuebee.ledger.postgres.spool import Pending, Spool, replay
from zuebee.ledger.postgres.store import PostgresStore
from zuebee.lib import clock

STUCK_S = 1.0
SWEEP_INTERVAL_S = 5.0


class PostgresLedger:
    """See `LedgerPort`. Raises OSError when the database or the spool file cannot be used at the start."""

    polls = True

    def __init__(
        self,
        store: PostgresStore,
        *,
        spool_path: str,
        timeout_s: float,
        waits: Waits = DEFAULT_WAITS,
        hands: Callable[[Callable[[Order], bool]], Hands] = Hands,
    ) -> None:
        self.released: Callable[[Path], None] = tell_nobody
        self.reserved = 0
        self._swept_at_s = 0.0
        self._open: dict[str, float] = {}  # holds, and since when
        spool = Spool(spool_path)
        try:
            store.start("zuebee")
            replay(store, spool)
            self.damaged = spool.damaged
        except (StoreBusy, StoreFailed) as error:
            spool.close()
            raise OSError(f"the ledger's database cannot be used: {error}") from None
        self.committer = SharedCommitter(store, spool, timeout_s=timeout_s, waits=waits, hands=hands)

    async def reserve(self, operation: Reserve, job: Job) -> Reservation | Short:
        held = await self.committer.ask(operation, job)
        if isinstance(held, Short):
            return held
        if held is None:
            raise StoreBusy("there is no answer")
        self.reserved += 1
        self._open[held.id] = clock.monotonic_s()
        return Reservation(held)

    def settle(self, operation: Settle, reservation: Reservation | None) -> Awaitable[None] | None:
        if reservation is None:
            self.committer.settle(operation)
            return None
        state = reservation.state
        self._open.pop(state.id, None)
        state.state = "posted"  # or voided: nobody renews it any more
        self.released(state.path)  # a moment too early; whoever looks in vain looks again
        return self.committer.settle(operation)

    def extend(self, asked: Sequence[tuple[Reservation, Extend]]) -> Awaitable[list[Short | None]]:
        pending = [(reservation, self.committer.submit(operation)) for reservation, operation in asked]
        return self._extended(pending)

    async def _extended(self, asked: Sequence[tuple[Reservation, Pending]]) -> list[Short | None]:
        return [await self._answer(reservation, pending) for reservation, pending in asked]

    async def _answer(self, reservation: Reservation, pending: Pending) -> Short | None:
        try:
            extended = await self.committer.wait(pending)
        except StoreBusy:
            return None  # a running answer goes on while the store is away
        if isinstance(extended, HoldState) and extended.state == reservation.state.state == "open":
            reservation.state = extended
        return extended if isinstance(extended, Short) else None

    def renew(self, operation: Renew) -> None:
        self.committer.renew(operation.holds, operation.hold_s)

    async def refresh(self) -> None:
        """What others have granted is seen whenever a balance is read."""

    def sweep(self) -> None:
        now_s = clock.monotonic_s()
        if now_s - self._swept_at_s >= SWEEP_INTERVAL_S:
            self._swept_at_s = now_s
            self.committer.sweep()

    @property
    def trouble(self) -> str:
        committer = self.committer
        if committer.down:
            return committer.reason
        return "the database does not answer" if committer.stuck_s > STUCK_S else ""

    @property
    def usable(self) -> bool:
        return not self.committer.down and self.committer.stuck_s <= STUCK_S

    def balances(self) -> Sequence[Balance]:
        return self.committer.balances

    @property
    def balances_at_s(self) -> float:
        return self.committer.balances_at_s

    @property
    def commits(self) -> int:
        return self.committer.commits

    @property
    def commit_s(self) -> float:
        return self.committer.commit_s

    @property
    def dropped(self) -> int:
        return self.committer.dropped + self.committer.failed

    def open_holds(self) -> tuple[int, float]:
        oldest_s = next(iter(self._open.values()), None)
        return len(self._open), 0.0 if oldest_s is None else clock.monotonic_s() - oldest_s

    async def aclose(self) -> None:
        """Do what waits, or leave it in the spool file; end the epoch."""
        await self.committer.aclose()
