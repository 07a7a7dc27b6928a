"""PURE. What a batch on PostgreSQL is decided by: balances and holds, read under their locks or remembered.

What was decided by memory may be written if its `Terms` are still met once the balances are locked: then a ledger
that was read just now would have said the same. Whatever is not sure of that is decided by what is read.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from zuebee.contracts.admission import Amount
from zuebee.ledger.decide import decide
from zuebee.ledger.entries import TOKENS, Balance, HoldState, Kind, Path, Short, State
from zuebee.ledger.ledger import Ledger
from zuebee.ledger.operations import Answer, Expire, Extend, Operation, Record, Reserve, holds_of

MAX_REMEMBERED = 200_000
NOTHING_ASKED = -(2**62)

Paths = Mapping[tuple[int, ...], int]
"""Ids of paths by the ids of their balances."""

_STATES: dict[str, State] = {"post": "posted", "void": "voided", "expire": "expired", "adjust": "adjusted"}
_CHARGED = ("post", "expire", "overdraft", "adjust")
_FORESEEN: frozenset[Kind] = frozenset({"reserve", "extend", "post", "overdraft", "void"})
_TAKES: frozenset[Kind] = frozenset({"reserve", "extend", "overdraft"})


class Terms(msgspec.Struct):
    """What must be so for a batch that was decided from memory.

    `balances` (id, limit, least that must be available), `holds` (id, tokens and money that they hold).
    """

    balances: list[tuple[int, int, int]]
    holds: list[tuple[str, int, int]]


class Snapshot:
    """The balances and holds that a batch touches, in a ledger that decides about them."""

    def __init__(self, ledger: Ledger, now_s: float, sequence: int, digest: str) -> None:
        self.ledger = ledger
        self.now_s = now_s
        self.sequence = sequence  # of the last batch of this owner's chain, and its hash
        self.digest = digest
        self.answers: list[Answer] = []
        self.records: list[Record | None] = []
        self._before = {balance.id: _figures(balance) for balance in ledger.balances()}
        self._holds = {hold.id: (hold.tokens, hold.cost_nano) for hold in ledger.open.values()}

    @property
    def balances(self) -> list[int]:
        """The ids of the balances."""
        return sorted(self._before)

    def decide(self, operations: Sequence[Operation]) -> None:
        """Let the ledger decide; `ledger.changes`, `answers` and `records` have what comes of it."""
        for operation in operations:
            answer, record = decide(self.ledger, operation, self.now_s)
            # What comes later in the same batch is no part of the answer.
            self.answers.append(answer.copy() if isinstance(answer, HoldState) else answer)
            self.records.append(record)
        if self.ledger.changes.balances or self.ledger.changes.paths:
            raise ValueError("balances and paths are made beforehand")

    def terms(self, operations: Sequence[Operation], paths: Paths) -> Terms | None:
        """On what terms it would have been decided like that whatever the other processes did; None when no terms
        can say: of refusals, and of limits that change.
        """
        if self.ledger.unsettled or any(_is_short(*each) for each in zip(operations, self.answers, strict=True)):
            return None  # nor of holds that were cut down to what was left
        if self._takes_back_later(operations):
            return None
        asked: set[int] = set()
        # The most that each balance must have: what the batch gives back may come too late in its order.
        taken = dict.fromkeys(self._before, 0)
        for entry in self.ledger.changes.entries:
            if entry.kind not in _FORESEEN:
                return None
            for balance in entry.path.balances if entry.kind in _TAKES else ():
                taken[balance.id] += entry.tokens if balance.unit == TOKENS else entry.cost_nano
                if entry.kind != "overdraft":  # which is charged whether or not there is enough
                    asked.add(balance.id)
        relied_on = asked.union(*paths)
        return Terms(
            [(b.id, b.limited, taken[b.id] if b.id in asked else NOTHING_ASKED)
             for b in self.ledger.balances() if b.id in relied_on],
            [(hold, *amounts) for hold, amounts in self._holds.items()],
        )  # fmt: skip

    def _takes_back_later(self, operations: Sequence[Operation]) -> bool:
        """Whether a limit is lower than what it granted, for not all of that was free: more of it may be by now."""
        granted: dict[str, int] = {}
        for balance in self.ledger.balances():
            granted[balance.account] = max(granted.get(balance.account, 0), balance.limited)
        return any(
            budget.limit is not None and budget.limit < granted.get(budget.account, 0)
            for operation in operations
            if isinstance(operation, Reserve)
            for budget in operation.budgets
        )

    def moved(self) -> list[tuple[int, ...]]:
        """By how much the figures of each balance have changed."""
        rows = [
            (b.id, *(now - then for now, then in zip(_figures(b), self._before[b.id], strict=True)))
            for b in self.ledger.balances()
        ]
        return [row for row in rows if any(row[1:])]


class Memory:
    """What a process has seen of the ledger lately. Others may have changed it since."""

    def __init__(self, most: int = MAX_REMEMBERED) -> None:
        self._most = most
        self._balances: dict[int, Balance] = {}
        self._holds: dict[str, HoldState] = {}
        self._sequence = 0
        self._digest = ""
        self._ahead_s: float | None = None  # by how much the database's clock is ahead of ours

    def learn(
        self, snapshot: Snapshot, operations: Sequence[Operation], now_s: float, fresh: Iterable[Balance]
    ) -> None:
        """A batch was written. `fresh`: how its balances stood before it. `now_s`: our clock at `snapshot.now_s`."""
        if len(self._balances) + len(self._holds) > self._most:
            self._balances.clear()
            self._holds.clear()
        self._sequence, self._digest = snapshot.sequence, snapshot.digest
        self._ahead_s = snapshot.now_s - now_s
        moved = {number: rest for number, *rest in snapshot.moved()}
        for balance in fresh:
            for name, more in zip(_MOVING, moved.get(balance.id, ()), strict=False):
                setattr(balance, name, getattr(balance, name) + more)
            self._balances[balance.id] = balance
        for hold_id in holds_of(list(operations)):
            hold = snapshot.ledger.open.get(hold_id)
            if hold is None:
                self._holds.pop(hold_id, None)
            else:
                self._holds[hold_id] = hold

    def recall(self, owner: int, operations: Sequence[Operation], paths: Paths, now_s: float) -> Snapshot | None:
        """What is needed for these operations; None when not all of it is known."""
        if self._ahead_s is None:
            return None
        holds: list[HoldState] = []
        begun: set[str] = set()
        for operation in operations:
            hold_id = getattr(operation, "hold", "")
            hold = self._holds.get(hold_id)
            if isinstance(operation, Expire) or (hold_id and hold is None and hold_id not in begun):
                if not isinstance(operation, Reserve):
                    return None
                begun.add(hold_id)
            if hold is not None:
                holds.append(hold)
        wanted = {each for path in paths for each in path} | {b.id for hold in holds for b in hold.path.balances}
        if not wanted <= self._balances.keys():
            return None
        ledger = Ledger(owner)
        balances = {each: ledger.add_balance(self._balances[each].copy()) for each in wanted}
        add_paths(ledger, balances, paths)
        for hold in holds:
            path = ledger.add_path(hold.path.id, [balances[b.id] for b in hold.path.balances])
            ledger.add_hold(hold.copy(path))
        return Snapshot(ledger, now_s + self._ahead_s, self._sequence, self._digest)


def add_paths(ledger: Ledger, balances: Mapping[int, Balance], paths: Paths) -> None:
    """Paths of balances that are in the ledger."""
    for ids, path_id in paths.items():
        ledger.add_path(path_id, [balances[each] for each in ids])


def add_holds(
    ledger: Ledger, balances: Mapping[int, Balance], open_rows: Iterable[Any], entry_rows: Iterable[Any]
) -> None:
    """Holds as rows say that they stand; of those that are resolved, how, and what was charged."""

    def path_of(path_id: int, names: str) -> Path:
        return ledger.add_path(path_id, [balances[int(each)] for each in names.split(",")])

    for hold, path_id, names, tokens, cost, owner, expires_at_s, record, spent, spent_cost, *owed in open_rows:
        still = HoldState(hold, path_of(path_id, names), tokens, cost, owner, expires_at_s, record)
        still.progress, still.owed = Amount(spent, spent_cost), Amount(*owed)
        ledger.add_hold(still)
    resolved: dict[str, HoldState] = {}
    for hold, kind, path_id, names, tokens, cost, owner in entry_rows:
        if hold in ledger.open:
            continue
        state = resolved.get(hold)
        if state is None:
            state = resolved[hold] = HoldState(hold, path_of(path_id, names), 0, 0, owner, 0.0)
        state.state = _STATES.get(kind, state.state)
        if kind in ("reserve", "extend"):
            state.tokens += tokens
            state.cost_nano += cost
        if kind in _CHARGED:
            state.charged = Amount(state.charged.tokens + tokens, state.charged.cost_nano + cost)
    for state in resolved.values():
        if state.state != "open":  # an id of a grant is none of a hold
            ledger.add_hold(state)


def _is_short(operation: Operation, answer: Answer) -> bool:
    """Whether there was less than was asked for."""
    if isinstance(operation, Extend) and isinstance(answer, HoldState) and answer.state == "open":
        return answer.tokens < operation.wanted.tokens or answer.cost_nano < operation.wanted.cost_nano
    if isinstance(operation, Reserve) and isinstance(answer, HoldState):
        return bool(answer.owed.tokens or answer.owed.cost_nano)
    return isinstance(answer, Short)


_MOVING = ("granted", "held", "used", "overdraft", "limited", "changes", "owed", "apart")


def _figures(balance: Balance) -> tuple[int, ...]:
    b = balance
    return b.granted, b.held, b.used, b.overdraft, b.limited, b.changes, b.owed, b.apart
