"""PURE. What is asked of a ledger: operations that can be collected, kept, repeated, and decided by any ledger.

Both stores run the same ones through `decide`: the one on SQLite by what it has in memory, the one on PostgreSQL by
what it has just read under its locks. What comes of it is in `Ledger.changes`, and the store applies that. A line of
the journal and of the spool is a `Settle`.
"""

from typing import Any, Final

import msgspec

from zuebee.contracts.admission import MAX_AMOUNT, Amount, Budget, Settlement
from zuebee.ledger.entries import HoldState, Short

Answer = HoldState | Short | None


class Reserve:
    """Hold `amount` in all budgets, or what is left if that is `least`, or nothing (`Ledger.reserve`).

    `at_s` says in which period; a reservation lives for `hold_s`. `record`: what the store keeps beside the hold in
    case that its owner dies, a `HoldContext` or its text.
    """

    def __init__(
        self,
        hold: str,
        budgets: tuple[Budget, ...],
        amount: Amount,
        at_s: float,
        hold_s: float,
        record: Any = "",
        least: Amount | None = None,
    ) -> None:
        self.hold = hold
        self.budgets = budgets
        self.amount = amount
        self.at_s = at_s
        self.hold_s = hold_s
        self.record = record
        self.least = least


class Extend:
    """Let a hold hold `wanted`, or at least `spent`."""

    def __init__(self, hold: str, wanted: Amount, spent: Amount) -> None:
        self.hold = hold
        self.wanted = wanted
        self.spent = spent


class Record:
    """A usage record: its row (`usage_rows.COLUMNS`), and the id of the event that is made of it.

    `billed`: a budget pays for its request.
    """

    def __init__(self, row: tuple[Any, ...], event_id: str, billed: bool) -> None:
        self.row = row
        self.event_id = event_id
        self.billed = billed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and (self.row, self.event_id) == (other.row, other.event_id)

    def __hash__(self) -> int:
        return hash((self.row, self.event_id))


class Settle:
    """Charge `amount`, or nothing (None), and keep the record. Without a `hold` only the record is kept.

    `if_held`: there may be no such hold, and then there is nothing to record either.
    """

    def __init__(self, hold: str, amount: Amount | None, record: Record | None, if_held: bool = False) -> None:
        self.hold = hold
        self.amount = amount
        self.record = record
        self.if_held = if_held

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Settle) or self.if_held != other.if_held:
            return False
        return (self.hold, self.amount, self.record) == (other.hold, other.amount, other.record)

    def __hash__(self) -> int:
        return hash((self.hold, self.amount))

    def __repr__(self) -> str:
        return f"Settle({self.hold!r}, {self.amount!r})"


class Expire:
    """Resolve a hold that nobody has renewed in time, or whose owner has ended."""

    def __init__(self, hold: str, is_ownerless: bool = False) -> None:
        self.hold = hold
        self.is_ownerless = is_ownerless

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expire) and (self.hold, self.is_ownerless) == (other.hold, other.is_ownerless)

    def __hash__(self) -> int:
        return hash(self.hold)


class Renew:
    """A sign of life: holds of running requests with what was delivered (hold, tokens, money), good for `hold_s`."""

    def __init__(self, holds: list[tuple[str, int, int]], hold_s: float) -> None:
        self.holds = holds
        self.hold_s = hold_s


class Credit:
    """Add `amount` to an account without a period: money, or tokens, that were paid for. `id` is used once."""

    def __init__(self, id: str, account: str, unit: str, amount: int, at_s: float) -> None:
        self.id = id
        self.account = account
        self.unit = unit
        self.amount = amount
        self.at_s = at_s


Operation = Reserve | Extend | Settle | Expire | Renew | Credit


def holds_of(operations: list[Operation]) -> list[str]:
    """The ids of all holds that operations need to know of."""
    ids = [each.hold for each in operations if not isinstance(each, Renew | Credit)]
    return [each for each in dict.fromkeys(ids) if each]


# A settlement as a line of text: `[hold, tokens or -1, money, row, event id or "", 1 if `if_held`]`, as JSON.

_Line = tuple[str, int, int, tuple[Any, ...] | None, str, int]
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Line).decode


def settle_text(settle: Settle) -> bytes:
    """A settlement, as it is kept in a file. Raises UnicodeEncodeError where it has what is no text."""
    amount, record = settle.amount, settle.record
    tokens = -1
    cost_nano = 0
    if amount is not None:
        tokens = amount.tokens
        cost_nano = amount.cost_nano
    if record is None:
        return _encode((settle.hold, tokens, cost_nano, None, "", 1 if settle.if_held else 0))
    event_id = "" if record.event_id == settle.hold else record.event_id
    return _encode((settle.hold, tokens, cost_nano, record.row, event_id, 1 if settle.if_held else 0))


def settle_of(text: "bytes | msgspec.Raw") -> Settle:
    """The settlement that was kept so. Raises msgspec.DecodeError."""
    line: Any = _decode(text)
    hold, tokens, cost_nano, row, event_id, if_held = line
    record = None if row is None else Record(row, event_id or hold, bool(hold))
    return Settle(hold, None if tokens < 0 else Amount(tokens, cost_nano), record, bool(if_held))


def charge(settlement: Settlement) -> Amount | None:
    """What a settlement charges; None: nothing was used."""
    usage = settlement.usage
    if usage is None:
        return None
    tokens, cost_nano = usage.total_tokens, settlement.cost_nano
    return Amount(tokens if tokens < MAX_AMOUNT else MAX_AMOUNT, cost_nano if cost_nano < MAX_AMOUNT else MAX_AMOUNT)
