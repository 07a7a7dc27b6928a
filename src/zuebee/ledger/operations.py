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


class Reserve(msgspec.Struct):
    """Hold `amount` in all budgets, or what is left if that is `least`, or nothing (`Ledger.reserve`).

    `at_s` says in which period; a reservation lives for `hold_s`. `record`: what the store keeps beside the hold in
    case that its owner dies, a `Stub` or its text.
    """

    hold: str
    budgets: tuple[Budget, ...]
    amount: Amount
    at_s: float
    hold_s: float
    record: Any = ""
    least: Amount | None = None


class Extend(msgspec.Struct):
    """Let a hold hold `wanted`, or at least `spent`."""

    hold: str
    wanted: Amount
    spent: Amount


class Record(msgspec.Struct, array_like=True):
    """A usage record: its row (`usage_rows.COLUMNS`), and the id of the event that is made of it.

    `billed`: a budget pays for its request.
    """

    row: tuple[Any, ...]
    event: str  # always empty; spool files of an earlier version have the event here
    event_id: str
    billed: bool = False


class Settle(msgspec.Struct):
    """Charge `amount`, or nothing (None), and keep the record. Without a `hold` only the record is kept.

    `if_held`: there may be no such hold, and then there is nothing to record either.
    """

    hold: str
    amount: Amount | None
    record: Record | None
    if_held: bool = False


class Expire(msgspec.Struct):
    """Resolve a hold that nobody has renewed in time, or whose owner has ended."""

    hold: str
    is_ownerless: bool = False


class Renew(msgspec.Struct):
    """A sign of life: holds of running requests with what was delivered (hold, tokens, money), good for `hold_s`."""

    holds: list[tuple[str, int, int]]
    hold_s: float


class Credit(msgspec.Struct):
    """Add `amount` to an account without a period: money, or tokens, that were paid for. `id` is used once."""

    id: str
    account: str
    unit: str
    amount: int
    at_s: float


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
    tokens, cost_nano = (-1, 0) if amount is None else (amount.tokens, amount.cost_nano)
    row, event_id = (None, "") if record is None else (record.row, record.event_id)
    if event_id == settle.hold:
        event_id = ""
    return _encode((settle.hold, tokens, cost_nano, row, event_id, 1 if settle.if_held else 0))


def settle_of(text: bytes | msgspec.Raw) -> Settle:
    """The settlement that was kept so. Raises msgspec.DecodeError."""
    hold, tokens, cost_nano, row, event_id, if_held = _decode(text)
    record = None if row is None else Record(row, "", event_id or hold, bool(hold))
    return Settle(hold, None if tokens < 0 else Amount(tokens, cost_nano), record, bool(if_held))


def charge(settlement: Settlement) -> Amount | None:
    """What a settlement charges; None: nothing was used."""
    usage = settlement.usage
    if usage is None:
        return None
    return Amount(min(usage.total_tokens, MAX_AMOUNT), min(settlement.cost_nano, MAX_AMOUNT))
