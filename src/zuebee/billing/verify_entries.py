"""PURE. Reads the entries of a ledger from first to last and says where they break its invariants.

Written from the description of the tables (docs/billing.md), not from the code that writes them, so that the two
check each other. Memory grows with the accounts and the open holds, not with the entries.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from zuebee.billing.chain import next_hash
from zuebee.contracts.admission import MAX_AMOUNT
from zuebee.contracts.periods import period_end_s, period_start_s

CLOCK_SLACK_S = 300.0
"""How far the clocks of several processes may lie apart."""

GRANTS = frozenset({"grant", "withdraw"})
HOLDS_MORE = frozenset({"reserve", "extend"})
RESOLVES = frozenset({"post", "void", "expire"})
CHARGES_MORE = frozenset({"overdraft", "adjust"})
_STEPS = {"grant": (0,), "withdraw": (None, 0), "reserve": (0,), "extend": (None,), "overdraft": (None,)}
_STEPS |= {"adjust": (2,)} | dict.fromkeys(RESOLVES, (1,))


class Violation(NamedTuple):
    """An invariant (`I1` to `I14`) that does not hold, in which account (or hold), and how."""

    invariant: str
    account: str
    text: str


class EntryRow(NamedTuple):
    """A row of `ledger_entries`."""

    id: int
    batch: int
    kind: str
    hold: str
    step: int | None
    path: int
    tokens: int
    cost_nano: int
    released_tokens: int
    released_cost_nano: int
    owner: int
    at_s: float


class BalanceRow(NamedTuple):
    """A row of `ledger_balances`."""

    id: int
    account: str
    unit: str
    period: str
    starts_at_s: float
    granted: int
    held: int
    used: int
    overdraft: int


class BatchRow(NamedTuple):
    """A row of `ledger_batches`."""

    owner: int
    sequence: int
    entries: int
    hash: str


class HoldRow(NamedTuple):
    """A row of `ledger_holds`."""

    hold: str
    path: int
    tokens: int
    cost_nano: int
    expires_at_s: float
    owner: int


class _Folded:
    __slots__ = ("granted", "held", "overdraft", "row", "used")

    def __init__(self, row: BalanceRow) -> None:
        self.row = row
        self.granted = self.held = self.used = self.overdraft = 0


class Fold:
    """What the entries so far amount to. `add` every entry in the order of ids, then `finish`."""

    def __init__(self, balances: Iterable[BalanceRow], paths: Iterable[tuple[int, str]]) -> None:
        self._balances = {row.id: _Folded(row) for row in balances}
        self._paths = {
            path: [self._balances[int(i)] for i in ids.split(",") if i and int(i) in self._balances]
            for path, ids in paths
        }
        self._open: dict[str, tuple[int, int, int]] = {}

    def add(self, entry: EntryRow) -> Iterator[Violation]:
        """The next entry, and what is wrong with it."""
        yield from _sane(entry)
        kind = entry.kind
        if kind in HOLDS_MORE:
            yield from self._hold_more(entry)
        elif kind in RESOLVES:
            yield from self._resolve(entry)
        for balance in self._paths.get(entry.path, ()):
            if balance.row.unit == "tokens":
                amount, released = entry.tokens, entry.released_tokens
            else:
                amount, released = entry.cost_nano, entry.released_cost_nano
            if kind in HOLDS_MORE:
                balance.held += amount
            elif kind in RESOLVES:
                balance.held -= released
                balance.used += amount
            elif kind == "grant":
                balance.granted += amount
            elif kind == "withdraw":
                balance.granted -= amount
            else:
                balance.used += amount
                balance.overdraft += amount
            if balance.held < 0 or balance.used + balance.held > balance.granted + balance.overdraft:
                yield Violation("I2", balance.row.account, f"after entry {entry.id} ({kind}): {_figures(balance)}")
        if entry.path not in self._paths:
            yield Violation("I9", entry.hold, f"entry {entry.id} is on path {entry.path}, which is not there")

    def _hold_more(self, entry: EntryRow) -> Iterator[Violation]:
        held = self._open.get(entry.hold)
        if entry.kind == "reserve":
            if held is not None:
                yield Violation("I13", entry.hold, f"entry {entry.id} reserves a second time")
            yield from self._in_period(entry)
            self._open[entry.hold] = (entry.path, entry.tokens, entry.cost_nano)
            return
        if held is None:
            yield Violation("I3", entry.hold, f"entry {entry.id} extends a hold that is not open")
            return
        if held[0] != entry.path:
            yield Violation("I9", entry.hold, f"entry {entry.id} is on path {entry.path}, the hold on {held[0]}")
        self._open[entry.hold] = (held[0], held[1] + entry.tokens, held[2] + entry.cost_nano)

    def _in_period(self, entry: EntryRow) -> Iterator[Violation]:
        for balance in self._paths.get(entry.path, ()):
            row = balance.row
            ends_at_s = period_end_s(row.period, row.starts_at_s)  # type: ignore[arg-type]
            if not row.starts_at_s - CLOCK_SLACK_S <= entry.at_s < ends_at_s + CLOCK_SLACK_S:
                yield Violation("I14", row.account, f"entry {entry.id} reserves at {entry.at_s!r}, out of its period")

    def _resolve(self, entry: EntryRow) -> Iterator[Violation]:
        held = self._open.pop(entry.hold, None)
        if held is None:
            yield Violation("I3", entry.hold, f"entry {entry.id} ({entry.kind}) resolves a hold that is not open")
            return
        path, tokens, cost_nano = held
        if path != entry.path:
            yield Violation("I9", entry.hold, f"entry {entry.id} is on path {entry.path}, the hold on {path}")
        if (entry.released_tokens, entry.released_cost_nano) != (tokens, cost_nano):
            text = f"entry {entry.id} releases {entry.released_tokens}, {entry.released_cost_nano}"
            yield Violation("I5", entry.hold, f"{text} of {tokens}, {cost_nano} that were held")
        if entry.tokens > entry.released_tokens or entry.cost_nano > entry.released_cost_nano:
            yield Violation("I5", entry.hold, f"entry {entry.id} ({entry.kind}) charges more than was held")
        if entry.kind == "void" and (entry.tokens or entry.cost_nano):
            yield Violation("I5", entry.hold, f"entry {entry.id} voids, and charges")

    def finish(self, holds: Iterable[HoldRow]) -> Iterator[Violation]:
        """After the last entry: do they explain the balances and the open holds?"""
        granted = held = 0
        for balance in self._balances.values():
            row = balance.row
            found = (row.granted, row.held, row.used, row.overdraft)
            if found != (balance.granted, balance.held, balance.used, balance.overdraft):
                text = f"granted, held, used, overdraft are {found}, but the entries say {_figures(balance)}"
                yield Violation("I1", row.account, text)
            granted += balance.granted
            held += (row.granted - row.used - row.held) + row.held + row.used
        if granted != held:
            yield Violation("I10", "", f"{granted} was granted, but available, held and used are {held} together")
        yield from self._holds(holds)

    def _holds(self, holds: Iterable[HoldRow]) -> Iterator[Violation]:
        held = dict.fromkeys(self._balances, 0)
        for hold in holds:
            for balance in self._paths.get(hold.path, ()):
                held[balance.row.id] += hold.tokens if balance.row.unit == "tokens" else hold.cost_nano
            entries = self._open.pop(hold.hold, None)
            if entries is None:
                yield Violation("I3", hold.hold, "is among the open holds, but its entries do not say so")
            elif entries != (hold.path, hold.tokens, hold.cost_nano):
                yield Violation(
                    "I3", hold.hold, f"holds {hold.tokens}, {hold.cost_nano}, its entries say {entries[1:]}"
                )
        for balance in self._balances.values():
            if balance.row.held != held[balance.row.id]:
                text = f"{balance.row.held} is held, but the open holds explain {held[balance.row.id]}"
                yield Violation("I11", balance.row.account, text)
        for name in self._open:
            yield Violation("I3", name, "was reserved and never resolved, and is not among the open holds")


class Chain:
    """Each owner's batches as a chain of hashes. `add` every entry, feed it batches with `expect`, then `finish`."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, str]] = {}  # owner: sequence and hash of its latest whole batch
        self._current: dict[int, tuple[int, list[tuple[Any, ...]]]] = {}
        self._computed: dict[tuple[int, int], tuple[int, str]] = {}
        self._expected: dict[tuple[int, int], tuple[int, str]] = {}

    def add(self, entry: EntryRow) -> Iterator[Violation]:
        """The next entry in the order of ids."""
        row = entry[1:]
        current = self._current.get(entry.owner)
        if current is not None and current[0] == entry.batch:
            current[1].append(row)
            return
        if current is not None:
            yield from self._close(entry.owner)
        self._current[entry.owner] = (entry.batch, [row])

    def expect(self, batch: BatchRow) -> Iterator[Violation]:
        """The next batch, in the order of ids."""
        key = (batch.owner, batch.sequence)
        computed = self._computed.pop(key, None)
        if computed is None:
            self._expected[key] = (batch.entries, batch.hash)
        else:
            yield from _compare(key, computed, (batch.entries, batch.hash))

    def finish(self) -> Iterator[Violation]:
        """After the last entry and the last batch."""
        for owner in list(self._current):
            yield from self._close(owner)
        for owner, sequence in self._computed:
            yield Violation("I5", "", f"the entries of batch {sequence} of owner {owner} have no batch")
        for owner, sequence in self._expected:
            yield Violation("I5", "", f"the entries of batch {sequence} of owner {owner} are gone")

    def _close(self, owner: int) -> Iterator[Violation]:
        sequence, rows = self._current.pop(owner)
        before, previous = self._last.get(owner, (sequence - 1, ""))
        if sequence != before + 1:
            yield Violation("I5", "", f"owner {owner}: batch {sequence} follows batch {before}")
        digest = next_hash(previous, rows)
        self._last[owner] = (sequence, digest)
        key = (owner, sequence)
        expected = self._expected.pop(key, None)
        if expected is None:
            self._computed[key] = (len(rows), digest)
        else:
            yield from _compare(key, (len(rows), digest), expected)


def table_violations(balances: Iterable[BalanceRow], paths: Iterable[tuple[int, str]]) -> Iterator[Violation]:
    """What balances and paths show by themselves."""
    known = {}
    seen: set[tuple[str, float]] = set()
    for row in balances:
        known[row.id] = row.account
        if min(row.granted, row.held, row.used, row.overdraft) < 0:
            yield Violation("I2", row.account, f"a figure below 0: {row[5:]}")
        if row.used + row.held > row.granted + row.overdraft:
            yield Violation("I2", row.account, f"used and held exceed what was granted: {row[5:]}")
        if (row.account, row.starts_at_s) in seen:
            yield Violation("I14", row.account, f"has two balances that start at {row.starts_at_s!r}")
        seen.add((row.account, row.starts_at_s))
        if period_start_s(row.period, row.starts_at_s) != row.starts_at_s:  # type: ignore[arg-type]
            yield Violation("I14", row.account, f"{row.starts_at_s!r} is no start of a {row.period} period")
    for path, ids in paths:
        balance_ids = [int(one) for one in ids.split(",") if one]
        missing = [one for one in balance_ids if one not in known]
        if missing or not balance_ids:
            yield Violation("I9", "", f"path {path} leads to balances that are not there: {ids}")
        accounts = [known[one] for one in balance_ids if one in known]
        if len(set(accounts)) != len(accounts):
            yield Violation("I14", accounts[0], f"path {path} has an account twice: {ids}")


def _sane(entry: EntryRow) -> Iterator[Violation]:
    if entry.step not in _STEPS.get(entry.kind, ()):
        yield Violation("I3", entry.hold, f"entry {entry.id} is a {entry.kind} with step {entry.step}")
    low = min(entry.tokens, entry.cost_nano, entry.released_tokens, entry.released_cost_nano)
    high = max(entry.tokens, entry.cost_nano, entry.released_tokens, entry.released_cost_nano)
    if low < 0 or high > MAX_AMOUNT:
        yield Violation("I5", entry.hold, f"entry {entry.id} has an amount outside of 0 and 2**53")
    if entry.kind not in RESOLVES and (entry.released_tokens or entry.released_cost_nano):
        yield Violation("I5", entry.hold, f"entry {entry.id} ({entry.kind}) releases")


def _compare(key: tuple[int, int], computed: tuple[int, str], expected: tuple[int, str]) -> Iterator[Violation]:
    if computed != expected:
        yield Violation("I5", "", f"the entries of batch {key[1]} of owner {key[0]} do not give its hash")


def _figures(balance: _Folded) -> str:
    figures = (balance.granted, balance.held, balance.used, balance.overdraft)
    return f"granted, held, used, overdraft {figures}"
