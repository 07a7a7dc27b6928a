"""Operations of a moment become one batch, done by one thread; while it is under way, the next ones collect.

While the database does not answer, reservations are refused, and settlements are kept in the spool file until it does.
"""

import asyncio
import logging
import queue
import random
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeAlias

from zuebee.contracts.inference import Job
from zuebee.ledger.entries import Balance
from zuebee.ledger.errors import StoreBusy
from zuebee.ledger.operations import Answer, Expire, Operation, Renew, Reserve, Settle
from zuebee.ledger.postgres.connection import StoreLost
from zuebee.ledger.postgres.spool import MAX_BATCH, STEP, Pending, SharedBatch, Spool, Spooling
from zuebee.ledger.postgres.store import PostgresStore
from zuebee.lib import clock

_log = logging.getLogger("zuebee.billing")

EXPIRED_PER_BATCH = 100
"""Holds of other processes that are resolved beside what running requests ask for, so that these never wait long."""

RETRIES = 5
"""For a deadlock, and the like: then it counts as an outage."""


@dataclass(frozen=True)
class Waits:
    """How long what waits for the database waits, in seconds. Of `max_waiting` records those that come later are
    dropped, of requests that cost nothing in any budget.
    """

    timeout_s: float = 5.0
    tick_s: float = 0.1
    spool_after_s: float = 0.25
    retry_s: float = 0.02
    reconnect_s: tuple[float, float] = (0.05, 2.0)
    close_s: float = 10.0
    max_waiting: int = 200_000


DEFAULT_WAITS = Waits()

Order: TypeAlias = SharedBatch | str
"""A batch to be done, or `sweep`, `end` or `leave`."""


class Hands:
    """A thread that carries out orders in their turn, until `do` says of one that it was the last."""

    def __init__(self, do: Callable[[Order], bool]) -> None:
        self._do = do
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def put(self, order: Order) -> None:
        """One more."""
        self._orders.put(order)

    def join(self, timeout_s: float) -> None:
        """Wait for the last one."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while self._do(self._orders.get()):
            pass


class SharedCommitter:
    """Owns the thread and the store. All methods but the thread's own belong to the event loop.

    `hands` makes what carries out the orders.
    """

    def __init__(
        self,
        store: PostgresStore,
        spool: Spool,
        *,
        timeout_s: float,
        waits: Waits = DEFAULT_WAITS,
        hands: Callable[[Callable[[Order], bool]], Hands] = Hands,
    ) -> None:
        self._waits = replace(waits, timeout_s=timeout_s)
        self.down, self.reason = False, ""
        self.commits = 0
        self.commit_s = 0.0
        self.dropped = 0
        self.failed = 0
        self.balances: list[Balance] = []
        self.balances_at_s = float("nan")
        self._store = store
        self._waiting: deque[SharedBatch] = deque()
        self._loose: deque[tuple[int, Pending]] = deque()  # neither done nor kept, with the number of the batch
        self._running: SharedBatch | None = None
        self._number = 0
        self._attempt_at_s = 0.0
        self._sweeping = False
        self._expired: deque[Expire] = deque()
        self._expiring = False
        self._timer: asyncio.Handle | None = None
        self._pumping = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._spooling = Spooling(spool, self._kept)
        self._hands = hands(self._carry_out)

    # --- what comes in ---

    async def ask(self, operation: Operation, job: Job | None = None) -> Answer:
        """The answer to an operation, once it is on disk. Raises StoreBusy when there is none in time."""
        pending = self.submit(operation, job)
        try:
            return await self.wait(pending)
        except (asyncio.CancelledError, GeneratorExit):
            # It may have its answer already, and be cancelled before it could go on with it.
            self._let_go(pending.leave())
            raise

    def submit(self, operation: Operation, job: Job | None = None) -> Pending:
        """Begin an operation whose answer is to be waited for."""
        future: asyncio.Future[Answer] = self._loop.create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be waiting any more
        return self._add(Pending(operation, future, job))

    async def wait(self, pending: Pending) -> Answer:
        """The answer. Raises StoreBusy when there is none in time."""
        assert pending.future is not None
        answer: Answer = await pending.future
        return answer

    def settle(self, operation: Settle) -> Awaitable[None] | None:
        """Do this, sooner or later. The answer is done when it is on disk, here or there, or takes too long."""
        if not operation.hold and self.waiting >= self._waits.max_waiting:
            self.dropped += 1
            return None
        return self._add(Pending(operation, self._loop.create_future())).future

    def renew(self, holds: list[tuple[str, int, int]], hold_s: float) -> None:
        """A sign of life; one that is still waiting is replaced."""
        for batch in self._waiting:
            for pending in batch.items:
                if isinstance(pending.operation, Renew):
                    pending.operation = Renew(holds, hold_s)
                    return
        self._add(Pending(Renew(holds, hold_s), None))

    def sweep(self) -> None:
        """Look for holds that have expired, and resolve them."""
        if not self._sweeping and not self.down:
            self._sweeping = True
            self._hands.put("sweep")

    def _let_go(self, settle: Settle | None) -> None:
        if settle is not None:
            self.settle(settle)

    @property
    def waiting(self) -> int:
        """How many operations are not done yet, about."""
        return len(self._waiting) * MAX_BATCH

    @property
    def stuck_s(self) -> float:
        """For how long the batch that is being written has been on its way."""
        return 0.0 if self._running is None else self._loop.time() - self._running.begun_at_s

    def _add(self, pending: Pending) -> Pending:
        if not self._waiting or len(self._waiting[-1].items) >= MAX_BATCH:
            self._number += STEP
            self._waiting.append(SharedBatch(self._number))
        self._waiting[-1].add(pending)
        self._loose.append((self._number, pending))
        self._idle.clear()
        if self._running is None and not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)  # what else comes in this turn of the loop comes along
        return pending

    def _pump(self) -> None:
        self._pumping = False
        if self._running is None and self._waiting:
            self._running = self._waiting.popleft()
            self._running.begun_at_s = self._loop.time()
            self._hands.put(self._running)
            if self._timer is None:
                self._timer = self._loop.call_later(self._waits.tick_s, self._tick)

    # --- what comes back ---

    def _done(self, batch: SharedBatch, items: list[Pending], answers: list[Answer]) -> None:
        self.down, self.reason = False, ""
        self.commits += 1
        self.commit_s += self._loop.time() - batch.begun_at_s
        for pending, answer in zip(items, answers, strict=True):
            self._let_go(pending.answer(answer))
        self._running = None
        while self._loose and self._loose[0][0] <= batch.number:
            self._loose.popleft()
        self._empty_spool()
        self._expire_some()
        if self._waiting:
            self._pump()
        else:
            self._idle.set()

    def _lost(self, reason: str) -> None:
        if not self.down:
            _log.error("the ledger's database cannot be used, metered requests are refused: %s", reason)
        self.down, self.reason = True, reason
        self._tend()

    def _swept(self, holds: list[Expire], balances: list[Balance] | None) -> None:
        self._sweeping = False
        if balances is not None:
            self.balances, self.balances_at_s = balances, clock.wall_s()
        if holds:
            _log.warning("%d holds of requests whose process is gone have expired", len(holds))
        self._expired.extend(holds)
        self._expire_some()

    def _expire_some(self) -> None:
        """A part of them, beside what running requests need; after the last of them there may be more."""
        if not self._expired:
            if self._expiring:
                self._expiring = False
                self.sweep()
            return
        self._expiring = True
        if not any(isinstance(each.operation, Expire) for batch in self._batches() for each in batch.items):
            for _ in range(min(EXPIRED_PER_BATCH, len(self._expired))):
                self._add(Pending(self._expired.popleft(), None))

    # --- while it takes long ---

    def _tick(self) -> None:
        self._timer = None
        if self._running is None:
            return
        self._timer = self._loop.call_later(self._waits.tick_s, self._tick)
        self._tend()
        if self._attempt_at_s and clock.monotonic_s() - self._attempt_at_s > self._waits.timeout_s + 1:
            self._store.cut()

    def _tend(self) -> None:
        """Keep settlements that wait on this machine's disk, and let nobody wait longer than the timeout."""
        if self.down or self.stuck_s > self._waits.spool_after_s:
            self._keep()
        if self.down or self.stuck_s > self._waits.timeout_s:
            for _, pending in self._loose:
                if pending.future is not None and not pending.future.done():
                    self._give_up(pending)

    def _give_up(self, pending: Pending) -> None:
        assert pending.future is not None
        if not isinstance(pending.operation, Settle):
            pending.abandoned = True
            pending.future.set_exception(StoreBusy("no answer in time"))
        elif self.stuck_s > self._waits.timeout_s:
            pending.future.set_result(None)

    def _batches(self) -> "chain[SharedBatch]":
        return chain([self._running] if self._running is not None else [], self._waiting)

    def _keep(self) -> None:
        self._spooling.keep(self._store.owner, list(self._loose))

    def _kept(self, is_kept: bool) -> None:
        if is_kept:
            # In a long outage there are many that need no more attention.
            self._loose = deque(each for each in self._loose if not (each[1].kept or each[1].abandoned))
            self._empty_spool()

    def _empty_spool(self) -> None:
        """Once the database has all that is in it."""
        if self._spooling.has_lines and not any(p.kept for batch in self._batches() for p in batch.items):
            self._spooling.empty()

    # --- the end ---

    async def drained(self) -> None:
        """Wait until all that came in is done."""
        await self._idle.wait()

    async def aclose(self) -> None:
        """Do what waits, for at most `Waits.close_s`; what is left then is in the spool file. Ends the epoch."""
        if self._closing.is_set():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._waits.close_s):
                await self.drained()
        is_done = self._idle.is_set()
        if not is_done:
            # Of the batch that is under way nobody can say whether it was done.
            for pending in self._running.items if self._running is not None else ():
                if isinstance(pending.operation, Reserve):
                    self._let_go(pending.answer(None))
            await self._spooling.last(self._store.owner, list(self._loose))
        self._closing.set()
        self._hands.put("end" if is_done else "leave")
        if not is_done:
            self._store.cut()
        await self._loop.run_in_executor(None, self._hands.join, self._waits.close_s)
        if self._timer is not None:
            self._timer.cancel()
        for batch in self._batches():
            for pending in batch.items:
                pending.answer(None)
        await self._spooling.aclose()

    # --- the thread ---

    def _carry_out(self, order: Order) -> bool:
        """False: it was the last one."""
        if isinstance(order, SharedBatch):
            self._do(order)
        elif order == "sweep":
            self._call(self._swept, *self._swept_up())
        else:
            if order == "end":
                with suppress(StoreBusy):
                    self._store.end()
            self._store.disconnect()
            return False
        return True

    def _swept_up(self) -> tuple[list[Expire], list[Balance] | None]:
        self._attempt_at_s = clock.monotonic_s()
        try:
            return self._store.sweep(), self._store.balances()
        except StoreBusy:
            return [], None
        except Exception:
            _log.exception("expired holds could not be looked for")
            return [], None
        finally:
            self._attempt_at_s = 0.0

    def _do(self, batch: SharedBatch) -> None:
        attempts = 0
        tried: list[Pending] = []
        decided: list[Answer] = []
        while not self._closing.is_set():
            items = [pending for pending in batch.items if not pending.is_over]
            self._store.decided = []
            try:
                answers = self._apply(batch.number, [pending.operation for pending in items])
            except StoreBusy as error:
                if self._store.decided:
                    tried, decided = items, self._store.decided
                attempts += 1
                self._pause(attempts, error)
                continue
            except Exception as error:
                _log.error("%d operations of the ledger failed, trying each alone: %r", len(items), error)
                items += [pending for pending in tried if pending not in items]  # nobody knows what became of those
                items.sort(key=lambda pending: pending.number)
                answers = self._one_by_one(batch.number, items, dict(zip(tried, decided, strict=False)))
            if answers is None:
                items, answers = tried, decided
            self._call(self._done, batch, items, answers)
            return

    def _pause(self, attempts: int, error: StoreBusy) -> None:
        is_lost = isinstance(error, StoreLost)
        if is_lost and attempts == 1:
            return  # a connection may end for many reasons: a new one often mends it before anybody notices
        if is_lost or attempts >= RETRIES:
            self._call(self._lost, str(error))
        self._closing.wait(self._wait_s(attempts, is_lost=is_lost))

    def _wait_s(self, attempts: int, *, is_lost: bool) -> float:
        first_s, most_s = self._waits.reconnect_s
        if not is_lost:
            first_s = self._waits.retry_s
        return min(first_s * 2.0 ** min(attempts - 1, 10), most_s) * random.uniform(0.5, 1.0)

    def _apply(self, number: int, operations: list[Operation]) -> list[Answer] | None:
        self._attempt_at_s = clock.monotonic_s()
        try:
            if not self._store.connected:
                self._store.resume()
            return self._store.apply(number, operations)
        finally:
            self._attempt_at_s = 0.0

    def _one_by_one(self, number: int, items: list[Pending], decided: dict[Pending, Answer]) -> list[Answer]:
        """What cannot be done must not stop the rest. `decided`: what is so if all were done, and nobody saw it."""
        answers = [self._alone(pending.number, [pending.operation], decided.get(pending)) for pending in items]
        self._alone(number, [])
        return answers

    def _alone(self, number: int, operations: list[Operation], decided: Answer = None) -> Answer:
        attempts = 0
        while not self._closing.is_set():
            self._store.decided = []
            try:
                answers = self._apply(number, operations)
                return decided if answers is None else next(iter(answers), None)
            except StoreBusy as error:
                decided = next(iter(self._store.decided), decided)
                attempts += 1
                self._pause(attempts, error)
            except Exception:
                _log.exception("an operation of the ledger cannot be done")
                self.failed += 1
                break
        return None

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is gone
            self._loop.call_soon_threadsafe(function, *arguments)
