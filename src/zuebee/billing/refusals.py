"""PURE. Why something cannot be spent, in words for its caller."""

from zuebee.billing.entries import TOKENS, Short
from zuebee.contracts.errors import Refusal

PAYMENT_REQUIRED = 402


def too_short(short: Short, now_s: float) -> Refusal:
    """What a caller is told whose budget is used up. Never the amounts of an account that others share.

    A token quota answers 429 `insufficient_quota` as OpenAI does; money that does not come back by itself 402.
    """
    scope = short.account.partition(":")[0]
    waits_s = None if short.ends_at_s == float("inf") else max(1.0, short.ends_at_s - now_s)
    if short.unit == TOKENS:
        message = f"The token quota of this {scope} is used up."
        return Refusal(429, "insufficient_quota", "quota_exceeded", message, None, waits_s)
    message = f"The budget of this {scope} is used up."
    return Refusal(PAYMENT_REQUIRED, "insufficient_quota", "budget_exceeded", message, None, waits_s)
