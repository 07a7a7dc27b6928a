import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.accounts.schemas import AccountsError, read_amount, show_amount
from zuebee.contracts.admission import MAX_BALANCE


@pytest.mark.parametrize(
    ("text", "unit", "amount"),
    [
        ("25.50", "USD", 25_500_000_000),
        ("25", "EUR", 25_000_000_000),
        ("0.000000001", "USD", 1),
        ("1_000_000", "tokens", 1_000_000),
        ("0", "tokens", 0),
    ],
)
def test_amounts_are_exact(text: str, unit: str, amount: int) -> None:
    assert read_amount(text, unit) == amount


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("", "USD"),
        ("-1", "USD"),
        ("1e3", "USD"),
        ("1,50", "USD"),
        ("0.0000000001", "USD"),
        ("nan", "USD"),
        ("4611686019", "USD"),
        ("1.5", "tokens"),
        ("4611686018427387905", "tokens"),
        ("٣", "tokens"),
        ("٣", "USD"),
    ],
)
def test_what_is_no_amount_is_refused_by_name(text: str, unit: str) -> None:
    with pytest.raises(AccountsError) as caught:
        read_amount(text, unit, field="--amount")
    assert caught.value.field == "--amount"


@given(st.integers(0, MAX_BALANCE), st.sampled_from(["USD", "tokens"]))
def test_what_is_shown_can_be_read(amount: int, unit: str) -> None:
    assert read_amount(show_amount(amount, unit), unit) == amount


def test_money_has_two_places_at_least() -> None:
    assert show_amount(25_500_000_000, "USD") == "25.50"
    assert show_amount(-1_234_000_000, "USD") == "-1.234"
