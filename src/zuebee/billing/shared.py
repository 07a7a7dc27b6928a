"""What does it cost, and may it be spent? A ledger that many processes share, on PostgreSQL."""

from collections.abc import Awaitable, Callable, Sequence

from zuebee.billing import records
from zuebee.billing.entries import TOKENS, Balance, HoldState, Short
from zuebee.billing.operations import Extend, Reserve, Settle, record_of
from zuebee.billing.pricing import NO_PRICE, PriceBook, cost_nano
from zuebee.billing.rates import Rate
from zuebee.billing.refusals import too_short
from zuebee.billing.shared_batch import Pending
from zuebee.billing.shared_committer import SharedCommitter
from zuebee.billing.spool import Spool, replay
from zuebee.billing.store_errors import StoreBusy, StoreFailed
from zuebee.billing.store_postgres import PostgresStore
from zuebee.billing.stub import stub_text
from zuebee.config import BillingSettings
from zuebee.contracts.admission import MAX_AMOUNT, Amount, Grant, Hold, Principal, Settlement
from zuebee.contracts.errors import STORE_UNAVAILABLE, Refusal
from zuebee.contracts.inference import Job, Usage
from zuebee.kit import clock

EXTENSION_TOKENS = 256
STUCK_S = 1.0
SWEEP_INTERVAL_S = 5.0


class SharedHold:
    """A hold in the shared ledger; it is on disk from its beginning. See `contracts.admission.Hold`."""

    __slots__ = ("bounded", "id", "open", "rate", "started_s", "tokens", "worth_nano")
    secured = True

    def __init__(self, state: HoldState, rate: Rate | None, *, bounded: bool) -> None:
        self.id = state.id
        self.tokens = state.tokens
        self.worth_nano = state.cost_nano
        self.rate = rate
        self.bounded = bounded
        self.open = True
        self.started_s = clock.monotonic_s()

    async def wait(self) -> Refusal | None:
        """See `Hold.wait`."""
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
        self._prices = prices
        self._gate = gate
        self._swept_at_s = 0.0
        self._open = 0
        self._oldest_s = 0.0
        spool = Spool(spool_path)
        try:
            store.start("zuebee")
            self.replayed = replay(store, spool)
        except (StoreBusy, StoreFailed) as error:
            spool.close()
            raise OSError(f"the ledger's database cannot be used: {error}") from None
        self._committer = SharedCommitter(store, spool, timeout_s=timeout_s)

    # --- before the call ---

    def quote(self, principal: Principal, job: Job, prompt_tokens: int, output_tokens: int) -> Amount | Refusal:
        """See `Billing.quote`."""
        tokens = min(prompt_tokens + output_tokens, MAX_AMOUNT)
        rate = self._prices.rate(job.model, clock.wall_s())
        if rate is None:
            return NO_PRICE if any(b.unit != TOKENS for b in principal.budgets) else Amount(tokens)
        return Amount(tokens, cost_nano(rate, prompt_tokens, output_tokens))

    async def reserve(self, principal: Principal, job: Job, amount: Amount) -> Hold | Refusal:
        """See `Billing.reserve`. The answer comes from the database."""
        now_s = clock.wall_s()
        stub = stub_text(records.stub(principal, job, now_s))
        operation = Reserve(job.request_id, principal.budgets, amount, now_s, self._settings.hold_s, stub)
        try:
            held = await self._committer.ask(operation)
        except StoreBusy:
            return STORE_UNAVAILABLE
        if isinstance(held, Short):
            self.short += 1
            return too_short(held, now_s)
        if held is None:
            return STORE_UNAVAILABLE
        self.reserved += 1
        return SharedHold(held, self._prices.rate(job.model, now_s), bounded=job.max_output_tokens is not None)

    def unable(self) -> Refusal | None:
        """See `Billing.unable`."""
        if self._committer.down or self._committer.stuck_s > STUCK_S:
            return STORE_UNAVAILABLE
        return self._gate()

    # --- after it ---

    def settle(self, settlement: Settlement) -> Awaitable[None] | None:
        """See `Billing.settle`."""
        grant, usage = settlement.grant, settlement.usage
        hold = grant.hold if grant is not None else None
        if not isinstance(hold, SharedHold):
            if usage is not None:
                settlement.cost_nano = _cost(self._prices.rate(settlement.model, settlement.at_s), usage)
            self._committer.settle(Settle("", None, record_of(settlement)))
            return None
        amount = None
        if usage is not None:
            settlement.cost_nano = _cost(hold.rate, usage)
            amount = Amount(min(usage.total_tokens, MAX_AMOUNT), min(settlement.cost_nano, MAX_AMOUNT))
        hold.open = False
        return self._committer.settle(Settle(hold.id, amount, record_of(settlement)))

    async def attend(self, grants: Sequence[Grant]) -> Sequence[tuple[Grant, Refusal]]:
        """See `Billing.attend`."""
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
    ahead = 0 if hold.bounded else max(EXTENSION_TOKENS, usage.completion_tokens // 2)
    worth = 0
    if hold.rate is not None:
        worth = cost_nano(hold.rate, usage.prompt_tokens, usage.completion_tokens + ahead, usage.cached_tokens)
    return Amount(spent.tokens + ahead, worth)


def _cost(rate: Rate | None, usage: Usage) -> int:
    return 0 if rate is None else cost_nano(rate, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
