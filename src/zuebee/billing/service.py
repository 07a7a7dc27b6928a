"""What does it cost, and may it be spent? One billing, over a ledger on whichever store (`ledger/port.py`)."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from zuebee.billing.pricing import PriceBook, Quote, Rate, affordable, answer_tokens, no_price, quoted, usage_cost_nano
from zuebee.billing.waiting import Waiters
from zuebee.config.settings_billing import BillingSettings
from zuebee.contracts.admission import MAX_AMOUNT, Amount, Grant, Hold, Need, Principal, Settlement
from zuebee.contracts.errors import STORE_UNAVAILABLE, Refusal
from zuebee.contracts.inference import Job, Usage, is_bounded
from zuebee.contracts.limits import FOREVER_S
from zuebee.ledger import usage_rows
from zuebee.ledger.decide import record_of
from zuebee.ledger.entries import TOKENS, Short
from zuebee.ledger.errors import StoreBusy
from zuebee.ledger.operations import Extend, Renew, Reserve, Settle, charge
from zuebee.ledger.port import LedgerPort, Reservation
from zuebee.lib import clock
from zuebee.lib.timestamps import rfc3339

EXTENSION_TOKENS: Final = 256
"""A stream that comes close to what it holds asks for so many tokens more at least, so that it need not ask at once
again."""


class BilledHold:
    """A reservation, and by what it is charged. See `contracts.admission.Hold`."""

    __slots__ = ("answer_tokens", "job", "rate", "reservation")

    def __init__(self, reservation: Reservation, quote: Quote, job: Job) -> None:
        self.reservation = reservation
        self.rate = quote.rate
        self.job = job
        state = reservation.state
        self.answer_tokens: Final = answer_tokens(quote, state.tokens, state.cost_nano)

    @property
    def whole(self) -> bool:
        owed = self.reservation.state.owed
        return not (owed.tokens or owed.cost_nano)

    @property
    def secured(self) -> bool:
        return self.reservation.secured

    @property
    def joined(self) -> bool:
        return self.reservation.joined

    async def wait(self, settlement: Settlement | None = None) -> Refusal | None:
        reservation = self.reservation
        if settlement is None or not reservation.can_join():
            return None if await reservation.secure() else STORE_UNAVAILABLE
        settle = order(self, settlement)
        try:
            is_on_disk = await reservation.secure(settle)
        finally:
            if not reservation.joined:
                settlement.cost_nano = 0  # it did not end so, and will be settled otherwise
        return None if is_on_disk else STORE_UNAVAILABLE


class BillingService:
    """`Billing` over a ledger. `gate`: why no metered request may be let in for now, if that is so.

    How the ledger stands is asked of `ledger`.
    """

    def __init__(
        self, ledger: LedgerPort, settings: BillingSettings, prices: PriceBook, *, gate: Callable[[], Refusal | None]
    ) -> None:
        self.ledger: Final = ledger
        self.prices = prices
        self.short = 0
        self._settings = settings
        self._gate = gate
        self._waiters = Waiters(polls=ledger.polls)
        ledger.released = self._waiters.wake

    # --- before the call ---

    def quote(self, principal: Principal, job: Job, need: Need) -> Amount | Refusal:
        rate = self.prices.rate(job.model, clock.wall_s())
        if rate is None and any(b.unit != TOKENS for b in principal.budgets):
            return no_price(job.model)
        return quoted(rate, need)

    def unpriced(self, principal: Principal, model: str) -> Refusal | None:
        return self.prices.denies(principal, model, clock.wall_s())

    async def reserve(self, principal: Principal, job: Job, amount: Amount) -> Hold | Refusal:
        quote = amount if isinstance(amount, Quote) else self._plain(job, amount)
        try:
            held = await self._try_to_reserve(principal, job, quote)
            if isinstance(held, Short) and held.later:
                held = await self._wait_to_reserve(principal, job, quote, held)
        except StoreBusy:
            return STORE_UNAVAILABLE
        if isinstance(held, Short):
            self.short += 1
            return too_short(held, clock.wall_s(), quote)
        return BilledHold(held, quote, job)

    def _plain(self, job: Job, amount: Amount) -> Quote:
        """An amount that nobody quoted: all of it or nothing."""
        return Quote(amount.tokens, amount.cost_nano, self.prices.rate(job.model, clock.wall_s()), amount)

    async def _wait_to_reserve(self, principal: Principal, job: Job, quote: Quote, short: Short) -> Reservation | Short:
        """Try again whenever something comes back to the account that is short."""
        until_s = clock.monotonic_s() + self._settings.reserve_wait_s
        held: Reservation | Short = short
        while isinstance(held, Short) and held.later and (turn := self._waiters.enter(held.account)) is not None:
            account = held.account
            with turn:
                while isinstance(held, Short) and held.later and held.account == account:
                    if not await turn.wait(until_s - clock.monotonic_s()):
                        return held
                    held = await self._try_to_reserve(principal, job, quote)
        return held

    def _try_to_reserve(self, principal: Principal, job: Job, quote: Quote) -> Awaitable[Reservation | Short]:
        now_s = clock.wall_s()
        context = usage_rows.hold_context(principal, job, now_s)
        hold_s = self._settings.hold_ttl_s
        operation = Reserve(job.request_id, principal.budgets, quote, now_s, hold_s, context, quote.least)
        return self.ledger.reserve(operation, job)

    def unable(self) -> Refusal | None:
        return self._gate() if self.ledger.usable else STORE_UNAVAILABLE

    # --- after it ---

    def settle(self, settlement: Settlement) -> Awaitable[None] | None:
        grant = settlement.grant
        hold = grant.hold if grant is not None else None
        if isinstance(hold, BilledHold):
            reservation = hold.reservation
            return None if reservation.joined else self.ledger.settle(order(hold, settlement), reservation)
        if settlement.usage is not None:
            rate = self.prices.rate(settlement.model, settlement.at_s)
            settlement.cost_nano = _cost(rate, settlement.usage)
        return self.ledger.settle(Settle("", None, record_of(settlement, billed=False)), None)

    async def attend(self, grants: Sequence[Grant]) -> Sequence[tuple[Grant, Refusal]]:
        await self.ledger.refresh()
        asked: list[tuple[Reservation, Extend]] = []
        asking: list[Grant] = []
        signs: list[tuple[str, int, int]] = []
        for grant in grants:
            hold = grant.hold
            if isinstance(hold, BilledHold) and hold.reservation.state.state == "open":
                usage = grant.usage_so_far() if grant.usage_so_far is not None else None
                state = hold.reservation.state
                spent, wanted = _progress(hold, usage)
                signs.append((state.id, spent.tokens, spent.cost_nano))
                if wanted.tokens > state.tokens or wanted.cost_nano > state.cost_nano:
                    asked.append((hold.reservation, Extend(state.id, wanted, spent)))
                    asking.append(grant)
        # Both are asked for before anything is awaited: a store that is slow delays no sign of life.
        extended = self.ledger.extend(asked)
        if signs:
            self.ledger.renew(Renew(signs, self._settings.hold_ttl_s))
        self.ledger.sweep()
        short = await extended
        if self._settings.on_exhausted == "finish":
            return []
        now_s = clock.wall_s()
        return [(grant, too_short(each, now_s)) for grant, each in zip(asking, short, strict=True) if each is not None]

    async def aclose(self) -> None:
        """Write what waits, and end the epoch."""
        await self.ledger.aclose()


def order(hold: BilledHold, settlement: Settlement) -> Settle:
    """What settles a hold; the settlement gets its cost. The order has a record of it as it is now."""
    if settlement.usage is not None:
        settlement.cost_nano = _cost(hold.rate, settlement.usage)
    return Settle(hold.reservation.state.id, charge(settlement), record_of(settlement, billed=True))


def _progress(hold: BilledHold, usage: Usage | None) -> tuple[Amount, Amount]:
    """What a running request has spent, and a bit more."""
    if usage is None:
        return Amount(0), Amount(0)
    ahead = 0 if is_bounded(hold.job) else max(EXTENSION_TOKENS, usage.completion_tokens // 2)
    tokens = min(usage.total_tokens, MAX_AMOUNT)
    spent, worth = _cost(hold.rate, usage), _cost(hold.rate, usage, ahead)
    return Amount(tokens, spent), Amount(min(tokens + ahead, MAX_AMOUNT), worth)


def _cost(rate: Rate | None, usage: Usage, ahead: int = 0) -> int:
    """What was used costs, with so many tokens more of the answer."""
    return 0 if rate is None else usage_cost_nano(rate, usage, ahead)


# Why something cannot be spent, in words for its caller.

PAYMENT_REQUIRED: Final = 402
SOON_S: Final = 1.0


def too_short(short: Short, now_s: float, quote: Amount | None = None) -> Refusal:
    """What a caller is told whose budget is used up, or has too little left for what was quoted.

    It says what this request may use, and what to do. Of an account that others share it tells no amounts, only how
    long an answer would fit. A token quota answers 429 `insufficient_quota` as OpenAI does; money that does not come
    back by itself 402.
    """
    scope = short.account.partition(":")[0]
    waits_s = None if short.ends_at_s >= FOREVER_S else max(1.0, short.ends_at_s - now_s)
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
        if short.ends_at_s < FOREVER_S:
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
