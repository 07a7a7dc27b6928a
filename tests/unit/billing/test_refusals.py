from zuebee.billing.entries import Short
from zuebee.billing.refusals import too_short

FOREVER = float("inf")


def test_a_used_up_quota_says_when_it_starts_again() -> None:
    refusal = too_short(Short("key:a/tokens/daily", "tokens", "daily", 1_000.0, 5, 10), 400.0)
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (429, "quota_exceeded", 600.0)
    assert refusal.message == "The token quota of this key is used up."


def test_money_that_does_not_come_back_is_a_payment_due() -> None:
    refusal = too_short(Short("organisation:acme/USD/never", "USD", "never", FOREVER, 5, 10), 400.0)
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (402, "budget_exceeded", None)
    assert "acme" not in refusal.message
