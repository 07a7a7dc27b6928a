"""PURE. Counting against limits. Times come from the caller; nothing here waits or looks at a clock.

A counter knows no limit of its own: who takes says how much there may be, so that a changed limit keeps its counts.
`take` counts and answers 0, or counts nothing and answers the seconds until it would fit, had nothing else come.
"""

from collections import deque
from typing import Final

MAX_TIMES: Final = 10_000
SLOTS: Final = 60
"""A window of slots lets go of what it counted at most a 60th of its length late, and never early."""
LEASE_S: Final = 30.0
"""A permit that nobody renewed for so long is free again."""


class TimesWindow:
    """At most `limit` requests in any `window_s` seconds, exact: it remembers when each was. At most MAX_TIMES."""

    __slots__ = ("_times", "window_s")

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._times: deque[float] = deque()

    def take(self, limit: int, now_s: float) -> float:
        """Count one request."""
        times = self._times
        horizon = now_s - self.window_s
        while times and times[0] <= horizon:
            times.popleft()
        if len(times) >= limit:
            return times[len(times) - limit] - horizon
        times.append(now_s)
        return 0.0

    def undo(self) -> None:
        """The request that was counted last was none."""
        self._times.pop()

    def wait_s(self, limit: int, now_s: float) -> float:
        """What `take` would answer."""
        horizon = now_s - self.window_s
        inside = self.used(now_s)
        return self._times[len(self._times) - limit] - horizon if inside >= limit else 0.0

    def used(self, now_s: float) -> int:
        """How much is counted."""
        times = self._times
        while times and times[0] <= now_s - self.window_s:
            times.popleft()
        return len(times)

    def standing(self, now_s: float) -> tuple[int, float]:
        """How much is counted, and seconds until nothing is."""
        used = self.used(now_s)
        return used, self._times[-1] + self.window_s - now_s if used else 0.0

    def into_slots(self) -> "SlotWindow":
        """The same counts, for a limit that is too large to remember each request."""
        window = SlotWindow(self.window_s)
        for at_s in self._times:
            window.add(1, at_s)
        return window


class Slot:
    """What was counted within one 60th of a window; `index` is -1 once it is forgotten."""

    __slots__ = ("amount", "index")

    def __init__(self, index: int) -> None:
        self.index = index
        self.amount = 0


class SlotWindow:
    """At most `limit` in any `window_s` seconds, in a few slots whatever the limit. Counts requests or tokens."""

    __slots__ = ("_slot_s", "_slots", "_total", "last")

    def __init__(self, window_s: float) -> None:
        self._slot_s = window_s / SLOTS
        self._slots: deque[Slot] = deque()
        self._total = 0
        self.last = Slot(-1)

    def take(self, amount: int, limit: int, now_s: float) -> float:
        """Count `amount`; one beyond the whole limit counts as the limit, so that it fits when nothing else is there.

        Afterwards `last` is the slot that it went to, for `correct`.
        """
        index = int(now_s / self._slot_s)
        slots = self._slots
        while slots and slots[0].index < index - SLOTS:
            self._forget()
        if amount > limit:
            amount = limit
        if self._total + amount > limit:
            return self._until(amount, limit, now_s)
        last = self.last
        if last.index != index:
            self.last = last = Slot(index)
            slots.append(last)
        last.amount += amount
        self._total += amount
        return 0.0

    def add(self, amount: int, now_s: float) -> None:
        """Count, fit or not."""
        self.take(amount, self._total + amount, now_s)

    def undo(self, amount: int, limit: int) -> None:
        """What was counted last, with these arguments, was not."""
        self.correct(self.last, -min(amount, limit))

    def correct(self, slot: Slot, delta: int) -> None:
        """What was counted in `slot` was less by `-delta`: nothing if it is forgotten, never below zero."""
        if slot.index >= 0:
            delta = max(delta, -slot.amount)
            slot.amount += delta
            self._total += delta

    def wait_s(self, amount: int, limit: int, now_s: float) -> float:
        """What `take` would answer."""
        self._age(now_s)
        amount = min(amount, limit)
        return self._until(amount, limit, now_s) if self._total + amount > limit else 0.0

    def used(self, now_s: float) -> int:
        """How much is counted."""
        self._age(now_s)
        return self._total

    def standing(self, now_s: float) -> tuple[int, float]:
        """How much is counted, and seconds until nothing is."""
        slots = self._slots
        if slots and slots[0].index < int(now_s / self._slot_s) - SLOTS:
            self._age(now_s)
        total = self._total
        return total, (self.last.index + 1 + SLOTS) * self._slot_s - now_s if total else 0.0

    def _age(self, now_s: float) -> None:
        oldest = int(now_s / self._slot_s) - SLOTS
        while self._slots and self._slots[0].index < oldest:
            self._forget()

    def _forget(self) -> None:
        slot = self._slots.popleft()
        self._total -= slot.amount
        slot.index = -1

    def _end_of(self, slot: Slot) -> float:
        return (slot.index + 1 + SLOTS) * self._slot_s

    def _until(self, amount: int, limit: int, now_s: float) -> float:
        left = self._total
        for slot in self._slots:
            left -= slot.amount
            if left + amount <= limit:
                break
        # A float just below the edge of a slot is still in it.
        return max(self._end_of(slot) - now_s, 1e-6)


class TokenBucket:
    """`limit` a window on average and `burst` at once, as one time (GCRA): when the bucket is full again."""

    __slots__ = ("_full_at_s", "_window_s")

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._full_at_s = 0.0

    def take(self, amount: int, limit: int, burst: int, now_s: float) -> float:
        """Count `amount`; one beyond the burst counts as the burst."""
        each_s = self._window_s / limit
        full_at_s = max(self._full_at_s, now_s) + min(amount, burst) * each_s
        wait_s = full_at_s - now_s - burst * each_s
        if wait_s > 1e-9:
            return wait_s
        self._full_at_s = full_at_s
        return 0.0

    def correct(self, delta: int, limit: int) -> None:
        """What was counted was more by `delta`, or less."""
        self._full_at_s += delta * self._window_s / limit

    def wait_s(self, amount: int, limit: int, burst: int, now_s: float) -> float:
        """What `take` would answer."""
        each_s = self._window_s / limit
        wait_s = max(self._full_at_s, now_s) + min(amount, burst) * each_s - now_s - burst * each_s
        return wait_s if wait_s > 1e-9 else 0.0

    def used(self, limit: int, now_s: float) -> int:
        """How much is counted, rounded up."""
        return -int(-max(self._full_at_s - now_s, 0.0) * limit / self._window_s // 1)

    def standing(self, limit: int, now_s: float) -> tuple[int, float]:
        """How much is counted, and seconds until the bucket is full again."""
        return self.used(limit, now_s), max(self._full_at_s - now_s, 0.0)
