"""PURE. The ledger: balances, holds, and the entries that explain them.

A hold is reserved in all balances of its path or in none, may be extended, and is resolved exactly once: posted,
voided or expired. Calls may be repeated with the same id: the first answer stands. What a call changes is collected
in `Ledger.changes`; a store keeps it. Invariants: `invariants.py`.

Model: two-phase transfers as in TigerBeetle's documentation; amounts are whole tokens and nano-units of money.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from zuebee.contracts.admission import MAX_AMOUNT, MAX_BALANCE, NOTHING, Amount, Budget
from zuebee.contracts.limits import FOREVER_S, period_end_s, period_start_s
from zuebee.contracts.purses import PREPAID, apart_under_limit, is_settled, unused_by_limit
from zuebee.ledger.entries import TOKENS, Balance, Changes, Entry, HoldState, Kind, Path, Short, State

MAX_RESOLVED: Final = 1_000
MAX_PATHS: Final = 100_000


class OutOfRange(ValueError):
    """An amount that no ledger takes, or more given back than is held: a defect, and nothing was changed."""


class UnknownHold(Exception):
    """No such hold is in memory: load it from the store, then ask again."""


class Ledger:
    """Balances and holds in memory. `owner` is the epoch of the process that decides.

    Ids of new balances and paths count on from what was added.
    """

    def __init__(self, owner: int, *, next_balance: int = 1, next_path: int = 1) -> None:
        self.owner = owner
        self.changes = Changes()
        self.open: dict[str, HoldState] = {}
        self.next_balance = next_balance
        self.next_path = next_path
        self.unsettled = False  # what a limit left may not all have been taken back: holds of its time are open
        self._resolved: OrderedDict[str, HoldState] = OrderedDict()
        self._balances: dict[tuple[str, int], Balance] = {}
        self._paths: dict[tuple[int, ...], Path] = {}
        self._paths_of: dict[int, tuple[tuple[Budget, ...], Path]] = {}
        self._quiet: dict[tuple[str, int], tuple[int, int]] = {}  # ended balances, as the last `forget` found them

    # --- what a store brings in and takes out ---

    def add_balance(self, balance: Balance) -> Balance:
        """A balance from the store, unless it is here already; answers with the one that is."""
        return self._balances.setdefault((balance.account, balance.starts_at_s), balance)

    def add_path(self, path_id: int, balances: Sequence[Balance]) -> Path:
        """A path from the store, unless it is here already."""
        key = tuple(balance.id for balance in balances)
        path = self._paths.get(key)
        if path is None:
            ends_at_s = min((period_end_s(b.period, b.starts_at_s) for b in balances), default=FOREVER_S)
            starts_at_s = max((b.starts_at_s for b in balances), default=0)
            path = self._paths[key] = Path(path_id, tuple(balances), float(ends_at_s), float(starts_at_s))
        return path

    def add_hold(self, hold: HoldState) -> None:
        """A hold from the store, open or resolved; its amount is part of its balances already."""
        if hold.state == "open":
            self.open.setdefault(hold.id, hold)
        elif hold.id not in self.open:
            self._remember(hold)

    def balance(self, account: str, starts_at_s: int) -> Balance | None:
        """The balance of an account in a period, if it is in memory."""
        return self._balances.get((account, starts_at_s))

    def path_of(self, balances: Sequence[Balance | None]) -> Path | None:
        """The path of these balances, if it is in memory, and that of each by itself, which a changed limit needs."""
        key = tuple(balance.id if balance is not None else 0 for balance in balances)
        return self._paths.get(key) if all((each,) in self._paths for each in key) else None

    def balances(self) -> Sequence[Balance]:
        """All balances in memory."""
        return list(self._balances.values())

    def take(self) -> Changes:
        """What has changed since the last time."""
        changes, self.changes = self.changes, Changes()
        return changes

    def forget(self, before_s: float) -> None:
        """Let go of balances whose period ended before, in which nothing is held, and in which nothing has happened
        since the last call: a store has them as they are, should the clock be set back.
        """
        quiet = {
            (b.account, b.starts_at_s): (b.granted, b.used)
            for b in self._balances.values()
            if not b.held and period_end_s(b.period, b.starts_at_s) < before_s
        }
        gone = {self._balances.pop(key).id for key, figures in quiet.items() if self._quiet.get(key) == figures}
        self._quiet = quiet
        self._paths = {key: path for key, path in self._paths.items() if gone.isdisjoint(key)}
        self._paths_of = {key: kept for key, kept in self._paths_of.items() if kept[1].ends_at_s >= before_s}

    # --- what callers ask ---

    def path(self, budgets: tuple[Budget, ...], now_s: float) -> Path | None:
        """The path of budgets, if it can be used without a look into the store. A clock that was set back leads to the
        period that it shows, as it stood.
        """
        known = self._paths_of.get(id(budgets))
        if known is None or known[0] is not budgets:
            return None
        path = known[1]
        return path if path.starts_at_s <= now_s < path.ends_at_s else None

    def open_path(self, budgets: tuple[Budget, ...], now_s: float) -> Path:
        """The path of budgets now; balances that are not in memory are new. Brings their limits up to date."""
        balances = tuple(self._current(budget, now_s) for budget in budgets)
        key = tuple(balance.id for balance in balances)
        path = self._paths.get(key)
        if path is None:
            path = self.add_path(self.next_path, balances)
            self.next_path += 1
            self.changes.paths.append(path)
        if len(self._paths_of) >= MAX_PATHS:
            self._paths_of.clear()
        if all(_in_force(budget, balance) for budget, balance in zip(budgets, balances, strict=True)):
            self._paths_of[id(budgets)] = (budgets, path)
        return path

    def reserve(
        self,
        hold_id: str,
        path: Path,
        amount: Amount,
        now_s: float,
        expires_at_s: float,
        record: Any = "",
        least: Amount | None = None,
    ) -> HoldState | Short:
        """Hold `amount` in all balances of the path, or in none. The hold of that id, if there is one already.

        Where that is too much, a hold of all that is left will do if that is `least`; what it lacks of `amount` is
        owed to it. While it is open nobody else gets what is owed, nor, as nothing else is left, a hold of that kind.
        """
        known = self.open.get(hold_id) or self._resolved.get(hold_id)
        if known is not None:
            return known
        tokens, cost_nano = amount.tokens, amount.cost_nano
        short = self._add_held(path, tokens, cost_nano)
        if short is not None:
            if least is None:
                return short
            held = self._hold_what_is_left(path, amount, least)
            if isinstance(held, Short):
                return held
            tokens, cost_nano = held.tokens, held.cost_nano
        hold = self.open[hold_id] = HoldState(hold_id, path, tokens, cost_nano, self.owner, expires_at_s, record)
        if short is not None:
            self._owe(hold, amount.tokens - tokens, amount.cost_nano - cost_nano)
        self.changes.opened.append(hold)
        self.changes.entries.append(Entry("reserve", hold_id, 0, path, tokens, cost_nano, 0, 0, now_s))
        return hold

    def extend(self, hold_id: str, amount: Amount, now_s: float) -> HoldState | Short:
        """Let an open hold hold at least `amount`. A resolved one stays as it is. Raises UnknownHold."""
        hold = self.hold(hold_id)
        tokens = max(0, amount.tokens - hold.tokens)
        cost_nano = max(0, amount.cost_nano - hold.cost_nano)
        if hold.state != "open" or not (tokens or cost_nano):
            return hold
        # What is owed to it, it gets before others.
        owed_tokens, owed_nano = min(tokens, hold.owed.tokens), min(cost_nano, hold.owed.cost_nano)
        self._owe(hold, -owed_tokens, -owed_nano)
        short = self._add_held(hold.path, tokens, cost_nano)
        if short is not None:
            self._owe(hold, owed_tokens, owed_nano)
            return short
        hold.tokens += tokens
        hold.cost_nano += cost_nano
        self.changes.entries.append(Entry("extend", hold_id, None, hold.path, tokens, cost_nano, 0, 0, now_s))
        return hold

    def post(self, hold_id: str, amount: Amount, now_s: float) -> HoldState:
        """Charge `amount` and let go of the rest. Beyond the hold it is an overdraft. Raises UnknownHold.

        After an expiry only what is missing is charged, once.
        """
        hold = self.hold(hold_id)
        if hold.state == "open":
            return self._resolve(hold, "post", "posted", amount, now_s)
        if hold.state == "expired":
            self._adjust(hold, amount, now_s)
        return hold

    def void(self, hold_id: str, now_s: float) -> HoldState:
        """Let go of all of it. Raises UnknownHold."""
        hold = self.hold(hold_id)
        return self._resolve(hold, "void", "voided", NOTHING, now_s) if hold.state == "open" else hold

    def expire(self, hold_id: str, now_s: float) -> HoldState:
        """Its owner is gone: charge what it had delivered, let go of the rest. Raises UnknownHold."""
        hold = self.hold(hold_id)
        return self._resolve(hold, "expire", "expired", hold.progress, now_s) if hold.state == "open" else hold

    def close(self, hold: HoldState, kind: Kind, amount: Amount, now_s: float) -> list[Entry]:
        """The entries that end an open hold, for a store to keep. Nobody else ends it meanwhile, and its balances stay
        as they are: until it is `closed`, or open again (`reopen`).
        """
        tokens, cost_nano = _checked(amount.tokens), _checked(amount.cost_nano)
        del self.open[hold.id]
        held_tokens, held_cost, path = hold.tokens, hold.cost_nano, hold.path
        posted_tokens = tokens if tokens < held_tokens else held_tokens
        posted_cost = cost_nano if cost_nano < held_cost else held_cost
        entries = [Entry(kind, hold.id, 1, path, posted_tokens, posted_cost, held_tokens, held_cost, now_s)]
        if tokens > posted_tokens or cost_nano > posted_cost:
            over = tokens - posted_tokens, cost_nano - posted_cost
            entries.append(Entry("overdraft", hold.id, None, path, *over, 0, 0, now_s))
        return entries

    def closed(self, hold: HoldState, state: State, amount: Amount) -> None:
        """Let the entries of `close` take effect."""
        owed = hold.owed
        if owed.tokens or owed.cost_nano:
            self._owe(hold, -owed.tokens, -owed.cost_nano)
        for balance in hold.path.balances:
            if balance.unit == TOKENS:
                held, used = hold.tokens, amount.tokens
            else:
                held, used = hold.cost_nano, amount.cost_nano
            if held > balance.held:
                raise OutOfRange(f"{balance.account} holds {balance.held}, and {held} of it are to be let go of")
            balance.add("post", used if used < held else held, held)
            if used > held:
                balance = self.add_balance(balance)  # where nothing was held it may have been forgotten, and read again
                balance.add("overdraft", used - held, 0)
        hold.state = state
        hold.charged = amount
        self._remember(hold)

    def reopen(self, hold: HoldState) -> None:
        """The entries of `close` were not kept."""
        self.open[hold.id] = hold

    def grant(self, grant_id: str, balance: Balance, amount: int, now_s: float) -> None:
        """Give an account more. The caller sees to it that a grant's id is used once."""
        self._change("grant", grant_id, 0, balance, _grantable(amount), now_s)

    def hold(self, hold_id: str) -> HoldState:
        """The hold of that id. Raises UnknownHold."""
        hold = self.open.get(hold_id) or self._resolved.get(hold_id)
        if hold is None:
            raise UnknownHold(hold_id)
        return hold

    # --- how it is done ---

    def _add_held(self, path: Path, tokens: int, cost_nano: int) -> Short | None:
        _checked(tokens)
        _checked(cost_nano)
        for balance in path.balances:
            asked = tokens if balance.unit == TOKENS else cost_nano
            left = balance.granted - balance.used - balance.held - balance.owed
            if asked > left:
                return _short(balance, asked)
        for balance in path.balances:
            balance.add("reserve", tokens if balance.unit == TOKENS else cost_nano, 0)
        return None

    def _hold_what_is_left(self, path: Path, amount: Amount, least: Amount) -> Amount | Short:
        """Hold as much of `amount` as all balances have, if that is `least`."""
        tokens, cost_nano = amount.tokens, amount.cost_nano
        for balance in path.balances:
            left, asked = balance.left, least.tokens if balance.unit == TOKENS else least.cost_nano
            if asked > left or left <= 0:
                return _short(balance, max(asked, 1))
            if balance.unit == TOKENS:
                tokens = min(tokens, left)
            else:
                cost_nano = min(cost_nano, left)
        return self._add_held(path, tokens, cost_nano) or Amount(tokens, cost_nano)

    def _owe(self, hold: HoldState, tokens: int, cost_nano: int) -> None:
        """So much more is owed to a hold."""
        if tokens or cost_nano:
            hold.owed = Amount(hold.owed.tokens + tokens, hold.owed.cost_nano + cost_nano)
            for balance in hold.path.balances:
                balance.owed += tokens if balance.unit == TOKENS else cost_nano

    def _resolve(self, hold: HoldState, kind: Kind, state: State, amount: Amount, now_s: float) -> HoldState:
        self.changes.entries += self.close(hold, kind, amount, now_s)
        self.closed(hold, state, amount)
        return hold

    def _adjust(self, hold: HoldState, amount: Amount, now_s: float) -> None:
        tokens = max(0, _checked(amount.tokens) - hold.charged.tokens)
        cost_nano = max(0, _checked(amount.cost_nano) - hold.charged.cost_nano)
        for known in hold.path.balances:
            balance = self.add_balance(known)  # it may have been forgotten, and read again since
            balance.add("adjust", tokens if balance.unit == TOKENS else cost_nano, 0)
        self.changes.entries.append(Entry("adjust", hold.id, 2, hold.path, tokens, cost_nano, 0, 0, now_s))
        hold.state = "adjusted"
        hold.charged = Amount(hold.charged.tokens + tokens, hold.charged.cost_nano + cost_nano)

    def _current(self, budget: Budget, now_s: float) -> Balance:
        """The balance of a budget now, with the budget's limit in force."""
        starts_at_s = period_start_s(budget.period, now_s)
        key = (budget.account, starts_at_s)
        balance = self._balances.get(key)
        if balance is None:
            balance = Balance(self.next_balance, budget.account, budget.unit, budget.period, starts_at_s)
            self.next_balance += 1
            self._balances[key] = balance
            self.changes.balances.append(balance)
        if not _in_force(budget, balance):
            if budget.limit is None:
                self._end_limit(balance, now_s)
            else:
                self._set_limit(balance, budget, now_s)
        return balance

    def _set_limit(self, balance: Balance, budget: Budget, now_s: float) -> None:
        limit = _grantable(budget.limit or 0)
        self._paths_of.clear()  # budgets with another limit for this account must be looked at again
        first = not balance.changes
        name = f"{balance.account}@{balance.starts_at_s}"
        # Counts entries, as the store does, so that no id comes again after a restart.
        entry_id = name if first else f"{name}#{balance.changes + 1}"
        apart = apart_under_limit(balance.used, balance.limited, balance.apart, is_first=first) - balance.apart
        if limit >= balance.limited:
            # On top of what was paid in it may be more than can be counted.
            more = min(limit - balance.limited, MAX_BALANCE - balance.granted)
            if more > 0 or first or apart:
                self._change("grant", entry_id, 0, balance, max(more, 0), now_s, apart)
                balance.limited += max(more, 0)
                balance.changes += 1
        else:
            # Never below what is used and held: the rest follows when it is free.
            less = min(balance.limited - limit, max(0, balance.available + balance.overdraft))
            if less or apart:
                self._change("withdraw", entry_id, None, balance, less, now_s, apart)
                balance.limited -= less
                balance.changes += 1
        if first and budget.used_before and budget.period == "never":
            used = min(_checked(budget.used_before), MAX_AMOUNT)
            self._change("adjust", f"{name}/before", 2, balance, used, now_s)

    def _end_limit(self, balance: Balance, now_s: float) -> None:
        """There was a limit, and now only what was paid in counts: take back what it granted and nobody used."""
        self._paths_of.clear()  # a limit may come again
        b = balance
        less = unused_by_limit(b.granted, b.used, b.held, b.limited, b.apart)
        apart = 0
        if is_settled(b.used, b.held, b.limited - less, b.apart):
            apart = PREPAID - b.apart
        else:
            self.unsettled = True
        if less or apart:
            entry_id = f"{b.account}@{b.starts_at_s}#{b.changes + 1}"
            self._change("withdraw", entry_id, None, b, less, now_s, apart)
            b.limited -= less
            b.changes += 1

    def _change(
        self,
        kind: Kind,
        entry_id: str,
        step: int | None,
        balance: Balance,
        amount: int,
        now_s: float,
        apart: int = 0,
    ) -> None:
        key = (balance.id,)
        path = self._paths.get(key)
        if path is None:
            path = self.add_path(self.next_path, (balance,))
            self.next_path += 1
            self.changes.paths.append(path)
        tokens, cost_nano = (amount, 0) if balance.unit == TOKENS else (0, amount)
        entry = Entry(kind, entry_id, step, path, tokens, cost_nano, 0, 0, now_s)
        apply_entry(entry, balance)
        if apart:
            entry.apart = apart
            balance.apart += apart
        self.changes.entries.append(entry)

    def _remember(self, hold: HoldState) -> None:
        self._resolved[hold.id] = hold
        if len(self._resolved) > MAX_RESOLVED:
            self._resolved.popitem(last=False)


def apply_entry(entry: Entry, balance: Balance) -> None:
    """Let an entry take effect on a balance."""
    if balance.unit == TOKENS:
        balance.add(entry.kind, entry.tokens, entry.released_tokens)
    else:
        balance.add(entry.kind, entry.cost_nano, entry.released_cost_nano)


def _short(balance: Balance, asked: int) -> Short:
    """Why a balance refuses, and whether waiting may help: even with nothing held there must be enough."""
    ends_at_s = period_end_s(balance.period, balance.starts_at_s)
    later = balance.held > 0 and asked <= balance.granted - balance.used
    return Short(balance.account, balance.unit, balance.period, ends_at_s, balance.left, asked, later, balance.granted)


def _in_force(budget: Budget, balance: Balance) -> bool:
    """Whether a budget's limit, or that it has none, counts in its balance already."""
    if budget.limit is None:
        return not balance.changes or balance.apart == PREPAID
    return budget.limit == balance.limited and balance.changes > 0 and balance.apart != PREPAID


def _grantable(amount: int) -> int:
    if not 0 <= amount <= MAX_BALANCE:
        raise OutOfRange(f"{amount} is outside of 0 and 2**62")
    return amount


def _checked(amount: int) -> int:
    if not 0 <= amount <= MAX_AMOUNT:
        raise OutOfRange(f"{amount} is outside of 0 and 2**53")
    return amount
