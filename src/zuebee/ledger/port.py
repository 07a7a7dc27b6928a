"""What billing asks of a ledger, whichever store it stands on: operations in, answers and reservations out.

Implementations: `sqlite/ledger.py` (one process, decides in memory) and `postgres/ledger.py` (many processes, decides
under the database's locks). Both let `decide` say what an operation does.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from zuebee.contracts.inference import Job
from zuebee.ledger.entries import Balance, HoldState, Path, Short
from zuebee.ledger.operations import Extend, Renew, Reserve, Settle


class Reservation:
    """A hold in the ledger: as it stands here, one that is on disk from its beginning, and is settled by itself.

    `state` is how it stands, as far as this process knows.
    """

    def __init__(self, state: HoldState) -> None:
        self.state = state
        self.joined = False  # the settlement that `secure` was given is on disk with it, or on the way there

    @property
    def secured(self) -> bool:
        """Whether it is on disk."""
        return True

    def can_join(self) -> bool:
        """Whether a settlement that is given to `secure` now may be written together with the hold."""
        return False

    async def secure(self, settle: Settle | None = None) -> bool:
        """Wait until it is on disk; False: it cannot be, and the request must not be answered.

        `settle`: what it is to be settled with in the same transaction, if it `can_join`. Then it is `joined`, also for
        a caller who does not wait for the end; where that was not written after all it is not joined any more.
        """
        return True


class LedgerPort(Protocol):
    """A ledger. All methods belong to the event loop.

    `released` is called whenever a hold has ended, with its path. `reserved` counts reservations, `damaged` places of
    the ledger's own file that could not be read at the start.
    """

    released: Callable[[Path], None]
    reserved: int
    damaged: int

    @property
    def polls(self) -> bool:
        """Whether other processes give back as well, of which nobody is told."""
        ...

    # --- what is asked ---

    async def reserve(self, operation: Reserve, job: Job) -> Reservation | Short:
        """Reserve for a job. The answer is sure, but perhaps not yet on disk. Raises StoreBusy."""
        ...

    def settle(self, operation: Settle, reservation: Reservation | None) -> Awaitable[None] | None:
        """Do this, sooner or later, exactly once. What is returned, if anything, ends when it survives the process, or
        when that takes too long to keep anybody waiting.
        """
        ...

    def extend(self, asked: Sequence[tuple[Reservation, Extend]]) -> Awaitable[list[Short | None]]:
        """Let holds hold more, all at once. In their order: what is short, or None, also where nobody can say."""
        ...

    def renew(self, operation: Renew) -> None:
        """Note that requests are running, and what they have delivered."""
        ...

    async def refresh(self) -> None:
        """Once a second, before anything is extended: let nobody wait too long, and learn what others have granted."""
        ...

    def sweep(self) -> None:
        """Once a second, after the running ones were renewed: expire what nobody renews, forget what is over."""
        ...

    # --- how it stands ---

    @property
    def dropped(self) -> int:
        """Records that could not be kept."""
        ...

    @property
    def trouble(self) -> str:
        """What keeps it from being written; empty: nothing."""
        ...

    @property
    def usable(self) -> bool:
        """Whether metered requests can be let in."""
        ...

    def balances(self) -> Sequence[Balance]:
        """The balances of accounts in use, as they stood at `balances_at_s`."""
        ...

    @property
    def balances_at_s(self) -> float:
        """When they stood so, in seconds since 1970; not a number before they were read."""
        ...

    @property
    def commits(self) -> int:
        """Transactions."""
        ...

    @property
    def commit_s(self) -> float:
        """Seconds spent in them."""
        ...

    def open_holds(self) -> tuple[int, float]:
        """How many holds of this process are open, and the age of the oldest in seconds."""
        ...

    async def aclose(self) -> None:
        """Do what waits, and end the epoch."""
        ...


def tell_nobody(path: Path) -> None:
    """Nobody waits for what comes back."""


class Room(Protocol):
    """How much the outbox can still take (`usage/gate.py`)."""

    def room_for(self, rows: int, *, billed: bool) -> bool:
        """Whether rows are to be written; `billed`: for a request that a budget pays for."""
        ...

    def added(self, rows: int) -> None:
        """They were written."""
        ...


class NoBound:
    """Room for everything."""

    def room_for(self, rows: int, *, billed: bool) -> bool:
        return True

    def added(self, rows: int) -> None:
        """Nobody counts."""
