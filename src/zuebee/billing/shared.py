"""What does it cost, and may it be spent? A ledger that many processes share, on PostgreSQL."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from zuebee.billing.pricing import PriceBook, Quote, Rate, answer_tokens, no_price, quoted, usage_cost_nano
from zuebee.billing.refusals import too_short
from zuebee.config.settings_billing import BillingSettings
from zuebee.contracts.admission import MAX_AMOUNT, Amount, Grant, Hold, Need, Principal, Settlement
from zuebee.contracts.errors import STORE_UNAVAILABLE, Refusal
from zuebee.contracts.inference import Job, Usage, is_bounded
from zuebee.ledger import usage_rows
from zuebee.ledger.entries import TOKENS, Balance, HoldState, Short
from zuebee.ledger.errors import StoreBusy, StoreFailed
from zuebee.ledger.journal_rows import stub_text
from zuebee.ledger.operations import Extend, Reserve, Settle, record_of
from zuebee.ledger.postgres.commit import SharedCommitter
from zuebee.ledger.postgres.spool import Pending, Spool, replay
from zuebee.ledger.postgres.store import PostgresStore
from zuebee.lib import clock

EXTENSION_TOKENS = 256
MAX_WAITING = 1000
"""Requests that ask again and again. Whoever comes then is refused at once."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.025, 0.25
STUCK_S = 1.0
SWEEP_INTERVAL_S = 5.0


class SharedHold:
    """A hold in the shared ledger; it is on disk from its beginning. See `contracts.admission.Hold`."""

    __slots__ = ("answer_tokens", "id", "job", "open", "rate", "started_s", "tokens", "whole", "worth_nano")
    secured = True
    joined = False

    def __init__(self, state: HoldState, quote: Quote, job: Job) -> None:
        self.id = state.id
        self.tokens = state.tokens
        self.worth_nano = state.cost_nano
        self.rate = quote.rate
        self.whole = not (state.owed.tokens or state.owed.cost_nano)
        self.job = job
        self.answer_tokens = answer_tokens(quote, state.tokens, state.cost_nano)
        self.open = True
        self.started_s = clock.monotonic_s()

    async def wait(self, settlement: Settlement | None = None) -> Refusal | None:
        return None


class SharedBilling:
    """`Billing` for many processes. Raises OSError when the database or the spool file cannot be used at the start."""

    def __init__(
        self,
        store: PostgresStore,
        settings: BillingSettings,
        prices: PriceBook,
        *,
        spool_path: str,
        timeout_s: float,
        gate: Callable[[], Refusal | None],
    ) -> None:
        self.reserved = 0
        self.short = 0
        self._settings = settings
        self.prices = prices
        self._gate = gate
        self._swept_at_s = 0.0
        self._open = 0
        self._oldest_s = 0.0
        self._waiting = 0
        spool = Spool(spool_path)
        try:
            store.start("zuebee")
            replay(store, spool)
            self.damaged = spool.damaged
        except (StoreBusy, StoreFailed) as error:
            spool.close()
            raise OSError(f"the ledger's database cannot be used: {error}") from None
        self._committer = SharedCommitter(store, spool, timeout_s=timeout_s)

    # --- before the call ---

    def quote(self, principal: Principal, job: Job, need: Need) -> Amount | Refusal:
        rate = self.prices.rate(job.model, clock.wall_s())
        if rate is None and any(b.unit != TOKENS for b in principal.budgets):
            return no_price(job.model)
        return quoted(rate, need)

    def unpriced(self, principal: Principal, model: str) -> Refusal | None:
        return self.prices.denies(principal, model, clock.wall_s())

    async def reserve(self, principal: Principal, job: Job, amount: Amount) -> Hold | Refusal:
        """The answer comes from the database."""
        quote = amount if isinstance(amount, Quote) else self._plain(job, amount)
        held = await self._try_to_hold(principal, job, quote)
        if isinstance(held, Short) and held.later:
            held = await self._wait_to_hold(principal, job, quote, held)
        if isinstance(held, Short):
            self.short += 1
            return too_short(held, clock.wall_s(), quote)
        return held

    def _plain(self, job: Job, amount: Amount) -> Quote:
        """An amount that nobody quoted: all of it or nothing."""
        return Quote(amount.tokens, amount.cost_nano, self.prices.rate(job.model, clock.wall_s()), amount)

    async def _wait_to_hold(
        self, principal: Principal, job: Job, quote: Quote, short: Short
    ) -> SharedHold | Short | Refusal:
        """Try again a few times a second: what other processes give back nobody tells."""
        if self._waiting >= MAX_WAITING:
            return short
        held: SharedHold | Short | Refusal = short
        until_s = clock.monotonic_s() + self._settings.reserve_wait_s
        wait_s = FIRST_WAIT_S
        self._waiting += 1
        try:
            while isinstance(held, Short) and held.later and clock.monotonic_s() < until_s:
                await asyncio.sleep(min(wait_s * random.uniform(0.5, 1.5), max(0.0, until_s - clock.monotonic_s())))
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                held = await self._try_to_hold(principal, job, quote)
        finally:
            self._waiting -= 1
        return held

    async def _try_to_hold(self, principal: Principal, job: Job, quote: Quote) -> SharedHold | Short | Refusal:
        now_s = clock.wall_s()
        stub = stub_text(usage_rows.stub(principal, job, now_s))
        amount = Amount(quote.tokens, quote.cost_nano)
        hold_s = self._settings.hold_s
        try:
            held = await self._committer.ask(
                Reserve(job.request_id, principal.budgets, amount, now_s, hold_s, stub, quote.least), job
            )
        except StoreBusy:
            return STORE_UNAVAILABLE
        if isinstance(held, Short):
            return held
        if held is None:
            return STORE_UNAVAILABLE
        self.reserved += 1
        return SharedHold(held, quote, job)

    @property
    def trouble(self) -> str:
        """What keeps the ledger from being written; empty: nothing."""
        committer = self._committer
        if committer.down:
            return committer.reason
        return "the database does not answer" if committer.stuck_s > STUCK_S else ""

    def unable(self) -> Refusal | None:
        if self._committer.down or self._committer.stuck_s > STUCK_S:
            return STORE_UNAVAILABLE
        return self._gate()

    # --- after it ---

    def settle(self, settlement: Settlement) -> Awaitable[None] | None:
        grant, usage = settlement.grant, settlement.usage
        hold = grant.hold if grant is not None else None
        if not isinstance(hold, SharedHold):
            if usage is not None:
                settlement.cost_nano = _cost(self.prices.rate(settlement.model, settlement.at_s), usage)
            self._committer.settle(Settle("", None, record_of(settlement)))
            return None
        amount = None
        if usage is not None:
            settlement.cost_nano = _cost(hold.rate, usage)
            amount = Amount(min(usage.total_tokens, MAX_AMOUNT), min(settlement.cost_nano, MAX_AMOUNT))
        hold.open = False
        return self._committer.settle(Settle(hold.id, amount, record_of(settlement)))

    async def attend(self, grants: Sequence[Grant]) -> Sequence[tuple[Grant, Refusal]]:
        now_s = clock.monotonic_s()
        if now_s - self._swept_at_s >= SWEEP_INTERVAL_S:
            self._swept_at_s = now_s
            self._committer.sweep()
        asked: list[tuple[Grant, SharedHold, Pending]] = []
        signs: list[tuple[str, int, int]] = []
        for grant in grants:
            hold = grant.hold
            if isinstance(hold, SharedHold) and hold.open:
                usage = grant.usage_so_far() if grant.usage_so_far is not None else None
                spent = _spent(hold, usage)
                signs.append((hold.id, spent.tokens, spent.cost_nano))
                wanted = _wanted(hold, usage, spent)
                if wanted.tokens > hold.tokens or wanted.cost_nano > hold.worth_nano:
                    asked.append((grant, hold, self._committer.submit(Extend(hold.id, wanted, spent))))
        open_holds = [grant.hold for grant in grants if isinstance(grant.hold, SharedHold) and grant.hold.open]
        self._open = len(open_holds)
        self._oldest_s = max((now_s - hold.started_s for hold in open_holds), default=0.0)
        if signs:
            self._committer.renew(signs, self._settings.hold_s)
        answers = [(grant, await self._extended(hold, pending)) for grant, hold, pending in asked]
        return [(grant, refusal) for grant, refusal in answers if refusal is not None]

    async def _extended(self, hold: SharedHold, pending: Pending) -> Refusal | None:
        try:
            extended = await self._committer.wait(pending)
        except StoreBusy:
            return None  # a running answer goes on while the store is away
        if isinstance(extended, Short):
            return too_short(extended, clock.wall_s()) if self._settings.when_exhausted == "cut" else None
        if extended is not None and extended.state == "open":
            hold.tokens, hold.worth_nano = extended.tokens, extended.cost_nano
        return None

    # --- for operators ---

    def balances(self) -> Sequence[Balance]:
        """The balances of accounts in use, as they stood a few seconds ago."""
        return self._committer.balances

    @property
    def balances_at_s(self) -> float:
        """When they stood so, in seconds since 1970; not a number before they were read."""
        return self._committer.balances_at_s

    @property
    def commits(self) -> int:
        """Transactions of the ledger."""
        return self._committer.commits

    @property
    def commit_s(self) -> float:
        """Seconds spent in them."""
        return self._committer.commit_s

    def holds_open(self) -> int:
        """How many holds of this process are open."""
        return self._open

    def oldest_hold_s(self) -> float:
        """The age of the oldest open hold, in seconds."""
        return self._oldest_s

    @property
    def dropped(self) -> int:
        """Records that could not be kept."""
        return self._committer.dropped + self._committer.failed

    async def aclose(self) -> None:
        """Do what waits, or leave it in the spool file; end the epoch."""
        await self._committer.aclose()


def _spent(hold: SharedHold, usage: Usage | None) -> Amount:
    return Amount(0) if usage is None else Amount(min(usage.total_tokens, MAX_AMOUNT), _cost(hold.rate, usage))


def _wanted(hold: SharedHold, usage: Usage | None, spent: Amount) -> Amount:
    """A bit more than was spent, so that a stream need not ask again at once."""
    if usage is None:
        return Amount(0)
    ahead = 0 if is_bounded(hold.job) else max(EXTENSION_TOKENS, usage.completion_tokens // 2)
    worth = 0
    if hold.rate is not None:
        worth = usage_cost_nano(hold.rate, usage, ahead)
    return Amount(spent.tokens + ahead, worth)


def _cost(rate: Rate | None, usage: Usage) -> int:
    return 0 if rate is None else usage_cost_nano(rate, usage)
