"""PURE. What processes ask of a ledger that they share: operations that can be collected, kept and repeated."""

from typing import Any

import msgspec

from zuebee.contracts.admission import Amount, Budget, Settlement
from zuebee.contracts.errors import CLIENT_LEFT, DRAINED, STORE_UNAVAILABLE, Refusal
from zuebee.ledger import usage_rows
from zuebee.ledger.entries import HoldState, Short
from zuebee.ledger.ledger import Ledger, UnknownHold

FLOATS = ("at_s", "duration_ms", "first_token_ms")

Answer = HoldState | Short | None


class Reserve(msgspec.Struct):
    """Hold `amount` in all budgets, or what is left if that is `least`, or nothing (`Ledger.reserve`).

    `at_s` says in which period; a reservation lives for `hold_s`.
    """

    hold: str
    budgets: tuple[Budget, ...]
    amount: Amount
    at_s: float
    hold_s: float
    record: str = ""
    least: Amount | None = None


class Extend(msgspec.Struct):
    """Let a hold hold `wanted`, or at least `spent`."""

    hold: str
    wanted: Amount
    spent: Amount


class Record(msgspec.Struct, array_like=True):
    """A usage record: its row (`usage_rows.COLUMNS`), and the id of the event that is made of it."""

    row: list[Any]
    event: str  # always empty; spool files of an earlier version have the event here
    event_id: str


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


Operation = Reserve | Extend | Settle | Expire | Renew


def holds_of(operations: list[Operation]) -> list[str]:
    """The ids of all holds that operations need to know of."""
    ids = [each.hold for each in operations if not isinstance(each, Renew)]
    return [each for each in dict.fromkeys(ids) if each]


def record_of(settlement: Settlement) -> Record:
    """The record of a settlement, ready for a database."""
    row = [
        float(value) if name in FLOATS and isinstance(value, int) else _storable(value)
        for name, value in zip(usage_rows.COLUMNS, usage_rows.row(settlement), strict=True)
    ]
    row[_IS_STREAM] = settlement.stream  # SQLite's 1 and 0 are no truth here
    return Record(row, "", _storable(settlement.request_id))


def release(operation: Reserve, *, left: bool = False, cut_for: Refusal | None = None) -> Settle:
    """Let go of what was, or may have been, reserved for nobody, and say so in the usage records: its caller `left`, or
    the gateway ended it (`cut_for`), or it had been refused.
    """
    if not operation.record:
        return Settle(operation.hold, None, None, if_held=True)
    settlement = usage_rows.orphan(operation.hold, operation.record, 0, 0)
    if cut_for is not None:
        settlement.status, settlement.code = cut_for.status, cut_for.code
        settlement.ending = "shutdown" if cut_for is DRAINED else "cut"
    elif left:
        settlement.status, settlement.code, settlement.ending = CLIENT_LEFT.status, CLIENT_LEFT.code, "client_gone"
    else:
        settlement.status, settlement.code = STORE_UNAVAILABLE.status, STORE_UNAVAILABLE.code
        settlement.ending = "refused"
    return Settle(operation.hold, None, record_of(settlement), if_held=True)


def decide(ledger: Ledger, operation: Operation, now_s: float) -> tuple[Answer, Record | None]:
    """Let the ledger decide; answers with what it said and the record to keep in the same transaction."""
    match operation:
        case Reserve():
            path = ledger.open_path(operation.budgets, operation.at_s)
            expires_at_s = now_s + operation.hold_s
            record = _storable(operation.record)
            # The entry has the time that its period was chosen by; expiry is a matter of the database's clock.
            held = ledger.reserve(
                operation.hold, path, operation.amount, operation.at_s, expires_at_s, record, operation.least
            )
            return _as_it_is_now(held), None
        case Extend():
            return _as_it_is_now(_extend(ledger, operation, now_s)), None
        case Settle():
            return None, _settle(ledger, operation, now_s)
        case Expire():
            return None, _expire(ledger, operation, now_s)
    return None, None


def _as_it_is_now(answer: Answer) -> Answer:
    """What comes later in the same batch is no part of the answer."""
    return answer.copy() if isinstance(answer, HoldState) else answer


def _extend(ledger: Ledger, operation: Extend, now_s: float) -> Answer:
    try:
        extended = ledger.extend(operation.hold, operation.wanted, now_s)
        if isinstance(extended, Short):
            extended = ledger.extend(operation.hold, operation.spent, now_s)
    except UnknownHold:
        return None
    return extended


def _settle(ledger: Ledger, operation: Settle, now_s: float) -> Record | None:
    if not operation.hold:
        return operation.record
    try:
        hold = ledger.hold(operation.hold)
    except UnknownHold:
        # A store that was restored from before its time, unless it was asked in case.
        return None if operation.if_held else operation.record
    before, charged = hold.state, hold.charged
    if operation.amount is None:
        ledger.void(hold.id, now_s)
    else:
        ledger.post(hold.id, operation.amount, now_s)
    if before == "open":
        return operation.record
    if before == "expired" and hold.state == "adjusted" and operation.record is not None:
        return _rest(operation.record, charged)
    return None  # it was settled before


def _expire(ledger: Ledger, operation: Expire, now_s: float) -> Record | None:
    try:
        hold = ledger.hold(operation.hold)
    except UnknownHold:
        return None
    # Renewed since somebody saw it expired, or resolved.
    if hold.state != "open" or (hold.expires_at_s > now_s and not operation.is_ownerless):
        return None
    ledger.expire(hold.id, now_s)
    if not hold.record:
        return None
    return record_of(usage_rows.orphan(hold.id, hold.record, hold.charged.tokens, hold.charged.cost_nano))


_IS_STREAM = usage_rows.COLUMNS.index("is_stream")
_PROMPT, _COMPLETION, _CACHED, _COST = (
    usage_rows.COLUMNS.index(name) for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "cost_nano")
)


def _rest(record: Record, charged: Amount) -> Record | None:
    """What a late record says beyond what was recorded at the expiry, so that sums of records are right."""
    row = list(record.row)
    prompt, completion = row[_PROMPT] or 0, row[_COMPLETION] or 0
    total = max(0, prompt + completion - charged.tokens)
    cost = max(0, row[_COST] - charged.cost_nano)
    if not (total or cost):
        return None
    row[_COMPLETION] = min(completion, total)
    row[_PROMPT] = total - row[_COMPLETION]
    row[_CACHED] = min(row[_CACHED] or 0, row[_PROMPT])
    row[_COST] = cost
    return Record(row, "", f"{record.event_id}/late")


def _storable(value: Any) -> Any:
    """PostgreSQL's text has no NUL, and UTF-8 no lone surrogates."""
    if isinstance(value, str) and ("\0" in value or not value.isascii()):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return value
