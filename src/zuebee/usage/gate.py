"""How full the outbox is, and what follows from it."""

import logging
from collections.abc import Iterable
from typing import TypeAlias

from zuebee.contracts.errors import OUTBOX_FULL, Refusal
from zuebee.kit import clock
from zuebee.kit.database import DatabaseError
from zuebee.usage.outbox import Outbox, Standing

COUNT_EVERY_S = 1.0
COUNT_SHARE = 50.0
"""A count that takes a second is made every 50 s: counting costs 2 % at most."""

ALARM_SHARE = 0.8

Series: TypeAlias = Iterable[tuple[tuple[str, ...], float]]

_log = logging.getLogger("zuebee.usage")


class OutboxGate:
    """Says whether the outbox has room. The figures are those of the last count and what was `added` since.

    With `refuse`, a full outbox refuses requests that would make more events; without, their events are not kept.
    """

    def __init__(self, outbox: Outbox, limit: int, *, refuse: bool) -> None:
        self.dropped = 0
        self._outbox = outbox
        self._limit = limit
        self._refuse = refuse
        self._standings: list[Standing] = []
        self._size = 0
        self._alarm = False

    @property
    def full(self) -> bool:
        """Whether no more events fit in."""
        return self._size >= self._limit

    def refusal(self) -> Refusal | None:
        """Why no request can be let in that would make an event; None if it can."""
        return OUTBOX_FULL if self._size >= self._limit and self._refuse else None

    def added(self, rows: int) -> None:
        """So many rows were written just now."""
        self._size += rows

    def room_for(self, rows: int) -> bool:
        """Whether these rows are to be written. If not (full, and `when_full: drop`), they are counted as dropped."""
        if self._refuse or self._size < self._limit:
            return True
        self.dropped += rows
        return False

    async def count(self) -> float:
        """Count what is there; in how many seconds to do so again. What cannot be counted stays as it was."""
        begun_s = clock.monotonic_s()
        try:
            self._standings = await self._outbox.standings()
        except DatabaseError as error:
            _log.debug("the outbox cannot be counted: %s", error)
        else:
            self._size = sum(each.waiting + each.parked for each in self._standings)
            self._warn()
        return max(COUNT_EVERY_S, COUNT_SHARE * (clock.monotonic_s() - begun_s))

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
        """The share of the limit that is taken: 1 is full."""
        return [((), self._size / self._limit)]

    def alarm(self) -> Series:
        """1 from 80 % on."""
        return [((), float(self._alarm))]

    def lost(self) -> Series:
        """Events that were not kept."""
        return [((), self.dropped)]
