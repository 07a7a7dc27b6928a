"""What does it cost, and may it be spent? The ledger of one process, in memory, on a SQLite file."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

import msgspec

from zuebee.billing.pricing import PriceBook, Quote, Rate, answer_tokens, no_price, quoted, usage_cost_nano
from zuebee.billing.refusals import too_short
from zuebee.config.settings_billing import BillingSettings
from zuebee.contracts.admission import MAX_AMOUNT, NOTHING, Amount, Budget, Grant, Hold, Need, Principal, Settlement
from zuebee.contracts.errors import STORE_UNAVAILABLE, Refusal
from zuebee.contracts.inference import Job, Usage, is_bounded
from zuebee.contracts.limits import period_start_s
from zuebee.ledger import usage_rows
from zuebee.ledger.entries import TOKENS, Balance, HoldState, Path, Short
from zuebee.ledger.errors import StoreBusy, StoreFailed
from zuebee.ledger.group_commit import LATER, NOW, SOON, Batch, Closing, Committer
from zuebee.ledger.journal import Journal
from zuebee.ledger.journal_rows import Outcome, outcome_of, outcome_text, settlement_of
from zuebee.ledger.ledger import Ledger
from zuebee.ledger.sqlite.store import SqliteStore
from zuebee.lib import clock
from zuebee.lib.seldom import Seldom

# Requests that wait for others to give back what they do not need of a budget that they share.

MAX_WAITING: Final = 1000
"""In all accounts. Whoever comes then is refused at once."""

WOKEN_AT_ONCE: Final = 16
"""Of those who wait for one account, in the order of their coming: the first will take what came back."""


class Turn:
    """A place among those who wait for an account. A context manager: leaving it gives up the place."""

    def __init__(self, waiters: "Waiters", account: str) -> None:
        self._waiters = waiters
        self._account = account
        self._woken = asyncio.Event()

    def __enter__(self) -> "Turn":
        return self

    def __exit__(self, *_: object) -> None:
        self._waiters.leave(self, self._account)

    async def wait(self, timeout_s: float) -> bool:
        """Wait until something came back; False when nothing did in time."""
        if timeout_s <= 0:
            return False
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    def wake(self) -> None:
        """Something came back."""
        self._woken.set()


class Waiters:
    """All that wait, by account, in the order of their coming."""

    def __init__(self) -> None:
        self._turns: dict[str, dict[Turn, None]] = {}
        self._count = 0

    @property
    def any(self) -> bool:
        """Whether somebody waits."""
        return self._count > 0

    def enter(self, account: str) -> Turn | None:
        """A place in the line for an account; None when too many wait already."""
        if self._count >= MAX_WAITING:
            return None
        self._count += 1
        turn = Turn(self, account)
        self._turns.setdefault(account, {})[turn] = None
        return turn

    def leave(self, turn: Turn, account: str) -> None:
        """Give a place up."""
        turns = self._turns[account]
        del turns[turn]
        self._count -= 1
        if not turns:
            del self._turns[account]

    def wake(self, path: Path) -> None:
        """A hold on this path has ended: the first of those who wait for its accounts look again."""
        for balance in path.balances:
            for _, turn in zip(range(WOKEN_AT_ONCE), self._turns.get(balance.account, ()), strict=False):
                turn.wake()


_log: Final = logging.getLogger("zuebee.billing")

STUCK_S: Final = 1.0
"""A transaction that takes longer stops metered requests until it is through."""

FORGET_EVERY_S: Final = 3600.0
"""Between two looks for balances of periods that are over. They are kept for as long: something may be on its way."""

CLOSE_S: Final = 2.0
MAX_WAITING_RECORDS: Final = 200_000
EXTENSION_TOKENS: Final = 256

WATCH_S: Final = 0.005
"""Between two looks at an attempt to write that nobody tells the end of."""


class LocalHold:
    """A hold of this process; see `contracts.admission.Hold`."""

    __slots__ = ("_batch", "_billing", "answer_tokens", "job", "joined", "rate", "state")

    def __init__(
        self, state: HoldState, batch: Batch, billing: "LocalBilling", rate: Rate | None, job: Job, answer_tokens: int
    ) -> None:
        self.state = state
        self.rate = rate
        self.job = job
        self.joined = False
        self.answer_tokens: Final = answer_tokens
        self._batch = batch
        self._billing = billing

    @property
    def whole(self) -> bool:
        owed = self.state.owed
        return not (owed.tokens or owed.cost_nano)

    @property
    def secured(self) -> bool:
        return self._batch.secured

    async def wait(self, settlement: Settlement | None = None) -> Refusal | None:
        batch, billing = self._batch, self._billing
        if settlement is None or not billing.join(self, batch, settlement):
            await billing.hurry(batch)
            return None if batch.secured else STORE_UNAVAILABLE
        left: asyncio.CancelledError | None = None
        try:
            await billing.hurry(batch)
        except asyncio.CancelledError as error:
            left = error
        # Flushed or not: what was written is charged and on record, so it is what the caller must see.
        while not batch.committed and not batch.call_back(self.state.id):
            try:
                await asyncio.sleep(WATCH_S)  # an attempt to write it is under way
            except asyncio.CancelledError as error:
                left = error
        if not batch.committed:
            billing.part(self, settlement)
        if left is not None:
            raise left
        return None if batch.committed else STORE_UNAVAILABLE


class LocalBilling:
    """`Billing` for one process. Decides in memory at once; a writer thread makes it durable meanwhile.

    With a `journal` a settlement survives this process as soon as it is decided; without one, when it is written.
    """

    def __init__(
        self,
        store: SqliteStore,
        settings: BillingSettings,
        prices: PriceBook,
        *,
        commit_interval_s: float,
        timeout_s: float,
        gate: Callable[[], Refusal | None],
        journal: Journal | None = None,
    ) -> None:
        self._seldom = Seldom(_log)
        self.dropped = 0
        self.reserved = 0
        self.short = 0
        self._store = store
        self._settings = settings
        self.prices = prices
        self._gate = gate
        self._journal = journal
        self.damaged = 0 if journal is None else len(journal.damage)  # places that could not be read at the start
        self._side = ThreadPoolExecutor(1, thread_name_prefix="ledger-side")
        self._opening = asyncio.Lock()
        now_s = clock.wall_s()
        start = store.start("zuebee", now_s)
        self.ledger = Ledger(start.owner)
        self._forgot_at_s = clock.monotonic_s()
        self._waiters = Waiters()
        self._committer = Committer(
            store.write,
            store.flush,
            self._fill,
            store.close,
            closed=self._closed,
            interval_s=commit_interval_s,
            timeout_s=timeout_s,
            journal=journal,
        )
        self._resolve_orphans(start.orphans, now_s)

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
        held = await self._try_to_hold(principal, job, quote)
        if isinstance(held, Short) and held.later:
            held = await self._wait_to_hold(principal, job, quote, held)
        if isinstance(held, Short):
            self.short += 1
            if self.ledger.changes.entries:
                self._committer.touch(LATER)
            return too_short(held, clock.wall_s(), quote)
        return held

    def _plain(self, job: Job, amount: Amount) -> Quote:
        """An amount that nobody quoted: all of it or nothing."""
        return Quote(amount.tokens, amount.cost_nano, self.prices.rate(job.model, clock.wall_s()), amount)

    async def _wait_to_hold(
        self, principal: Principal, job: Job, quote: Quote, short: Short
    ) -> LocalHold | Short | Refusal:
        """Try again whenever something comes back to the account that is short."""
        until_s = clock.monotonic_s() + self._settings.reserve_wait_s
        held: LocalHold | Short | Refusal = short
        while isinstance(held, Short) and held.later and (turn := self._waiters.enter(held.account)) is not None:
            account = held.account
            with turn:
                while isinstance(held, Short) and held.later and held.account == account:
                    if not await turn.wait(until_s - clock.monotonic_s()):
                        return held
                    held = await self._try_to_hold(principal, job, quote)
        return held

    async def _try_to_hold(self, principal: Principal, job: Job, quote: Quote) -> LocalHold | Short | Refusal:
        """A hold, or what is short just now. Nothing is awaited once there is a hold: who asks has it, or it is not."""
        now_s = clock.wall_s()
        path = self.ledger.path(principal.budgets, now_s)
        if path is None:
            try:
                path = await self._open_path(principal.budgets, now_s)
            except (StoreBusy, StoreFailed) as error:
                self._seldom.error("an account could not be opened: %s", error)
                return STORE_UNAVAILABLE
        stub = usage_rows.stub(principal, job, now_s)
        expires_at_s = now_s + self._settings.hold_s
        held = self.ledger.reserve(job.request_id, path, quote, now_s, expires_at_s, stub, quote.least)
        if not isinstance(held, HoldState):
            return held
        self.reserved += 1
        # A stream's first event waits for it; an answer in one piece is settled before it leaves, most in one batch.
        batch = self._committer.touch(NOW if job.stream else SOON)
        fits = answer_tokens(quote, held.tokens, held.cost_nano)
        return LocalHold(held, batch, self, quote.rate, job, fits)

    @property
    def trouble(self) -> str:
        """What keeps the ledger from being written; empty: nothing."""
        committer = self._committer
        if committer.failure or committer.stuck_s <= STUCK_S:
            return committer.failure
        return committer.busy or "the disk takes nothing"

    def unable(self) -> Refusal | None:
        committer = self._committer
        if committer.failure or committer.stuck_s > STUCK_S:
            return STORE_UNAVAILABLE
        return self._gate()

    async def _open_path(self, budgets: tuple[Budget, ...], now_s: float) -> Path:
        """Bring balances into memory that are not there yet, and limits up to date."""
        async with self._opening:
            starts_s = [period_start_s(budget.period, now_s) for budget in budgets]
            known = [self.ledger.balance(b.account, start_s) for b, start_s in zip(budgets, starts_s, strict=True)]
            if None in known or self.ledger.path_of(known) is None:
                loop = asyncio.get_running_loop()
                paths = await loop.run_in_executor(self._side, self._store.open_path, budgets, starts_s)
                for path_id, balances in paths:
                    self.ledger.add_path(path_id, [self.ledger.add_balance(balance) for balance in balances])
            return self.ledger.open_path(budgets, now_s)

    # --- after it ---

    def settle(self, settlement: Settlement) -> Awaitable[None] | None:
        grant = settlement.grant
        hold = grant.hold if grant is not None else None
        usage = settlement.usage
        kept = False
        if isinstance(hold, LocalHold):
            if hold.joined:
                return None
            was_open = hold.state.state == "open"
            self._resolve(hold, settlement)
            kept = was_open and self._journal is not None and self._journal.add(outcome_text(hold.state.id, settlement))
        elif usage is not None:
            settlement.cost_nano = _cost(self.prices.rate(settlement.model, settlement.at_s), usage)
        batch = self._committer.current
        if len(batch.records) >= MAX_WAITING_RECORDS and hold is None:
            self.dropped += 1
            return None
        batch.records.append(settlement)
        self._committer.touch(LATER if hold is None else NOW)
        return batch if hold is not None and not kept else None

    def join(self, hold: LocalHold, batch: Batch, settlement: Settlement) -> bool:
        """Let a hold end with the batch that it was reserved in. False: that is on its way without it."""
        state, usage = hold.state, settlement.usage
        if batch is not self._committer.current or state.state != "open":
            return False
        hold.joined = True
        now_s = clock.wall_s()
        if usage is None:
            entries = self.ledger.close(state, "void", NOTHING, now_s)
            batch.closing[state.id] = Closing(state, "voided", NOTHING, entries, settlement)
        else:
            settlement.cost_nano = _cost(hold.rate, usage)
            amount = Amount(min(usage.total_tokens, MAX_AMOUNT), settlement.cost_nano)
            entries = self.ledger.close(state, "post", amount, now_s)
            batch.closing[state.id] = Closing(state, "posted", amount, entries, settlement)
        return True

    def part(self, hold: LocalHold, settlement: Settlement) -> None:
        """It did not end so: it is open, and will be settled otherwise."""
        self.ledger.reopen(hold.state)
        settlement.cost_nano = 0
        hold.joined = False

    def _closed(self, batch: Batch) -> None:
        for each in batch.closing.values():
            self.ledger.closed(each.hold, each.state, each.amount)
            if self._waiters.any:
                self._waiters.wake(each.hold.path)

    def hurry(self, batch: Batch) -> Awaitable[None]:
        """Wait until a batch is on disk, or cannot be, or that takes too long."""
        return self._committer.hurry(batch)

    def _resolve(self, hold: LocalHold, settlement: Settlement) -> None:
        usage, state, now_s = settlement.usage, hold.state, clock.wall_s()
        if state.state != "open":
            self.ledger.add_hold(state)  # expired so long ago that it may have been forgotten
        if usage is not None:
            settlement.cost_nano = _cost(hold.rate, usage)
        self._post(state.id, settlement, now_s)

    def _post(self, hold_id: str, settlement: Settlement, now_s: float) -> None:
        """Charge what was used; nothing, if that is not known."""
        usage = settlement.usage
        if usage is None:
            hold = self.ledger.void(hold_id, now_s)
        else:
            tokens = min(usage.total_tokens, MAX_AMOUNT)
            hold = self.ledger.post(hold_id, Amount(tokens, settlement.cost_nano), now_s)
        if self._waiters.any:
            self._waiters.wake(hold.path)

    async def attend(self, grants: Sequence[Grant]) -> Sequence[tuple[Grant, Refusal]]:
        self._committer.relieve()
        await self._take_foreign_grants()
        now_s = clock.wall_s()
        expires_at_s = now_s + self._settings.hold_s
        cut = []
        for grant in grants:
            hold = grant.hold
            if isinstance(hold, LocalHold) and hold.state.state == "open":
                refusal = self._progress(grant, hold, now_s)
                if refusal is not None:
                    cut.append((grant, refusal))
                state = hold.state
                state.expires_at_s = expires_at_s
                self._committer.current.progress.append(
                    (expires_at_s, state.progress.tokens, state.progress.cost_nano, state.id)
                )
                self._committer.touch(LATER)
        self._expire_leaked(now_s)
        if clock.monotonic_s() - self._forgot_at_s > FORGET_EVERY_S:
            self._forgot_at_s = clock.monotonic_s()
            self.ledger.forget(now_s - FORGET_EVERY_S)
        return cut

    def _progress(self, grant: Grant, hold: LocalHold, now_s: float) -> Refusal | None:
        """Note what was delivered so far, and hold more when it comes close to what is held."""
        usage = grant.usage_so_far() if grant.usage_so_far is not None else None
        if usage is None:
            return None
        state = hold.state
        spent = Amount(usage.total_tokens, _cost(hold.rate, usage))
        state.progress = spent
        ahead = 0 if is_bounded(hold.job) else max(EXTENSION_TOKENS, usage.completion_tokens // 2)
        wanted = Amount(spent.tokens + ahead, _ahead(hold.rate, usage, ahead))
        if wanted.tokens <= state.tokens and wanted.cost_nano <= state.cost_nano:
            return None
        extended = self.ledger.extend(state.id, wanted, now_s)
        if isinstance(extended, Short):
            extended = self.ledger.extend(state.id, spent, now_s)
        if not isinstance(extended, Short) or self._settings.when_exhausted == "finish":
            return None
        return too_short(extended, now_s)

    def _expire_leaked(self, now_s: float) -> None:
        """Nobody has renewed them, so nobody will settle them: a defect, but not one that locks a budget."""
        leaked = [hold for hold in self.ledger.open.values() if hold.expires_at_s < now_s]
        for hold in leaked:
            _log.error("a hold was never settled: %s", hold.id)
            self._expire(hold, now_s)

    def _expire(self, hold: HoldState, now_s: float) -> None:
        self.ledger.expire(hold.id, now_s)
        self._waiters.wake(hold.path)
        charged = hold.charged
        self._committer.current.records.append(
            usage_rows.orphan(hold.id, hold.record, charged.tokens, charged.cost_nano)
        )
        self._committer.touch(SOON)

    async def _take_foreign_grants(self) -> None:
        """What the command line has granted meanwhile."""
        try:
            loop = asyncio.get_running_loop()
            entries = await loop.run_in_executor(self._side, self._store.foreign_entries)
        except Exception as error:
            self._seldom.warning("grants of other processes could not be read: %s", error)
            return
        for entry_id, account, starts_at_s, kind, tokens, money in entries:
            balance = self.ledger.balance(account, starts_at_s)
            if balance is not None and entry_id > balance.seen_entry:
                amount = tokens if balance.unit == TOKENS else money
                balance.granted += amount if kind == "grant" else -amount
                balance.seen_entry = entry_id

    def _resolve_orphans(self, orphans: list[HoldState], now_s: float) -> None:
        """The holds of processes that are no more: nobody else can hold this file. The journal knows how some ended."""
        ledger = self.ledger
        outcomes = _outcomes(self._journal)
        expired = 0
        for orphan in orphans:
            balances = [ledger.add_balance(balance) for balance in orphan.path.balances]
            orphan.path = ledger.add_path(orphan.path.id, balances)
            ledger.add_hold(orphan)
            outcome = outcomes.get(orphan.id)
            if outcome is None:
                self._expire(orphan, now_s)
                expired += 1
                continue
            settlement = settlement_of(outcome, orphan.record)
            self._post(orphan.id, settlement, now_s)
            self._committer.current.records.append(settlement)
            self._committer.touch(SOON)
        if expired:
            _log.warning("%d requests of an earlier process had not been settled: charged as far as known", expired)
        if len(orphans) > expired:
            _log.info("%d requests of an earlier process settled from its journal", len(orphans) - expired)
        if self._journal is not None:
            self._committer.touch(NOW)  # it takes lines once this is on disk

    def _fill(self, batch: Batch) -> None:
        batch.changes = self.ledger.take()

    # --- for operators ---

    def balances(self) -> Sequence[Balance]:
        """The balances of accounts in use."""
        return self.ledger.balances()

    @property
    def balances_at_s(self) -> float:
        """How they stand is known at any time."""
        return clock.wall_s()

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
        return len(self.ledger.open)

    def oldest_hold_s(self) -> float:
        """The age of the oldest open hold, in seconds."""
        oldest = next(iter(self.ledger.open.values()), None)
        return 0.0 if oldest is None else max(0.0, clock.wall_s() + self._settings.hold_s - oldest.expires_at_s)

    async def aclose(self) -> None:
        """Write what waits, and end the epoch."""
        await self._committer.aclose()
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):  # what reads just now is not interrupted, nor waited for without end
            await asyncio.wait_for(loop.run_in_executor(self._side, self._store.close_side), CLOSE_S)
        self._side.shutdown(wait=False)
        if self._journal is not None:
            self._journal.close()


def _outcomes(journal: Journal | None) -> dict[str, Outcome]:
    """What an earlier process left in the journal, by hold."""
    found: dict[str, Outcome] = {}
    for line in journal.found if journal is not None else ():
        try:
            outcome = outcome_of(line)
        except msgspec.DecodeError as error:
            _log.error("a line of the journal cannot be read: %s", error)
        else:
            found[outcome.hold] = outcome
    return found


def _cost(rate: Rate | None, usage: Usage) -> int:
    return 0 if rate is None else usage_cost_nano(rate, usage)


def _ahead(rate: Rate | None, usage: Usage, tokens: int) -> int:
    return 0 if rate is None else usage_cost_nano(rate, usage, tokens)
