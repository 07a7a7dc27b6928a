"""PURE. How a ledger decides about an operation, and what is recorded of it: the same for every store."""

from typing import Any

from zuebee.contracts.admission import MAX_BALANCE, Amount, Settlement
from zuebee.contracts.errors import CLIENT_LEFT, DRAINED, STORE_UNAVAILABLE, Refusal
from zuebee.ledger import usage_rows
from zuebee.ledger.entries import HoldState, Short
from zuebee.ledger.ledger import Ledger, UnknownHold
from zuebee.ledger.operations import Answer, Credit, Expire, Extend, Operation, Record, Renew, Reserve, Settle
from zuebee.ledger.usage_rows import CACHED_TOKENS, COMPLETION_TOKENS, COST_NANO, PROMPT_TOKENS


class TooMuch(Exception):
    """With it an account would have been granted more in its life than can be counted."""


def decide(ledger: Ledger, operation: Operation, now_s: float) -> tuple[Answer, Record | None]:
    """Let the ledger decide; answers with what it said and the record to keep in the same transaction.

    What it answers with is the hold itself: it changes with what comes later. Raises TooMuch for a `Credit`.
    """
    if isinstance(operation, Reserve):
        return reserve(ledger, operation, now_s), None
    if isinstance(operation, Settle):
        return None, _settle(ledger, operation, now_s)
    if isinstance(operation, Extend):
        return _extend(ledger, operation, now_s), None
    if isinstance(operation, Expire):
        return None, _expire(ledger, operation, now_s)
    if isinstance(operation, Renew):
        _renew(ledger, operation, now_s)
    elif isinstance(operation, Credit):
        _credit(ledger, operation)
    return None, None


def reserve(ledger: Ledger, operation: Reserve, now_s: float) -> HoldState | Short:
    """The hold, or what is short. The entry has the time that its period was chosen by, `at_s`; it expires by `now_s`,
    which is a matter of the store's clock.
    """
    o = operation
    path = ledger.path(o.budgets, o.at_s)
    if path is None:
        path = ledger.open_path(o.budgets, o.at_s)
    return ledger.reserve(o.hold, path, o.amount, o.at_s, now_s + o.hold_s, o.record, o.least)


def _extend(ledger: Ledger, operation: Extend, now_s: float) -> Answer:
    try:
        extended = ledger.extend(operation.hold, operation.wanted, now_s)
        if isinstance(extended, Short):
            extended = ledger.extend(operation.hold, operation.spent, now_s)
    except UnknownHold:
        return None
    return extended


def _renew(ledger: Ledger, operation: Renew, now_s: float) -> None:
    """Holds that are resolved, or not known here, are passed over."""
    expires_at_s = now_s + operation.hold_s
    for hold_id, tokens, cost_nano in operation.holds:
        hold = ledger.open.get(hold_id)
        if hold is not None:
            hold.expires_at_s = expires_at_s
            before = hold.progress
            if tokens > before.tokens or cost_nano > before.cost_nano:
                hold.progress = Amount(max(tokens, before.tokens), max(cost_nano, before.cost_nano))
            ledger.changes.renewed.append(hold)


def _credit(ledger: Ledger, operation: Credit) -> None:
    """The account's balance has to be in the ledger."""
    balance = ledger.balance(operation.account, 0)
    if balance is None:
        raise KeyError(operation.account)
    if operation.amount > MAX_BALANCE - balance.granted:
        raise TooMuch(operation.account)
    ledger.grant(operation.id, balance, operation.amount, operation.at_s)


def _settle(ledger: Ledger, operation: Settle, now_s: float) -> Record | None:
    record = operation.record
    if not operation.hold:
        return record
    try:
        hold = ledger.hold(operation.hold)
    except UnknownHold:
        # A store that was restored from before its time, unless it was asked in case.
        return None if operation.if_held else record
    before, charged = hold.state, hold.charged
    amount = operation.amount
    if amount is None:
        ledger.void(hold.id, now_s)
    else:
        ledger.post(hold.id, amount, now_s)
    if before == "open":
        return record
    if before == "expired" and hold.state == "adjusted" and record is not None:
        return _rest(record, charged)
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
    return record_of(usage_rows.orphan(hold.id, hold.record, hold.charged.tokens, hold.charged.cost_nano), billed=True)


def record_of(settlement: Settlement, *, billed: bool) -> Record:
    """The record of a settlement. `billed`: a budget pays for its request."""
    return Record(usage_rows.row(settlement), settlement.request_id, billed)


def storable(value: Any) -> Any:
    """A value that every store and every file can keep: PostgreSQL's text has no NUL, and UTF-8 no lone surrogates."""
    if isinstance(value, str) and ("\0" in value or not value.isascii()):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    return value


def release(operation: Reserve, *, left: bool = False, cut_for: Refusal | None = None) -> Settle:
    """Let go of what was, or may have been, reserved for nobody, and say so in the usage records: its caller `left`, or
    the gateway ended it (`cut_for`), or it had been refused.
    """
    if not operation.record:
        return Settle(operation.hold, None, None, if_held=True)
    settlement = usage_rows.orphan(operation.hold, operation.record, 0, 0)
    if cut_for is not None:
        settlement.status, settlement.code = cut_for.status, cut_for.code
        settlement.termination_reason = "shutdown" if cut_for is DRAINED else "cut"
    elif left:
        settlement.status, settlement.code, settlement.termination_reason = (
            CLIENT_LEFT.status,
            CLIENT_LEFT.code,
            "client_gone",
        )
    else:
        settlement.status, settlement.code = STORE_UNAVAILABLE.status, STORE_UNAVAILABLE.code
        settlement.termination_reason = "refused"
    return Settle(operation.hold, None, record_of(settlement, billed=True), if_held=True)


def _rest(record: Record, charged: Amount) -> Record | None:
    """What a late record says beyond what was recorded at the expiry, so that sums of records are right."""
    row = list(record.row)
    prompt, completion = row[PROMPT_TOKENS] or 0, row[COMPLETION_TOKENS] or 0
    total = max(0, prompt + completion - charged.tokens)
    cost = max(0, row[COST_NANO] - charged.cost_nano)
    if not (total or cost):
        return None
    row[COMPLETION_TOKENS] = min(completion, total)
    row[PROMPT_TOKENS] = total - row[COMPLETION_TOKENS]
    row[CACHED_TOKENS] = min(row[CACHED_TOKENS] or 0, row[PROMPT_TOKENS])
    row[COST_NANO] = cost
    return Record(tuple(row), f"{record.event_id}/late", record.billed)
