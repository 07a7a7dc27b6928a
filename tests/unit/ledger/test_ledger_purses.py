"""A limit goes and the account is prepaid, or a limit comes to what was paid in: neither is taken for the other."""

import pytest

from zuebee.contracts.admission import MAX_BALANCE, Amount, Budget
from zuebee.ledger.entries import HoldState, Short
from zuebee.ledger.ledger import Ledger

NOW_S = 1_790_000_000.0
ACCOUNT = "team:t/USD/never"
PREPAID = (Budget(ACCOUNT, "USD", "never", None),)


class Account:
    def __init__(self) -> None:
        self.ledger = Ledger(1)
        self.budgets = PREPAID
        self.count = 0

    def limit(self, limit: int | None) -> None:
        self.budgets = (Budget(ACCOUNT, "USD", "never", limit),)

    @property
    def left(self) -> int:
        return self._path().balances[0].left

    def _path(self):  # type: ignore[no-untyped-def]
        return self.ledger.path(self.budgets, NOW_S) or self.ledger.open_path(self.budgets, NOW_S)

    def pay(self, amount: int) -> None:
        self.count += 1
        self.ledger.grant(f"payment-{self.count}", self._path().balances[0], amount, NOW_S)

    def hold(self, name: str, amount: int) -> HoldState | Short:
        return self.ledger.reserve(name, self._path(), Amount(1, amount), NOW_S, NOW_S + 30)

    def use(self, amount: int) -> None:
        self.count += 1
        assert isinstance(self.hold(f"r{self.count}", amount), HoldState)
        self.ledger.post(f"r{self.count}", Amount(1, amount), NOW_S)


def test_what_a_limit_granted_is_no_money_when_the_account_is_prepaid() -> None:
    account = Account()
    account.limit(100)
    account.use(40)
    account.limit(None)
    assert account.left == 0
    assert isinstance(account.hold("r", 1), Short)
    account.pay(50)
    assert account.left == 50
    account.use(50)
    assert account.left == 0


def test_it_goes_also_when_money_comes_before_the_next_request() -> None:
    account = Account()
    account.limit(100)
    account.use(40)
    account.pay(50)  # the command line, before the gateway knows that the limit is gone
    account.limit(None)
    assert account.left == 50


def test_what_was_paid_in_outlives_limits_that_come_and_go() -> None:
    account = Account()
    account.pay(50)
    account.use(20)
    for _ in range(3):
        account.limit(100)
        account.use(10)
        account.limit(None)
        assert account.left == 30
    account.limit(5)  # less than it had granted: nothing is left of it, and nothing is taken from what was paid in
    account.limit(None)
    assert account.left == 30


def test_a_limit_counts_what_was_used_under_it_before() -> None:
    account = Account()
    account.limit(100)
    account.use(40)
    account.limit(None)
    assert account.left == 0
    account.limit(100)
    assert account.left == 60


@pytest.mark.parametrize("charged", [0, 10, 60])
def test_a_hold_of_the_limits_time_is_the_limits(charged: int) -> None:
    account = Account()
    account.limit(100)
    account.use(40)
    account.hold("running", 60)
    account.limit(None)
    account.pay(50)
    assert account.left == 50
    account.ledger.post("running", Amount(1, charged), NOW_S)
    assert account.left == 50


def test_the_same_limit_comes_again_for_callers_that_are_remembered() -> None:
    account = Account()
    limited = (Budget(ACCOUNT, "USD", "never", 100),)
    for _ in range(2):
        account.budgets = limited
        assert account.left == 100
        account.budgets = PREPAID
        assert account.left == 0


def test_a_prepaid_account_that_is_settled_is_not_looked_at_again() -> None:
    account = Account()
    account.limit(100)
    account.use(40)
    account.budgets = PREPAID
    assert account.left == 0
    assert account.ledger.path(PREPAID, NOW_S) is not None
    count = len(account.ledger.changes.entries)
    assert account.left == 0
    assert len(account.ledger.changes.entries) == count


def test_a_limit_on_top_of_money_grants_no_more_than_can_be_counted() -> None:
    account = Account()
    account.pay(MAX_BALANCE - 5)
    account.limit(MAX_BALANCE)
    assert account.left == MAX_BALANCE
    account.limit(None)
    assert account.left == MAX_BALANCE - 5
