"""PURE. What the ledger is made of: balances, the paths through them, holds, and the entries that explain them."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from zuebee.contracts.admission import NOTHING, Amount, Period
from zuebee.contracts.limits import FOREVER_S

# What entries of the ledger do to the balances of their path.

Kind = Literal["grant", "withdraw", "reserve", "extend", "post", "overdraft", "void", "expire", "adjust"]


State = Literal["open", "posted", "voided", "expired", "adjusted"]
TOKENS: Final = "tokens"


class Figures:
    """How an account stands: what was granted, is held by open holds, was used, and of that without cover."""

    def __init__(self, granted: int = 0, held: int = 0, used: int = 0, overdraft: int = 0) -> None:
        self.granted = granted
        self.held = held
        self.used = used
        self.overdraft = overdraft

    def add(self, kind: Kind, amount: int, released: int) -> None:
        """What an entry does to a balance of its path: `amount` in the balance's unit, and what it `released` of a
        hold. This is the only place that says so, beside the independent one that checks the books (`invariants.py`).
        Sums of entries of one kind have the effect of the entries.
        """
        if kind == "reserve" or kind == "extend":
            self.held += amount
        elif kind == "post" or kind == "void" or kind == "expire":
            self.held -= released
            self.used += amount
        elif kind == "overdraft" or kind == "adjust":
            self.used += amount
            self.overdraft += amount
        elif kind == "grant":
            self.granted += amount
        else:
            self.granted -= amount


class Balance(Figures):
    """One account in one period. What is left is `granted - used - held`; it is below 0 after an overdraft.

    `owed`: what holds that were cut down may need beyond what they hold; nobody else may reserve it. `limited`: how
    much of `granted` came from the limit; the rest was paid in. `apart`: see `zuebee.contracts.purses`.
    """

    def __init__(
        self,
        id: int,
        account: str,
        unit: str,
        period: Period,
        starts_at_s: int,
        granted: int = 0,
        held: int = 0,
        used: int = 0,
        overdraft: int = 0,
        limited: int = 0,
        changes: int = 0,
        owed: int = 0,
        apart: int = 0,
        seen_entry: int = 0,
    ) -> None:
        super().__init__(granted, held, used, overdraft)
        self.id = id
        self.account = account
        self.unit = unit
        self.period: Period = period
        self.starts_at_s = starts_at_s
        self.limited = limited
        self.changes = changes
        self.owed = owed
        self.apart = apart
        self.seen_entry = seen_entry

    def copy(self) -> "Balance":
        """The balance as it is now."""
        return Balance(
            self.id,
            self.account,
            self.unit,
            self.period,
            self.starts_at_s,
            self.granted,
            self.held,
            self.used,
            self.overdraft,
            self.limited,
            self.changes,
            self.owed,
            self.apart,
            self.seen_entry,
        )

    @property
    def available(self) -> int:
        """What is neither used nor held."""
        return self.granted - self.used - self.held

    @property
    def left(self) -> int:
        """What can still be reserved."""
        return self.granted - self.used - self.held - self.owed


@dataclass
class Path:
    """The balances that a hold is reserved in. Good for reserving from `starts_at_s`, when the last of their periods
    began, until `ends_at_s`, when the first of them ends.
    """

    id: int
    balances: tuple[Balance, ...]
    ends_at_s: float = FOREVER_S  # beside the clock, which is a float, without being converted each time
    starts_at_s: float = 0.0


class Entry:
    """One line of the ledger, never changed. See the table `ledger_entries`.

    `apart`: what it adds to that of its one balance, where a limit comes or goes.
    """

    apart: int = 0

    def __init__(
        self,
        kind: Kind,
        hold: str,
        step: int | None,
        path: Path,
        tokens: int,
        cost_nano: int,
        released_tokens: int,
        released_cost_nano: int,
        at_s: float,
    ) -> None:
        self.kind = kind
        self.hold = hold
        self.step = step
        self.path = path
        self.tokens = tokens
        self.cost_nano = cost_nano
        self.released_tokens = released_tokens
        self.released_cost_nano = released_cost_nano
        self.at_s = at_s


class HoldState:
    """A hold: how much it holds while it is open, how much was charged once it is resolved.

    One that was cut down holds less than the worst case; `owed` is what it lacks. `record` is the store's: what it
    keeps beside a hold for the case that its owner dies.
    """

    def __init__(
        self,
        id: str,
        path: Path,
        tokens: int,
        cost_nano: int,
        owner: int,
        expires_at_s: float,
        record: Any = "",
        progress: Amount = NOTHING,
        state: State = "open",
        charged: Amount = NOTHING,
        owed: Amount = NOTHING,
    ) -> None:
        self.id = id
        self.path = path
        self.tokens = tokens
        self.cost_nano = cost_nano
        self.owner = owner
        self.expires_at_s = expires_at_s
        self.record = record
        self.progress = progress
        self.state = state
        self.charged = charged
        self.owed = owed

    def copy(self, path: Path | None = None) -> "HoldState":
        """The hold as it is now, on the same or an equal path."""
        return HoldState(
            self.id,
            path or self.path,
            self.tokens,
            self.cost_nano,
            self.owner,
            self.expires_at_s,
            self.record,
            self.progress,
            self.state,
            self.charged,
            self.owed,
        )


@dataclass(frozen=True)
class Short:
    """Not reserved: this account has only `available` left.

    `later`: what other requests hold may come back, and then there may be enough. `granted`: all that it ever had in
    this period; -1: not known.
    """

    account: str
    unit: str
    period: Period
    ends_at_s: int
    available: int
    asked: int
    later: bool = False
    granted: int = -1


class Changes:
    """What a store must keep, in one transaction. `opened`: the holds of the `reserve` entries, in their order.

    `renewed`: what has a later expiry.
    """

    def __init__(self) -> None:
        self.balances: list[Balance] = []
        self.paths: list[Path] = []
        self.entries: list[Entry] = []
        self.opened: list[HoldState] = []
        self.renewed: list[HoldState] = []
