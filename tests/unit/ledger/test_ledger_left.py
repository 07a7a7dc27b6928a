"""Holds that are cut down to what is left of a budget."""

from hypothesis import given
from hypothesis import strategies as st

from zuebee.contracts.admission import Amount, Budget
from zuebee.ledger.entries import HoldState, Short
from zuebee.ledger.ledger import Ledger

NOW_S = 1_790_000_000.0
KEY = Budget("key:a/tokens/never", "tokens", "never", 100)
OTHER = Budget("key:b/tokens/never", "tokens", "never", 1000)
TEAM = Budget("team:t/tokens/never", "tokens", "never", 150)
MONEY = Budget("key:a/USD/never", "USD", "never", 1_000)


class Book:
    """A ledger whose paths are opened as they are asked for."""

    def __init__(self) -> None:
        self.ledger = Ledger(1)

    def reserve(self, hold: str, budgets: tuple[Budget, ...], amount: Amount, least: Amount) -> HoldState | Short:
        path = self.ledger.open_path(budgets, NOW_S)
        return self.ledger.reserve(hold, path, amount, NOW_S, NOW_S + 30, "", least)

    def figures(self) -> list[tuple[int, int, int, int]]:
        return [(b.granted, b.held, b.owed, b.used) for b in self.ledger.balances()]


def held(state: HoldState | Short) -> tuple[int, int]:
    assert isinstance(state, HoldState)
    return state.tokens, state.cost_nano


def test_a_caller_alone_gets_what_is_left() -> None:
    book = Book()
    assert held(book.reserve("r", (KEY,), Amount(500), Amount(30))) == (100, 0)
    assert book.figures() == [(100, 100, 400, 0)]
    book.ledger.post("r", Amount(40), NOW_S)
    assert book.figures() == [(100, 0, 0, 40)]


def test_less_than_the_least_is_refused_and_changes_nothing() -> None:
    book = Book()
    short = book.reserve("r", (KEY,), Amount(500), Amount(101))
    assert isinstance(short, Short)
    assert (short.available, short.asked, short.later) == (100, 101, False), "waiting would be in vain"
    assert book.figures() == [(100, 0, 0, 0)]


def test_nobody_else_lives_on_what_is_left_nor_takes_what_is_owed() -> None:
    book = Book()
    book.reserve("full", (KEY,), Amount(60), Amount(60))
    book.reserve("cut", (KEY,), Amount(70), Amount(5))
    assert book.figures() == [(100, 100, 30, 0)]
    book.ledger.post("full", Amount(10), NOW_S)
    short = book.reserve("other", (KEY,), Amount(21), Amount(21))
    assert isinstance(short, Short), "50 came back, 30 of them are owed"
    assert (short.available, short.later) == (20, True)
    assert held(book.reserve("other", (KEY,), Amount(20), Amount(20))) == (20, 0)
    book.ledger.post("cut", Amount(70), NOW_S)
    assert book.figures() == [(100, 20, 0, 80)]


def test_what_is_owed_counts_in_every_budget_of_the_path() -> None:
    book = Book()
    assert held(book.reserve("a", (KEY, TEAM), Amount(140), Amount(1))) == (100, 0)
    assert book.figures() == [(100, 100, 40, 0), (150, 100, 40, 0)]
    assert held(book.reserve("b", (OTHER, TEAM), Amount(30), Amount(10))) == (10, 0), "the team has no more"
    assert isinstance(book.reserve("c", (OTHER, TEAM), Amount(30), Amount(1)), Short)


def test_tokens_and_money_are_cut_down_apart() -> None:
    book = Book()
    assert held(book.reserve("r", (KEY, MONEY), Amount(90, 5_000), Amount(1, 1))) == (90, 1_000)
    assert book.figures() == [(100, 90, 0, 0), (1_000, 1_000, 4_000, 0)]
    book.ledger.void("r", NOW_S)
    assert book.figures() == [(100, 0, 0, 0), (1_000, 0, 0, 0)]


def test_a_stream_gets_what_is_owed_to_it_before_others() -> None:
    book = Book()
    book.reserve("full", (KEY,), Amount(60), Amount(60))
    book.reserve("cut", (KEY,), Amount(70), Amount(5))
    assert isinstance(book.ledger.extend("cut", Amount(50), NOW_S), Short), "there is nothing"
    assert book.figures() == [(100, 100, 30, 0)], "and a refusal changes nothing"
    book.ledger.post("full", Amount(0), NOW_S)
    assert held(book.ledger.extend("cut", Amount(65), NOW_S)) == (65, 0)
    assert book.figures() == [(100, 65, 5, 0)]
    assert held(book.ledger.extend("cut", Amount(80), NOW_S)) == (80, 0), "beyond what is owed it is one of many"
    assert book.figures() == [(100, 80, 0, 0)]


def test_one_budget_without_room_refuses_although_it_is_asked_for_nothing() -> None:
    book = Book()
    book.reserve("all", (KEY,), Amount(100), Amount(100))
    assert isinstance(book.reserve("r", (KEY,), Amount(5), Amount(0)), Short)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([(KEY,), (KEY, TEAM), (OTHER, TEAM), (KEY, MONEY)]),
            st.integers(0, 120), st.integers(0, 120), st.integers(0, 120), st.sampled_from("rrrpve"),
        ),
        max_size=60,
    )
)  # fmt: skip
def test_whatever_order_no_budget_is_overspent_by_more_than_one_lacks(
    steps: list[tuple[tuple[Budget, ...], int, int, int, str]],
) -> None:
    """Requests that take up to their worst case, in any order: what is overdrawn is what the last cut one lacked."""
    book, opened = Book(), []
    for number, (budgets, most, least, used, what) in enumerate(steps):
        if what == "r":
            amount = Amount(most, 10 * most)
            got = book.reserve(f"h{number}", budgets, amount, Amount(min(least, most), 10 * min(least, most)))
            if isinstance(got, HoldState):
                opened.append((got.id, amount))
        elif opened:
            name, amount = opened.pop(used % len(opened))
            if what == "p":
                book.ledger.post(name, amount, NOW_S)
            elif what == "v":
                book.ledger.void(name, NOW_S)
            else:
                book.ledger.extend(name, amount, NOW_S)
                opened.append((name, amount))
        for balance in book.ledger.balances():
            owed = [h.owed.tokens if balance.unit == "tokens" else h.owed.cost_nano
                    for h in book.ledger.open.values() if balance in h.path.balances]  # fmt: skip
            assert balance.owed == sum(owed)
            assert balance.used + balance.held <= balance.granted + balance.overdraft
    for name, amount in opened:
        book.ledger.post(name, amount, NOW_S)
    for balance in book.ledger.balances():
        assert (balance.held, balance.owed) == (0, 0)
        # All took their worst case; one cut-down request may lack up to 120 tokens of it.
        assert balance.used <= balance.granted + (120 if balance.unit == "tokens" else 1200)
