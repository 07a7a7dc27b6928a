import pytest

from tests.support.memory import alive
from zuebee.contracts.admission import MAX_AMOUNT, Amount, Budget
from zuebee.contracts.limits import FOREVER_S
from zuebee.ledger.entries import Balance, HoldState, Path, Short
from zuebee.ledger.ledger import Ledger, OutOfRange, UnknownHold

NOW_S = 1_790_000_000.0  # 2026-09-21, a Monday
DAY_S = 86_400.0
KEY = Budget("key:a/tokens/daily", "tokens", "daily", 100)
TEAM = Budget("team:t/tokens/never", "tokens", "never", 150)
MONEY = Budget("organization:o/USD/monthly", "USD", "monthly", 1_000)


class Book:
    """A ledger with one path, and its balances by their names."""

    def __init__(self, *budgets: Budget) -> None:
        self.budgets = budgets
        self.ledger = Ledger(1)
        self.path = self.ledger.open_path(budgets, NOW_S)

    def reserve(self, hold: str, tokens: int, cost_nano: int = 0, path: Path | None = None) -> HoldState | Short:
        return self.ledger.reserve(hold, path or self.path, Amount(tokens, cost_nano), NOW_S, NOW_S + 30)

    def figures(self, index: int = 0) -> tuple[int, int, int, int]:
        balance = self.path.balances[index]
        return balance.granted, balance.held, balance.used, balance.overdraft

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.ledger.changes.entries]


def test_a_hold_is_posted_and_the_rest_comes_back() -> None:
    book = Book(KEY)
    assert isinstance(book.reserve("r", 60), HoldState)
    assert book.figures() == (100, 60, 0, 0)
    assert book.ledger.post("r", Amount(40), NOW_S).state == "posted"
    assert book.figures() == (100, 0, 40, 0)
    assert book.kinds() == ["grant", "reserve", "post"]


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    book = Book(KEY)
    book.reserve("r", 60)
    before = book.kinds()
    short = book.reserve("s", 41)
    assert isinstance(short, Short)
    assert (short.account, short.available, short.asked) == (KEY.account, 40, 41)
    assert book.kinds() == before
    assert isinstance(book.reserve("s", 40), HoldState)


def test_whoever_is_refused_waits_for_the_budget_that_is_used_up_and_for_no_other() -> None:
    book = Book(KEY, TEAM, MONEY)
    book.reserve("r", 90, 1_000)
    ends_s = {}
    for tokens, cost_nano, account in ((20, 0, KEY), (1, 1, MONEY)):
        short = book.reserve(f"s{tokens}", tokens, cost_nano)
        assert isinstance(short, Short)
        ends_s[short.account] = short.ends_at_s - NOW_S
        assert short.account == account.account
    assert ends_s[KEY.account] <= DAY_S < 9 * DAY_S < ends_s[MONEY.account], "it is the 21st of a month"
    book.ledger.post("r", Amount(0), NOW_S)
    team = Book(Budget("key:a/tokens/daily", "tokens", "daily", 1000), TEAM)
    short = team.reserve("s", 151)
    assert isinstance(short, Short)
    assert short.ends_at_s == FOREVER_S, "what never starts anew is waited for in vain"


@pytest.mark.requirement("A095")
def test_all_levels_are_reserved_or_none() -> None:
    book = Book(KEY, TEAM, MONEY)
    assert isinstance(book.reserve("r", 90, 1_001), Short)
    assert [book.figures(index)[1] for index in range(3)] == [0, 0, 0]
    book.reserve("r", 90, 1_000)
    assert [book.figures(index)[1] for index in range(3)] == [90, 90, 1_000]


def test_two_keys_of_a_team_share_what_it_has() -> None:
    book = Book(KEY, TEAM)
    other = book.ledger.open_path((Budget("key:b/tokens/daily", "tokens", "daily", 100), TEAM), NOW_S)
    book.reserve("r", 100)
    assert isinstance(book.reserve("s", 51, path=other), Short)
    assert isinstance(book.reserve("s", 50, path=other), HoldState)


@pytest.mark.requirement("A099")
def test_every_call_may_be_repeated() -> None:
    book = Book(KEY)
    assert book.reserve("r", 60) is book.reserve("r", 7)
    book.ledger.extend("r", Amount(70), NOW_S)
    book.ledger.extend("r", Amount(70), NOW_S)
    first = book.ledger.post("r", Amount(40), NOW_S)
    assert book.ledger.post("r", Amount(1), NOW_S) is first
    assert book.ledger.void("r", NOW_S) is first
    assert book.ledger.expire("r", NOW_S) is first
    assert book.reserve("r", 60) is first
    assert book.figures() == (100, 0, 40, 0)
    assert book.kinds() == ["grant", "reserve", "extend", "post"]


@pytest.mark.requirement("A097")
def test_a_void_gives_everything_back() -> None:
    book = Book(KEY, MONEY)
    book.reserve("r", 60, 500)
    book.ledger.void("r", NOW_S)
    assert book.figures(0) == (100, 0, 0, 0)
    assert book.figures(1) == (1_000, 0, 0, 0)


def test_beyond_the_hold_it_is_an_overdraft_that_is_said_aloud() -> None:
    book = Book(KEY)
    book.reserve("r", 60)
    book.ledger.post("r", Amount(170), NOW_S)
    assert book.figures() == (100, 0, 170, 110)
    post, overdraft = book.ledger.changes.entries[-2:]
    assert (post.tokens, post.released_tokens, overdraft.kind, overdraft.tokens) == (60, 60, "overdraft", 110)
    assert isinstance(book.reserve("s", 1), Short)


def test_an_expired_hold_is_charged_what_was_delivered_and_a_late_word_only_what_is_missing() -> None:
    book = Book(KEY)
    book.reserve("r", 60)
    book.ledger.hold("r").progress = Amount(20)
    book.ledger.expire("r", NOW_S)
    assert book.figures() == (100, 0, 20, 0)
    book.ledger.post("r", Amount(50), NOW_S)
    book.ledger.post("r", Amount(50), NOW_S)
    assert book.figures() == (100, 0, 50, 30)


def test_a_late_word_is_never_a_credit() -> None:
    book = Book(KEY)
    book.reserve("r", 60)
    book.ledger.hold("r").progress = Amount(20)
    book.ledger.expire("r", NOW_S)
    book.ledger.post("r", Amount(3), NOW_S)
    assert book.figures() == (100, 0, 20, 0)


def test_an_extension_fits_on_all_levels_or_is_refused() -> None:
    book = Book(KEY, MONEY)
    book.reserve("r", 60, 500)
    assert isinstance(book.ledger.extend("r", Amount(101, 500), NOW_S), Short)
    assert isinstance(book.ledger.extend("r", Amount(90, 1_001), NOW_S), Short)
    assert book.figures() == (100, 60, 0, 0)
    assert isinstance(book.ledger.extend("r", Amount(90, 0), NOW_S), HoldState)
    assert book.figures() == (100, 90, 0, 0)


def test_a_new_period_starts_anew_and_a_hold_is_posted_into_its_own() -> None:
    book = Book(KEY)
    book.reserve("r", 60)
    assert book.ledger.path(book.budgets, NOW_S) is book.path
    assert book.ledger.path(book.budgets, NOW_S + DAY_S) is None
    tomorrow = book.ledger.open_path(book.budgets, NOW_S + DAY_S)
    assert isinstance(book.reserve("s", 100, path=tomorrow), HoldState)
    book.ledger.post("r", Amount(60), NOW_S + DAY_S)
    assert book.figures() == (100, 0, 60, 0)
    assert tomorrow.balances[0].used == 0


def test_periods_that_are_over_do_not_stay_in_memory() -> None:
    before, book = alive(Path), Book(KEY, TEAM)
    for day in range(1, 50):
        later_s = NOW_S + day * DAY_S
        book.ledger.open_path(book.budgets, later_s)
        for _ in range(2):  # something of the last moment may be on its way
            book.ledger.forget(later_s)
        book.ledger.take()
    assert sorted(balance.starts_at_s for balance in book.ledger.balances()) == [0.0, later_s - later_s % DAY_S]
    assert alive(Path) - before <= 4
    again = book.ledger.path(book.budgets, later_s)
    assert again is not None
    assert again.balances[1] is book.path.balances[1], "what has no end is still the same"


def test_a_hold_keeps_its_period_in_memory_until_it_is_resolved() -> None:
    book = Book(KEY)
    book.reserve("r", 60)
    book.ledger.forget(NOW_S + 9 * DAY_S)
    assert book.ledger.balance(KEY.account, book.path.balances[0].starts_at_s) is book.path.balances[0]
    book.ledger.post("r", Amount(50), NOW_S + 9 * DAY_S)
    book.ledger.forget(NOW_S + 9 * DAY_S)
    assert book.ledger.balances(), "something happened a moment ago"
    book.ledger.forget(NOW_S + 9 * DAY_S)
    assert book.ledger.balances() == []
    assert book.figures() == (100, 0, 50, 0)


def test_a_limit_rises_at_once_and_falls_as_far_as_it_can() -> None:
    book = Book(KEY)
    book.reserve("r", 60)

    def limit(amount: int) -> int:
        changed = (Budget(KEY.account, "tokens", "daily", amount),)
        return book.ledger.open_path(changed, NOW_S).balances[0].granted

    assert limit(200) == 200
    assert limit(10) == 60
    book.ledger.post("r", Amount(5), NOW_S)
    assert limit(10) == 10
    assert book.figures() == (10, 0, 5, 0)
    assert limit(10) == 10


def test_prepaid_money_is_what_was_granted() -> None:
    prepaid = Budget("organization:o/USD/never", "USD", "never", None)
    book = Book(prepaid)
    assert isinstance(book.reserve("r", 10, 1), Short)
    book.ledger.grant("payment-1", book.path.balances[0], 500, NOW_S)
    assert isinstance(book.reserve("r", 10, 500), HoldState)


def test_what_was_used_before_counts() -> None:
    book = Book(Budget("key:a/tokens/never", "tokens", "never", 100, 30))
    assert isinstance(book.reserve("r", 71), Short)
    assert isinstance(book.reserve("r", 70), HoldState)


def test_a_balance_from_the_store_is_not_granted_its_limit_again() -> None:
    ledger = Ledger(2)
    ledger.add_balance(Balance(7, TEAM.account, "tokens", "never", 0, granted=150, used=100, limited=150, changes=1))
    path = ledger.open_path((TEAM,), NOW_S)
    assert path.balances[0].available == 50
    assert ledger.changes.entries == []


def test_amounts_have_bounds() -> None:
    book = Book(KEY)
    book.reserve("r", 10)
    for amount in (-1, MAX_AMOUNT + 1):
        with pytest.raises(OutOfRange):
            book.reserve("s", amount)
        with pytest.raises(OutOfRange):
            book.ledger.post("r", Amount(amount), NOW_S)


def test_an_unknown_hold_is_no_hold() -> None:
    with pytest.raises(UnknownHold):
        Ledger(1).post("r", Amount(1), NOW_S)
