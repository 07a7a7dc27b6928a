"""A second ledger, as short as can be, written from the rules in docs/billing.md: the real one is compared with it."""

from copy import copy
from dataclasses import dataclass, field

from zuebee.contracts.admission import MAX_BALANCE, Budget
from zuebee.contracts.limits import period_start_s

Key = tuple[str, float]
Pair = tuple[int, int]  # tokens, nano-units
Answer = tuple[object, ...]


@dataclass
class ModelBalance:
    granted: int = 0
    held: int = 0
    used: int = 0
    overdraft: int = 0
    limited: int = 0  # what of `granted` came from the limit
    owed: int = 0  # what holds that were cut down lack
    since: int | None = None  # what was used and paid for before the limit came; None: there is none in force
    was_limited: bool = False

    def left(self) -> int:
        return self.granted - self.used - self.held - self.owed

    def figures(self) -> tuple[int, int, int, int]:
        return self.granted, self.held, self.used, self.overdraft


@dataclass
class ModelHold:
    path: list[tuple[Key, str]]
    amount: Pair
    expires_at_s: float
    progress: Pair = (0, 0)
    state: str = "open"
    charged: Pair = (0, 0)
    owed: Pair = (0, 0)


@dataclass
class Model:
    balances: dict[Key, ModelBalance] = field(default_factory=dict)
    holds: dict[str, ModelHold] = field(default_factory=dict)

    def copy(self) -> "Model":
        """As deepcopy, which takes ten times as long: what these have in common never changes."""
        return Model(
            {key: copy(balance) for key, balance in self.balances.items()},
            {name: copy(hold) for name, hold in self.holds.items()},
        )

    def limited(self, budget: Budget, now_s: float) -> Key:
        key = (budget.account, period_start_s(budget.period, now_s))
        balance = self.balances.setdefault(key, ModelBalance())
        if budget.limit is None:
            self._end_limit(balance)
        else:
            if balance.since is None:
                balance.since = max(0, balance.used - balance.limited)
            change = budget.limit - balance.limited
            if change < 0:  # never below what is used and held
                change = -min(-change, max(0, balance.granted - balance.used - balance.held + balance.overdraft))
            change = min(change, max(0, MAX_BALANCE - balance.granted))
            balance.granted += change
            balance.limited += change
            if not balance.was_limited and budget.period == "never":
                balance.used += budget.used_before
                balance.overdraft += budget.used_before
            balance.was_limited = True
        return key

    def _end_limit(self, balance: ModelBalance) -> None:
        """Back to what was paid in: what the limit granted, and nobody used or holds, goes."""
        if balance.since is not None:
            used_by_limit = balance.used - balance.since
            unused = max(0, balance.limited - used_by_limit - balance.held)
            unused = min(unused, max(0, balance.granted - balance.used - balance.held))
            balance.granted -= unused
            balance.limited -= unused
            if not balance.held or balance.limited <= used_by_limit:
                balance.since = None

    def _hold(self, path: list[tuple[Key, str]], more: Pair) -> Answer | None:
        for key, unit in path:
            balance, asked = self.balances[key], more[unit != "tokens"]
            if asked > balance.left():
                return "short", key[0], balance.left(), asked
        for key, unit in path:
            self.balances[key].held += more[unit != "tokens"]
        return None

    def _cut_down(self, path: list[tuple[Key, str]], amount: Pair, least: Pair) -> Pair | Answer:
        """All that is left of it, if that is `least`: the smallest of all levels, in each unit."""
        held = list(amount)
        for key, unit in path:
            left, i = self.balances[key].left(), unit != "tokens"
            if least[i] > left or left <= 0:
                return "short", key[0], left, max(least[i], 1)
            held[i] = min(held[i], left)
        return held[0], held[1]

    def _owe(self, hold: ModelHold, more: Pair) -> None:
        hold.owed = (hold.owed[0] + more[0], hold.owed[1] + more[1])
        for key, unit in hold.path:
            self.balances[key].owed += more[unit != "tokens"]

    def answer(self, hold_id: str) -> Answer:
        hold = self.holds[hold_id]
        return hold.state, *hold.amount, *hold.charged

    def reserve(
        self,
        hold_id: str,
        budgets: tuple[Budget, ...],
        amount: Pair,
        now_s: float,
        until_s: float,
        least: Pair | None = None,
    ) -> Answer:
        path = [(self.limited(budget, now_s), budget.unit) for budget in budgets]
        if hold_id not in self.holds:
            held: Pair | Answer = amount
            if short := self._hold(path, amount):
                held = short if least is None else self._cut_down(path, amount, least)
                if held[0] == "short":
                    return held
                self._hold(path, held)  # type: ignore[arg-type]
            tokens, nano = int(held[0]), int(held[1])  # type: ignore[call-overload]
            self.holds[hold_id] = ModelHold(path, (tokens, nano), until_s)
            self._owe(self.holds[hold_id], (amount[0] - tokens, amount[1] - nano))
        return self.answer(hold_id)

    def extend(self, hold_id: str, amount: Pair) -> Answer:
        hold = self.holds[hold_id]
        more = (max(0, amount[0] - hold.amount[0]), max(0, amount[1] - hold.amount[1]))
        if hold.state == "open" and any(more):
            owed = (min(more[0], hold.owed[0]), min(more[1], hold.owed[1]))
            self._owe(hold, (-owed[0], -owed[1]))
            if short := self._hold(hold.path, more):
                self._owe(hold, owed)
                return short
            hold.amount = (hold.amount[0] + more[0], hold.amount[1] + more[1])
        return self.answer(hold_id)

    def resolve(self, hold_id: str, state: str, amount: Pair) -> Answer:
        """post, void and expire; a post after an expiry charges what is missing, once."""
        hold = self.holds[hold_id]
        if hold.state == "open":
            self._owe(hold, (-hold.owed[0], -hold.owed[1]))
            self._charge(hold, hold.amount, (0, 0), amount)
            hold.state, hold.charged = state, amount
        elif hold.state == "expired" and state == "posted":
            total = (max(amount[0], hold.charged[0]), max(amount[1], hold.charged[1]))
            self._charge(hold, (0, 0), hold.charged, total)
            hold.state, hold.charged = "adjusted", total
        return self.answer(hold_id)

    def _charge(self, hold: ModelHold, released: Pair, before: Pair, total: Pair) -> None:
        for key, unit in hold.path:
            balance, i = self.balances[key], unit != "tokens"
            charge = total[i] - before[i]
            balance.held -= released[i]
            balance.used += charge
            balance.overdraft += max(0, charge - released[i])
