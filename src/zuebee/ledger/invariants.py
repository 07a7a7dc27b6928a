"""PURE. Reads the entries of a ledger from first to last and says where they break its invariants.

Written from the description of the tables (docs/billing.md), not from the code that writes them, so that the two
check each other. Memory grows with the accounts and the open holds, not with the entries.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from zuebee.contracts.admission import MAX_AMOUNT, MAX_BALANCE
from zuebee.contracts.limits import period_end_s, period_start_s
from zuebee.contracts.usage import next_hash

CLOCK_SLACK_S = 300.0
"""How far the clocks of several processes may lie apart."""

GRANTS = frozenset({"grant", "withdraw"})
HOLDS_MORE = frozenset({"reserve", "extend"})
RESOLVES = frozenset({"post", "void", "expire"})
_STEPS = {"grant": (0,), "withdraw": (None, 0), "reserve": (0,), "extend": (None,), "overdraft": (None,)}
_STEPS |= {"adjust": (2,)} | dict.fromkeys(RESOLVES, (1,))


def effect(kind: str, amount: int, released: int) -> tuple[int, int, int, int]:
    """What an entry adds to what is granted, held, used and overdrawn, as the description of the tables has it: said a
    second time here (the ledger's own is `entries.Figures.add`), so that a mistake in one of them is seen.
    """
    if kind in HOLDS_MORE:
        return 0, amount, 0, 0
    if kind in RESOLVES:
        return 0, -released, amount, 0
    if kind in GRANTS:
        return (amount if kind == "grant" else -amount), 0, 0, 0
    return 0, 0, amount, amount


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
    starts_at_s: int
    granted: int
    held: int
    used: int
    overdraft: int
    limited: int = 0
    owed: int = 0


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
    owed_tokens: int = 0
    owed_cost_nano: int = 0


def odd_fields(row: tuple[Any, ...]) -> str:
    """Which fields of a row are not of their kind: SQLite keeps whatever it is given."""
    return ", ".join(f"{name} is {row[place]!r}" for place, name in _odd(type(row), tuple(map(type, row))))


@lru_cache(1000)
def _odd(row: type, found: tuple[type, ...]) -> list[tuple[int, str]]:
    kinds = [(name, int | float if kind is float else kind) for name, kind in row.__annotations__.items()]
    return [
        (place, name)
        for place, ((name, kind), one) in enumerate(zip(kinds, found, strict=True))
        if not issubclass(one, kind)
    ]


class _Folded:
    __slots__ = ("granted", "held", "limited", "overdraft", "row", "used")

    def __init__(self, row: BalanceRow) -> None:
        self.row = row
        self.granted = self.held = self.used = self.overdraft = self.limited = 0


class Fold:
    """What the entries so far amount to. `add` every entry in the order of ids, then `finish`."""

    def __init__(self, balances: Iterable[BalanceRow], paths: Iterable[tuple[int, str]]) -> None:
        self._balances = {row.id: _Folded(row) for row in balances}
        self._paths = {
            path: [self._balances[i] for i in balance_ids(ids) if i in self._balances] for path, ids in paths
        }
        self._open: dict[str, tuple[int, int, int]] = {}
        self._latest: dict[int, float] = {}  # owner: the latest time of its entries so far

    def add(self, entry: EntryRow) -> Iterator[Violation]:
        """The next entry, and what is wrong with it."""
        yield from _sane(entry)
        kind = entry.kind
        if kind in HOLDS_MORE:
            yield from self._hold_more(entry)
        elif kind in RESOLVES:
            yield from self._resolve(entry)
        elif kind in GRANTS:
            yield from self._limit(entry)
        for balance in self._paths.get(entry.path, ()):
            if balance.row.unit == "tokens":
                amount, released = entry.tokens, entry.released_tokens
            else:
                amount, released = entry.cost_nano, entry.released_cost_nano
            granted, held, used, overdraft = effect(kind, amount, released)
            balance.granted += granted
            balance.held += held
            balance.used += used
            balance.overdraft += overdraft
            if balance.held < 0 or balance.used + balance.held > balance.granted + balance.overdraft:
                yield Violation("I2", balance.row.account, f"after entry {entry.id} ({kind}): {_figures(balance)}")
        if entry.path not in self._paths:
            yield Violation("I9", entry.hold, f"entry {entry.id} is on path {entry.path}, which is not there")

    def _limit(self, entry: EntryRow) -> Iterator[Violation]:
        """A grant of the ledger's own, `ACCOUNT@START`, is what the account's limit amounts to; others are payments."""
        account, at, _ = entry.hold.rpartition("@")
        for balance in self._paths.get(entry.path, ()) if at else ():
            if balance.row.account != account.replace("organisation:", "organization:", 1):  # entries never change
                yield Violation("I1", balance.row.account, f"entry {entry.id} ({entry.kind}) is of {account}")
            amount = entry.tokens if balance.row.unit == "tokens" else entry.cost_nano
            balance.limited += amount if entry.kind == "grant" else -amount

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
        """A period that its owner had begun stays begun when the clock is set back (as earlier versions went on)."""
        latest_s = self._latest[entry.owner] = max(entry.at_s, self._latest.get(entry.owner, 0.0))
        for balance in self._paths.get(entry.path, ()):
            row = balance.row
            ends_at_s = period_end_s(row.period, row.starts_at_s)  # type: ignore[arg-type]
            if not row.starts_at_s - CLOCK_SLACK_S <= latest_s or entry.at_s >= ends_at_s + CLOCK_SLACK_S:
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
            if row.limited != balance.limited:
                text = f"its limit is {row.limited}, but the entries say {balance.limited}"
                yield Violation("I1", row.account, text)
            granted += balance.granted
            held += (row.granted - row.used - row.held) + row.held + row.used
        if granted != held:
            yield Violation("I10", "", f"{granted} was granted, but available, held and used are {held} together")
        yield from self._holds(holds)

    def _holds(self, holds: Iterable[HoldRow]) -> Iterator[Violation]:
        held = dict.fromkeys(self._balances, 0)
        owed = dict.fromkeys(self._balances, 0)
        for hold in holds:
            if min(hold.owed_tokens, hold.owed_cost_nano) < 0:
                yield Violation("I11", hold.hold, "is owed less than nothing")
            for balance in self._paths.get(hold.path, ()):
                in_tokens = balance.row.unit == "tokens"
                held[balance.row.id] += hold.tokens if in_tokens else hold.cost_nano
                owed[balance.row.id] += hold.owed_tokens if in_tokens else hold.owed_cost_nano
            entries = self._open.pop(hold.hold, None)
            if entries is None:
                yield Violation("I3", hold.hold, "is among the open holds, but its entries do not say so")
            elif entries != (hold.path, hold.tokens, hold.cost_nano):
                yield Violation(
                    "I3", hold.hold, f"holds {hold.tokens}, {hold.cost_nano}, its entries say {entries[1:]}"
                )
        for balance in self._balances.values():
            row = balance.row
            for what, found, explained in (("held", row.held, held[row.id]), ("owed", row.owed, owed[row.id])):
                if found != explained:
                    text = f"{found} is {what}, but the open holds explain {explained}"
                    yield Violation("I11", row.account, text)
        for name in self._open:
            yield Violation("I3", name, "was reserved and never resolved, and is not among the open holds")


class Chain:
    """Each owner's batches as a chain of hashes: `batches` in the order of ids, `add` every entry, then `finish`.
    `noted`: owners, and how far their chains had come a while ago.

    A batch that does not give its hash is one violation: the next one is held against the hash that stands there.
    """

    def __init__(self, batches: Iterator[BatchRow], noted: Iterable[tuple[int, int]] = ()) -> None:
        self._batches = batches
        self._noted = noted
        self._ahead: dict[tuple[int, int], BatchRow] = {}
        self._last: dict[int, tuple[int, str]] = {}  # owner: sequence and hash of its latest whole batch
        # owner: sequence, rows, id of the first entry
        self._current: dict[int, tuple[int, list[tuple[Any, ...]], int]] = {}

    def add(self, entry: EntryRow) -> Iterator[Violation]:
        """The next entry in the order of ids."""
        row = entry[1:]
        current = self._current.get(entry.owner)
        if current is not None and current[0] == entry.batch:
            current[1].append(row)
            return
        if current is not None:
            yield from self._close(entry.owner)
        self._current[entry.owner] = (entry.batch, [row], entry.id)

    def finish(self) -> Iterator[Violation]:
        """After the last entry."""
        for owner in list(self._current):
            yield from self._close(owner)
        for owner, sequence in [*self._ahead, *((batch.owner, batch.sequence) for batch in self._batches)]:
            yield Violation("I5", "", f"the entries of batch {sequence} of owner {owner} are gone")
        for owner, noted in self._noted:
            last = self._last.get(owner, (0, ""))[0]
            if last < noted:
                text = f"owner {owner}: its chain ends at batch {last}, and had come to {noted}: its end was cut off"
                yield Violation("I5", "", text)

    def _close(self, owner: int) -> Iterator[Violation]:
        sequence, rows, first_id = self._current.pop(owner)
        before, previous = self._last.get(owner, (sequence - 1, ""))
        if sequence != before + 1:
            yield Violation("I5", "", f"owner {owner}: batch {sequence} follows batch {before}")
        digest = next_hash(previous, rows)
        batch = self._batch(owner, sequence)
        self._last[owner] = (sequence, digest if batch is None else batch.hash)
        if batch is None:
            yield Violation("I5", "", f"the entries of batch {sequence} of owner {owner} have no batch")
        elif (batch.entries, batch.hash) != (len(rows), digest):
            text = f"the entries of batch {sequence} of owner {owner}, from entry {first_id} on, do not give its hash"
            yield Violation("I5", "", text)

    def _batch(self, owner: int, sequence: int) -> BatchRow | None:
        key = (owner, sequence)
        while key not in self._ahead:
            batch = next(self._batches, None)
            if batch is None:
                return None
            self._ahead[batch.owner, batch.sequence] = batch
        return self._ahead.pop(key)


def table_violations(balances: Iterable[BalanceRow], paths: Iterable[tuple[int, str]]) -> Iterator[Violation]:
    """What balances and paths show by themselves."""
    known = {}
    seen: set[tuple[str, float]] = set()
    for row in balances:
        known[row.id] = row.account
        if min(row.granted, row.held, row.used, row.overdraft) < 0:
            yield Violation("I2", row.account, f"a figure below 0: {row[5:9]}")
        if row.used + row.held > row.granted + row.overdraft:
            yield Violation("I2", row.account, f"used and held exceed what was granted: {row[5:9]}")
        if (row.account, row.starts_at_s) in seen:
            yield Violation("I14", row.account, f"has two balances that start at {row.starts_at_s!r}")
        seen.add((row.account, row.starts_at_s))
        if row.account.count("/") > 1 and not row.account.endswith(f"/{row.unit}/{row.period}"):
            yield Violation("I14", row.account, f"its unit is {row.unit}, its period {row.period}")
        if period_start_s(row.period, row.starts_at_s) != row.starts_at_s:  # type: ignore[arg-type]
            yield Violation("I14", row.account, f"{row.starts_at_s!r} is no start of a {row.period} period")
    for path, ids in paths:
        found = balance_ids(ids)
        if not found or any(one not in known for one in found):
            yield Violation("I9", "", f"path {path} leads to balances that are not there: {ids}")
        accounts = [known[one] for one in found if one in known]
        if len(set(accounts)) != len(accounts):
            yield Violation("I14", accounts[0], f"path {path} has an account twice: {ids}")


def balance_ids(text: str) -> list[int]:
    """The balances of a path, `1,2,3`; none if it says anything else."""
    parts = text.split(",")
    return [int(part) for part in parts] if all(part.isascii() and part.isdecimal() for part in parts) else []


def _sane(entry: EntryRow) -> Iterator[Violation]:
    if entry.step not in _STEPS.get(entry.kind, ()):
        yield Violation("I3", entry.hold, f"entry {entry.id} is a {entry.kind} with step {entry.step}")
    low = min(entry.tokens, entry.cost_nano, entry.released_tokens, entry.released_cost_nano)
    high = max(entry.tokens, entry.cost_nano, entry.released_tokens, entry.released_cost_nano)
    most, name = (MAX_BALANCE, "2**62") if entry.kind in GRANTS else (MAX_AMOUNT, "2**53")
    if low < 0 or high > most:
        yield Violation("I5", entry.hold, f"entry {entry.id} has an amount outside of 0 and {name}")
    if entry.kind not in RESOLVES and (entry.released_tokens or entry.released_cost_nano):
        yield Violation("I5", entry.hold, f"entry {entry.id} ({entry.kind}) releases")


def _figures(balance: _Folded) -> str:
    figures = (balance.granted, balance.held, balance.used, balance.overdraft)
    return f"granted, held, used, overdraft {figures}"
