import pytest

from zuebee.billing.pricing import Rate, quoted
from zuebee.billing.service import too_short
from zuebee.contracts.admission import Need
from zuebee.contracts.limits import FOREVER_S as FOREVER
from zuebee.ledger.entries import Short

RATE = Rate(1_000_000_000, 1_000_000_000, 2_000_000_000)  # 1 and 2 of a currency for a million tokens
TOKENS = Short("key:a/tokens/daily", "tokens", "daily", 86_400, 0, 10, granted=2_000)
MONEY = Short("organization:acme/USD/never", "USD", "never", FOREVER, 0, 10, granted=50_000)


def test_a_used_up_quota_says_when_it_starts_again() -> None:
    refusal = too_short(TOKENS, 85_800.0)
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (429, "quota_exceeded", 600.0)
    assert refusal.message == (
        "The token quota of this key is used up: it begins anew at 1970-01-02T00:00:00.000Z,"
        " or its operator can add to it before."
    )


def test_money_that_does_not_come_back_is_a_payment_due() -> None:
    refusal = too_short(MONEY, 400.0)
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (402, "budget_exceeded", None)
    assert refusal.message == "The budget of this organization is used up: its operator can add to it."


NEEDS = {
    "an answer too long": (Need(20, 40, 5_000, 5_000), 100, 80, 40),
    "answers too long": (Need(20, 40, 30_000, 30_000), 100, 80, 40),
    "a prompt too long": (Need(200, 400, 5, 5), 100, None, None),
    "nothing but a prompt": (Need(200, 400, 0, 0), 100, None, None),
    "no bound": (Need(200, 400, 5_000, 1), 100, None, None),
}


@pytest.mark.parametrize("name", NEEDS)
def test_what_was_not_used_is_not_called_used_up(name: str) -> None:
    """Who asks for more than there is, is told what this request takes, what would fit, and what to do."""
    need, left, fits_tokens, fits_money = NEEDS[name]
    tokens = too_short(Short("key:a", "tokens", "never", FOREVER, left, 1, granted=left), 0.0, quoted(None, need))
    money = too_short(Short("team:b", "USD", "never", FOREVER, left * 1_000, 1, granted=left), 0.0, quoted(RATE, need))
    for refusal, fits, whose in (
        (tokens, fits_tokens, "token quota of this key"),
        (money, fits_money, "budget of this team"),
    ):
        assert "used up" not in refusal.message
        assert whose in refusal.message
        if fits is None:
            assert refusal.message.endswith((": send a shorter one.", ": send a smaller one."))
        else:
            assert f"This request may take {need.answers_least} tokens of answer" in refusal.message
            assert f"pays for {fits}: ask for no more than that (`max_tokens`, times `n`)." in refusal.message


def test_who_was_never_given_anything_has_used_nothing_up() -> None:
    refusal = too_short(Short("key:a", "USD", "never", FOREVER, 0, 10, granted=0), 0.0)
    assert refusal.message == "There is nothing in the budget of this key yet: its operator has to add to it."


def test_what_others_hold_may_come_back() -> None:
    refusal = too_short(Short("user:a", "USD", "never", FOREVER, -5, 10, later=True, granted=5), 0.0)
    assert refusal.message.startswith("Requests that still run hold what is left of the budget of this user: try again")
    assert refusal.retry_after_s == 1
