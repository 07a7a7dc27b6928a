"""A second ledger, as short as can be, written from the rules in docs/billing.md: the real one is compared with it."""

from copy import copy
from dataclasses import dataclass, field

from zuebee.contracts.admission import Budget
from zuebee.contracts.periods import period_start_s

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

    def _limit(self, budget: Budget, now_s: float) -> Key:
        key = (budget.account, period_start_s(budget.period, now_s))
        is_new = key not in self.balances
        balance = self.balances.setdefault(key, ModelBalance())
        if budget.limit is not None:
            change = budget.limit - balance.limited
            if change < 0:  # never below what is used and held
                change = -min(-change, max(0, balance.granted - balance.used - balance.held + balance.overdraft))
            balance.granted += change
            balance.limited += change
            if is_new and budget.period == "never":
                balance.used += budget.used_before
                balance.overdraft += budget.used_before
        return key

    def _hold(self, path: list[tuple[Key, str]], more: Pair) -> Answer | None:
        for key, unit in path:
            balance, asked = self.balances[key], more[unit != "tokens"]
            available = balance.granted - balance.used - balance.held
            if asked > available:
                return "short", key[0], available, asked
        for key, unit in path:
            self.balances[key].held += more[unit != "tokens"]
        return None

    def answer(self, hold_id: str) -> Answer:
        hold = self.holds[hold_id]
        return hold.state, *hold.amount, *hold.charged

    def reserve(self, hold_id: str, budgets: tuple[Budget, ...], amount: Pair, now_s: float, until_s: float) -> Answer:
        path = [(self._limit(budget, now_s), budget.unit) for budget in budgets]
        if hold_id not in self.holds:
            if short := self._hold(path, amount):
                return short
            self.holds[hold_id] = ModelHold(path, amount, until_s)
        return self.answer(hold_id)

    def extend(self, hold_id: str, amount: Pair) -> Answer:
        hold = self.holds[hold_id]
        more = (max(0, amount[0] - hold.amount[0]), max(0, amount[1] - hold.amount[1]))
        if hold.state == "open" and any(more):
            if short := self._hold(hold.path, more):
                return short
            hold.amount = (hold.amount[0] + more[0], hold.amount[1] + more[1])
        return self.answer(hold_id)

    def resolve(self, hold_id: str, state: str, amount: Pair) -> Answer:
        """post, void and expire; a post after an expiry charges what is missing, once."""
        hold = self.holds[hold_id]
        if hold.state == "open":
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
