"""Telling others of each request: a task for each reporter, which drains its own part of the outbox."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from zuebee.lib import clock
from zuebee.lib.sql.database import DatabaseError
from zuebee.lib.tasks import Tasks
from zuebee.usage.gate import OutboxGate, Series
from zuebee.usage.outbox import (
    PARKED_AT_S,
    ByteRateLimit,
    Delivered,
    Failed,
    Gone,
    Outbox,
    OutboxEntry,
    Outcome,
    ReceiverHealth,
    Result,
    Row,
    due_after,
)

BATCH = 200
BATCH_S = 5.0
CATCH_UP_BYTES_PER_S = 2 << 20
IDLE_S = 0.5
PAUSED_S = 10.0
STORE_WAIT_S = 1.0
LEASE_MARGIN_S = 30.0

_log = logging.getLogger("zuebee.usage")


class ReporterSink(Protocol):
    """Where a reporter's events go. `round_s`: the longest that one call of `deliver` may take.

    `at_once`: how many calls of one event each may run side by side; 1: it takes many events in one call.
    """

    at_once: int
    round_s: float

    def deliver(self, entries: Sequence[OutboxEntry], *, probe: bool) -> Awaitable[list[Outcome]]:
        """One round for these events; an outcome for each, in order. Never raises."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...


Tried = list[tuple[OutboxEntry, Outcome | None]]
"""What became of each event of a batch; None: not tried, for the batch was ended before."""


class Reporter:
    """Drains one reporter's part of the outbox into its sink.

    `delivered` counts events that arrived, `failed` rounds that did not bring one there. `idle`: nothing more is due.
    `leaving`: it ends after the step that it is in; `wake` ends its wait for the next one.
    """

    def __init__(self, name: str, kind: str, sink: ReporterSink, outbox: Outbox) -> None:
        self.name = name
        self.kind = kind
        self.health = ReceiverHealth()
        self.delivered = 0
        self.failed = 0
        self.idle = False
        self.leaving = False
        self.wake = asyncio.Event()
        self._sink = sink
        self._outbox = outbox
        self._pace = ByteRateLimit(CATCH_UP_BYTES_PER_S)
        self._unwritten: Result | None = None
        self._pausing_row: Row = 0, ""

    async def step(self) -> float:
        """Deliver what is due, one batch at most; how long to wait before the next step. Raises DatabaseError."""
        if self._unwritten is not None:
            await self._write(self._unwritten)
        if self.health.state == "paused" and not await self._may_resume():
            return PAUSED_S
        now_s = clock.wall_s()
        if (wait_s := max(self.health.wait_s(now_s), self._pace.wait_s(now_s))) > 0:
            return wait_s
        limit = BATCH if self.health.state == "up" else 1
        lease_s = BATCH_S + self._sink.round_s + LEASE_MARGIN_S
        entries = await self._outbox.take(self.name, now_s, limit, lease_s)
        self.idle = len(entries) < limit
        if entries:
            result = Result()
            self._account(await self._deliver(entries, result), result)
            self._unwritten = result
            await self._write(result)
        return IDLE_S if self.idle else 0.0

    def follow(self, former: "Reporter") -> None:
        """Count on where another one is."""
        self.delivered, self.failed = former.delivered, former.failed

    @property
    def owes(self) -> bool:
        """Whether the outbox does not know yet what became of a batch."""
        return self._unwritten is not None

    async def aclose(self) -> None:
        """Let go of connections."""
        await self._sink.aclose()

    async def _may_resume(self) -> bool:
        """Whether an operator has made the event due again for which the receiver said that it is gone."""
        if await self._outbox.is_parked(self._pausing_row):
            return False
        self.health.resume()
        return True

    async def _write(self, result: Result) -> None:
        await self._outbox.finish(self.name, result, clock.wall_s())
        self._unwritten = None

    async def _deliver(self, entries: list[OutboxEntry], result: Result) -> Tried:
        probe = self.health.state == "down"
        if self._sink.at_once == 1:
            outcomes = await self._sink.deliver(entries, probe=probe)
            for outcome in outcomes:
                self._note(outcome, result)
            return list(zip(entries, outcomes, strict=True))
        end_s = clock.monotonic_s() + BATCH_S
        tried: Tried = []
        waiting = iter(entries)

        async def work() -> None:
            for entry in waiting:
                # As soon as the receiver is seen to be down, the rest of the batch is left for later.
                fit = probe or self.health.state == "up"
                if not fit or clock.monotonic_s() >= end_s:
                    tried.append((entry, None))
                    continue
                (outcome,) = await self._sink.deliver([entry], probe=probe)
                self._note(outcome, result)
                tried.append((entry, outcome))

        await asyncio.gather(*[work() for _ in range(min(self._sink.at_once, len(entries)))])
        return tried

    def _note(self, outcome: Outcome, result: Result) -> None:
        """Take the receiver for what the outcome shows it to be."""
        before, failed_before = self.health.state, self.health.fails
        if self.health.note(outcome, clock.wall_s()):
            result.revive = True
        if isinstance(outcome, Delivered):
            self.delivered += 1
        else:
            self.failed += 1
            # The first of a row is news, further ones may be thousands.
            level = logging.DEBUG if failed_before else logging.WARNING
            _log.log(level, "%s: an event was not taken, it stays in the outbox: %s", self.name, _reason(outcome))
        if (after := self.health.state) != before:
            _log.log(*_NEWS[after], self.name, _reason(outcome))

    def _account(self, tried: Tried, result: Result) -> None:
        now_s = clock.wall_s()
        for entry, outcome in tried:
            rounds = entry.rounds + 1
            if outcome is None:
                if self._outbox.shared:
                    result.put_off.append((entry.row, now_s, entry.rounds))
                continue
            self._pace.spend(len(entry.payload), now_s)
            if isinstance(outcome, Delivered):
                result.done.append(entry.row)
            elif isinstance(outcome, Gone):
                self._pausing_row = entry.row
                result.put_off.append((entry.row, PARKED_AT_S, rounds))
            else:
                due_s = due_after(rounds, now_s, random.random())
                if due_s >= PARKED_AT_S:
                    _log.error("%s: an event is parked after %d rounds: %s", self.name, rounds, entry.event_id)
                result.put_off.append((entry.row, due_s, rounds))


_NEWS = {
    "up": (logging.INFO, "%s takes events again%s"),
    "down": (logging.WARNING, "%s does not take events; it is left alone for a while: %s"),
    "paused": (logging.ERROR, "%s wants no events any more (%s); `zuebee usage retry` with its name tries again"),
}


def _reason(outcome: Outcome) -> str:
    return outcome.reason if isinstance(outcome, Failed) else "status 410" if isinstance(outcome, Gone) else ""


class Planned(NamedTuple):
    """A reporter as it shall be: one with the same name and terms stays as it is, else a new one is made."""

    name: str
    terms: object
    make: Callable[[], Reporter]


class Reporting:
    """All reporters at work. `drain_s`: how long they may go on after the end was called; `close` comes last.

    `names`: who gets each event; whoever writes events reads it each time, for `change` may replace what is in it.
    """

    def __init__(
        self,
        planned: Sequence[Planned],
        gate: OutboxGate,
        drain_s: float,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.reporters = [each.make() for each in planned]
        self.names = [each.name for each in planned]
        self.gate = gate
        self._terms = {each.name: each.terms for each in planned}
        self._started = self._counting = False
        self._drain_s = drain_s
        self._close = close
        self._tasks = Tasks()
        self._stop = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begin to deliver, and to count what waits."""
        self._started = True
        for each in self.reporters:
            self._begin(each, None)

    def make(self, planned: Sequence[Planned]) -> list[Reporter]:
        """The reporters that would be new, for `change`. Raises OSError or ValueError, and then nothing has changed."""
        return [each.make() for each in planned if self._terms.get(each.name) != each.terms]

    def change(self, planned: Sequence[Planned], made: Sequence[Reporter]) -> None:
        """Let these be the reporters from now on, and those made for it begin; the others end after their batch.

        Events that a former reporter did not deliver stay in the outbox.
        """
        new = {each.name: each for each in made}
        staying = {each.name: each for each in self.reporters if each.name not in new}
        wanted = {each.name for each in planned}
        leaving = [each for each in self.reporters if each.name in new or each.name not in wanted]
        for old in leaving:
            old.leaving = True
            old.wake.set()
            if old.name in new:
                new[old.name].follow(old)
        self.reporters = [new.get(name) or staying[name] for name in (each.name for each in planned)]
        self._terms = {each.name: each.terms for each in planned}
        self.names[:] = [each.name for each in planned]
        former = {old.name: (old, self._running[old.name]) for old in leaving} if self._started else {}
        if self._started:
            for name, reporter in new.items():
                # Two at once would deliver each event twice.
                self._begin(reporter, former.get(name))

    def _begin(self, reporter: Reporter, former: "tuple[Reporter, asyncio.Task[None]] | None") -> None:
        if not self._counting:
            self._counting = True
            self._tasks.spawn(self._count(), "usage-count")
        self._running[reporter.name] = self._tasks.spawn(self._run(reporter, former), f"usage-{reporter.name}")

    async def aclose(self) -> None:
        """Deliver what is due, for a bounded time, and end. What is not delivered stays in the outbox."""
        self._stop.set()
        for reporter in self.reporters:
            reporter.wake.set()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=self._drain_s)
        await self._tasks.aclose()
        for reporter in self.reporters:
            await reporter.aclose()
        self._close()

    async def _run(self, reporter: Reporter, former: "tuple[Reporter, asyncio.Task[None]] | None") -> None:
        if former is not None:
            await asyncio.wait([former[1]])
            reporter.follow(former[0])
        healthy = True
        while True:
            if reporter.leaving and not reporter.owes:
                await reporter.aclose()
                return
            stopping = self._stop.is_set()
            try:
                wait_s = await reporter.step()
                healthy = True
            except DatabaseError as error:
                if healthy:
                    _log.warning("%s: the outbox cannot be read or written: %s", reporter.name, error)
                healthy, wait_s = False, STORE_WAIT_S
            except Exception:
                _log.exception("%s: a batch failed", reporter.name)
                healthy, wait_s = False, STORE_WAIT_S
            if stopping and (reporter.idle or not healthy or reporter.health.state != "up"):
                return
            await self._wait(reporter, wait_s)

    async def _wait(self, reporter: Reporter, seconds: float) -> None:
        if reporter.wake.is_set():
            await asyncio.sleep(min(seconds, IDLE_S))
            return
        try:
            async with asyncio.timeout(seconds):
                await reporter.wake.wait()
        except TimeoutError:
            pass

    async def _count(self) -> None:
        while True:
            wait_s = await self.gate.count()
            await asyncio.sleep(wait_s)

    # --- metrics ---

    def successes(self) -> Series:
        """Webhook events delivered."""
        yield (), sum(each.delivered for each in self.reporters if each.kind == "webhook")

    def failures(self) -> Series:
        """Webhook rounds that failed."""
        yield (), sum(each.failed for each in self.reporters if each.kind == "webhook")

    def deliveries(self) -> Series:
        """By reporter and result."""
        for each in self.reporters:
            yield (each.name, "delivered"), each.delivered
            yield (each.name, "failed"), each.failed

    def states(self) -> Series:
        """1 for the state that each reporter is in."""
        for each in self.reporters:
            for state in ("up", "down", "paused"):
                yield (each.name, state), float(each.health.state == state)
