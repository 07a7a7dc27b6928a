"""What is left in budgets, as gauges of a bounded number. PURE."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from heapq import nsmallest
from typing import Protocol

from zuebee.contracts.admission import Period
from zuebee.contracts.periods import period_end_s

REFRESH_S = 10.0
LOW_SHARE = 0.2
TOKENS = "tokens"


class BalanceLike(Protocol):
    """One account in one period; amounts in tokens or nano-units."""

    account: str
    unit: str
    starts_at_s: float
    granted: int
    held: int
    used: int

    @property
    def period(self) -> Period:
        """When it starts again."""
        ...


Series = list[tuple[tuple[str, ...], float]]


class BudgetGauges:
    """Looks at the balances at most every 10 s. The `limit` accounts with the smallest share left show for themselves.

    A balance whose period is over does not count: what was used up last month is there again, though nobody asked yet.
    `now_s` is the wall clock, which periods go by.
    """

    def __init__(self, balances: Callable[[], Iterable[BalanceLike]], limit: int, now_s: Callable[[], float]) -> None:
        self._balances = balances
        self.limit = limit
        self._now_s = now_s
        self._read_at_s = float("-inf")
        self._shown: Sequence[BalanceLike] = ()
        self._states: Counter[tuple[str, str, str]] = Counter()

    def remaining(self) -> Series:
        """What can still be reserved."""
        self._refresh()
        return [(_labels(each), _amount(each, each.granted - each.used - each.held)) for each in self._shown]

    def granted(self) -> Series:
        """What there is in this period."""
        self._refresh()
        return [(_labels(each), _amount(each, each.granted)) for each in self._shown]

    def states(self) -> Series:
        """How many accounts of a scope are `ok`, `low` (less than a fifth left) or `exhausted`."""
        self._refresh()
        return [(labels, float(count)) for labels, count in self._states.items()]

    def _refresh(self) -> None:
        now_s = self._now_s()
        if 0 <= now_s - self._read_at_s < REFRESH_S:
            return
        self._read_at_s = now_s
        newest: dict[str, BalanceLike] = {}
        for each in self._balances():
            if period_end_s(each.period, each.starts_at_s) <= now_s:
                continue
            known = newest.get(each.account)
            if known is None or each.starts_at_s > known.starts_at_s:
                newest[each.account] = each
        self._shown = nsmallest(self.limit, newest.values(), key=_share)
        counted = ((each.account.partition(":")[0], each.unit, _state(_share(each))) for each in newest.values())
        self._states = Counter(counted)


def _share(balance: BalanceLike) -> float:
    return (balance.granted - balance.used - balance.held) / balance.granted if balance.granted > 0 else 0.0


def _state(share: float) -> str:
    return "exhausted" if share <= 0 else "low" if share < LOW_SHARE else "ok"


def _labels(balance: BalanceLike) -> tuple[str, ...]:
    return balance.account, balance.unit, balance.period


def _amount(balance: BalanceLike, amount: int) -> float:
    return float(amount) if balance.unit == TOKENS else amount / 1e9
