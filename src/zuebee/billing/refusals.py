"""PURE. Why something cannot be spent, in words for its caller."""

from zuebee.billing.pricing import Quote, affordable
from zuebee.contracts.admission import Amount
from zuebee.contracts.errors import Refusal
from zuebee.ledger.entries import TOKENS, Short
from zuebee.lib.timestamps import rfc3339

PAYMENT_REQUIRED = 402
SOON_S = 1.0


def too_short(short: Short, now_s: float, quote: Amount | None = None) -> Refusal:
    """What a caller is told whose budget is used up, or has too little left for what was quoted.

    It says what this request may use, and what to do. Of an account that others share it tells no amounts, only how
    long an answer would fit. A token quota answers 429 `insufficient_quota` as OpenAI does; money that does not come
    back by itself 402.
    """
    scope = short.account.partition(":")[0]
    waits_s = None if short.ends_at_s == float("inf") else max(1.0, short.ends_at_s - now_s)
    if short.later:
        waits_s = SOON_S
    what = f"the {'token quota' if short.unit == TOKENS else 'budget'} of this {scope}"
    message = _message(short, what, quote if isinstance(quote, Quote) else None)
    if short.unit == TOKENS:
        return Refusal(429, "insufficient_quota", "quota_exceeded", message, None, waits_s)
    return Refusal(PAYMENT_REQUIRED, "insufficient_quota", "budget_exceeded", message, None, waits_s)


def _message(short: Short, what: str, quote: Quote | None) -> str:
    """Why, and what to do."""
    if short.later:
        return f"Requests that still run hold what is left of {what}: try again in a moment, or ask for less."
    if short.granted == 0:
        return f"There is nothing in {what} yet: its operator has to add to it."
    if short.available <= 0:
        again = "its operator can add to it"
        if short.ends_at_s != float("inf"):
            again = f"it begins anew at {rfc3339(short.ends_at_s)}, or {again} before"
        return f"{what[:1].upper()}{what[1:]} is used up: {again}."
    if quote is None:
        return f"{what[:1].upper()}{what[1:]} has too little left to go on: its operator can add to it."
    need = quote.need
    if not need.answers_least:
        return f"What is left of {what} is less than this request takes: send a smaller one."
    if short.unit == TOKENS:
        fits = short.available - need.prompt
    else:
        fits = 0 if quote.rate is None else affordable(quote.rate, need.prompt, short.available)
    if fits <= 0:
        return f"What is left of {what} is less than the prompt of this request takes: send a shorter one."
    return (
        f"This request may take {need.answers_least} tokens of answer, but what is left of {what} pays for {fits}:"
        " ask for no more than that (`max_tokens`, times `n`)."
    )
