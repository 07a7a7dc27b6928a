"""Tables fit, whatever is in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.cli.show import Table, cells, fitted, folded, record

IDS = ("key_0123456789abcdef", "key_fedcba9876543210")
COLUMNS = ("id", "hint", "name", "team", "state", "expires", "cost")
ROWS = [
    (IDS[0], "sk-zuebee-...abcd", "The laptop of somebody with a long name", "", "active", "", "12.50 EUR"),
    (IDS[1], "sk-zuebee-...efgh", "x", "", "revoked", "", "0.00 EUR"),
]
TABLE = Table(COLUMNS, ROWS, numbers=("cost",), words=("name",), less=("hint", "state"))


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40, 30])
def test_a_table_fits_with_ids_whole_and_no_empty_columns(width: int) -> None:
    lines, _ = fitted(TABLE, width)
    assert max(map(cells, lines)) <= width
    text = "\n".join(lines)
    assert all(each in text for each in IDS)
    assert "team" not in text
    assert "expires" not in text


def test_what_matters_least_goes_first_and_is_told() -> None:
    assert fitted(TABLE, 200)[1] == []
    assert fitted(TABLE, 80)[1] == []
    assert fitted(TABLE, 60)[1] == ["hint"]
    assert fitted(TABLE, 46)[1] == ["hint", "state"]


def test_numbers_stand_to_the_right_and_the_header_is_one_line() -> None:
    lines, _ = fitted(Table(("who", "cost"), [("a", "5"), ("b", "1,000")], numbers=("cost",)), 80)
    assert lines == ["who   cost", "a        5", "b    1,000"]
    assert fitted(Table(("who", "cost"), []), 80)[0] == ["who  cost"]


def test_letters_of_two_cells_are_counted_so() -> None:
    assert cells("日本e\u0301") == 5
    assert folded("日本語 abc", 4) == ["日本", "語", "abc"]
    assert record([("name", "a b c d e f g h i"), ("x", "y")], 18) == ["name  a b c d e f", "      g h i", "x     y"]


WORDS = st.text(st.sampled_from("ab 日-é"), max_size=40)


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=5), st.integers(20, 120))
def test_any_texts_fit(rows: list[tuple[str, str, str]], width: int) -> None:
    lines, _ = fitted(Table(("a", "b", "c"), rows, words=("a", "b", "c"), less=("b",)), width)
    assert all(cells(line) <= width for line in lines)
