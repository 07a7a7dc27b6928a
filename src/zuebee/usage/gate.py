"""How full the outbox is, and what follows from it."""

import logging
from collections.abc import Iterable
from typing import Final, TypeAlias

from zuebee.contracts.errors import OUTBOX_FULL, Refusal
from zuebee.lib import clock
from zuebee.lib.sql.database import DatabaseError
from zuebee.usage.outbox import Outbox, Standing

COUNT_EVERY_S: Final = 1.0
COUNT_SHARE: Final = 50.0
"""A count that takes a second is made every 50 s: counting costs 2 % at most."""

COUNT_ROWS_PER_S: Final = 10_000
"""Where no other process adds to the outbox, counts are there for operators and for what they remove by hand: a long
one is counted so seldom that it takes 0.2 %, but every COUNT_AT_LEAST_EVERY_S.
"""

COUNT_AT_LEAST_EVERY_S: Final = 120.0

ALARM_SHARE: Final = 0.8
UNKNOWN: Final = float("nan")

Series: TypeAlias = Iterable[tuple[tuple[str, ...], float]]

_log: Final = logging.getLogger("zuebee.usage")


class OutboxGate:
    """Says whether the outbox has room. The figures are those of the last count, and what was added and removed since.

    With `refuse`, a full outbox refuses requests that would make more events; without, their events are not kept.
    """

    def __init__(self, outbox: Outbox, limit: int, *, refuse: bool) -> None:
        self.dropped = 0
        self._outbox = outbox
        self._limit = limit
        self._refuse = refuse
        self._standings: list[Standing] = []
        self._added = 0
        self._base = 0  # what there would be if this process had neither added nor removed anything
        self._alarm = False
        self._counted_at_s = UNKNOWN
        self._failures = 0
        self._failing = False

    @property
    def _size(self) -> int:
        return self._base + self._added - self._outbox.removed

    def refusal(self) -> Refusal | None:
        """Why no request can be let in that would make an event; None if it can."""
        return OUTBOX_FULL if self._size >= self._limit and self._refuse else None

    def added(self, rows: int) -> None:
        """So many rows were written just now."""
        self._added += rows

    def room_for(self, rows: int, *, billed: bool) -> bool:
        """Whether rows are to be written; if not, they are counted as dropped.

        `billed`: they tell of a request that a budget paid for. Under `refuse` those always find room: they were let
        in before it was full. All others are dropped by a full outbox, or it would have no bound. Never waits, and
        may be called by any thread.
        """
        if (billed and self._refuse) or self._size < self._limit:
            return True
        self.dropped += rows
        return False

    async def count(self) -> float:
        """Count what is there; in how many seconds to do so again. What cannot be counted stays as it was."""
        begun_s, added, counted = clock.monotonic_s(), self._added, 0
        try:
            self._standings = await self._outbox.standings()
        except DatabaseError as error:
            self._failures += 1
            if not self._failing:
                _log.warning("the outbox cannot be counted, its gauges are not up to date: %s", error)
            self._failing = True
        else:
            self._failing = False
            self._counted_at_s = clock.wall_s()
            # What came or went while it was counted may count as still there: the bound holds, until the next count.
            counted = sum(each.waiting + each.parked for each in self._standings)
            self._base = counted - added + self._outbox.removed
            self._warn()
        wait_s = max(COUNT_EVERY_S, COUNT_SHARE * (clock.monotonic_s() - begun_s))
        if self._outbox.shared:
            return wait_s
        return max(wait_s, min(counted / COUNT_ROWS_PER_S, COUNT_AT_LEAST_EVERY_S))

    def _warn(self) -> None:
        alarm = self._size >= ALARM_SHARE * self._limit
        if alarm and not self._alarm:
            _log.error("the outbox holds %d of at most %d events; then %s", self._size, self._limit,
                       "requests are refused" if self._refuse else "events are lost")  # fmt: skip
        self._alarm = alarm

    # --- metrics ---

    def sizes(self) -> Series:
        """Events that wait, by reporter."""
        return [((each.reporter,), each.waiting) for each in self._standings]

    def parked(self) -> Series:
        """Parked events, by reporter."""
        return [((each.reporter,), each.parked) for each in self._standings]

    def ages(self) -> Series:
        """Seconds since the oldest event that waits was made, by reporter."""
        now_s = clock.wall_s()
        found = [(each.reporter, each.oldest_at_s) for each in self._standings]
        return [((name,), 0.0 if at_s is None else max(0.0, now_s - at_s)) for name, at_s in found]

    def fill(self) -> Series:
        """The share of the limit that is taken: 1 is full. Not a number before the first count."""
        return [((), self._size / self._limit if self._is_counted else UNKNOWN)]

    def alarm(self) -> Series:
        """1 from 80 % on. Not a number before the first count."""
        return [((), float(self._alarm) if self._is_counted else UNKNOWN)]

    def counted_at(self) -> Series:
        """When it was counted last, in seconds since 1970. Not a number before."""
        return [((), self._counted_at_s)]

    def failures(self) -> Series:
        """Counts that failed."""
        return [((), self._failures)]

    @property
    def _is_counted(self) -> bool:
        return self._counted_at_s == self._counted_at_s  # unlike UNKNOWN

    def lost(self) -> Series:
        """Events that were not kept."""
        return [((), self.dropped)]
